"""Wrong input: its exit code, one clear message on stderr, and no file left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optc
import pytest
from onnx import TensorProto, helper, load, save
from small_models import Cli, make_model


def refused(cli: Cli, tmp_path: Path, code: int, *words: str, model: Path, extra: tuple[str, ...] = ()) -> None:
    """Compiling fails with this code and one message that holds these words; the folder is as it was."""
    before = sorted(p.name for p in tmp_path.iterdir())
    found, out, err = cli(model, "-o", tmp_path / "out.optc", "--quiet", *extra)
    assert found == code, err
    assert out == ""
    assert err.count("optc: error:") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_truncated_model(cli: Cli, tmp_path: Path, small: Path) -> None:
    model = tmp_path / "cut.onnx"
    model.write_bytes(small.read_bytes()[:-20])
    refused(cli, tmp_path, 3, "cut.onnx", model=model)


def test_text_file(cli: Cli, tmp_path: Path) -> None:
    model = tmp_path / "notes.onnx"
    model.write_text("these are not the weights you are looking for\n")
    refused(cli, tmp_path, 3, "notes.onnx", model=model)


def test_no_such_file(cli: Cli, tmp_path: Path) -> None:
    refused(cli, tmp_path, 3, "missing.onnx", model=tmp_path / "missing.onnx")


def test_cycle(cli: Cli, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    nodes.append(helper.make_node("Relu", ["a"], ["y"]))
    model = tmp_path / "cycle.onnx"
    save(make_model(nodes, {}, [2]), model)
    refused(cli, tmp_path, 3, "cycle", "first", "second", model=model)


def test_missing_initializer(cli: Cli, tmp_path: Path, small: Path) -> None:
    proto = load(small)
    del proto.graph.initializer[0]
    model = tmp_path / "partial.onnx"
    save(proto, model)
    refused(cli, tmp_path, 3, "w", "dense", model=model)


def test_unknown_domain(cli: Cli, tmp_path: Path) -> None:
    proto = make_model([helper.make_node("Magic", ["x"], ["y"], name="trick", domain="com.example")], {}, [2])
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    model = tmp_path / "magic.onnx"
    save(proto, model)
    refused(cli, tmp_path, 4, "trick", "com.example", model=model)


def test_external_data_outside_the_folder(cli: Cli, tmp_path: Path, small: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    inner = tmp_path / "inner"
    inner.mkdir()
    proto = load(small)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    model = inner / "escape.onnx"
    model.write_bytes(proto.SerializeToString())
    refused(cli, tmp_path, 3, "external data", model=model)


def test_nan_weights_compile_with_a_note(cli: Cli, tmp_path: Path) -> None:
    weights = {"w": np.array([1.0, np.nan], np.float32)}
    model = tmp_path / "nan.onnx"
    save(make_model([helper.make_node("Mul", ["x", "w"], ["y"])], weights, [2]), model)
    code, out, err = cli(model)
    assert code == 0, err
    assert "w" in out
    assert "NaN" in out or "nan" in out or "finite" in out


def test_zero_size_dim(cli: Cli, tmp_path: Path, small: Path) -> None:
    assert cli(small, "-o", tmp_path / "s.optc", "--quiet")[0] == 0
    result = optc.load(tmp_path / "s.optc").run({"x": np.zeros((0, 4), np.float32)})
    assert result["y"].shape == (0, 3)


@pytest.mark.parametrize(
    ("array", "words"),
    [(np.zeros((1, 4)), "float64"), (np.zeros(4, np.float32), "[4]"), (np.zeros((1, 5), np.float32), "[1, 5]")],
    ids=["dtype", "rank", "shape"],
)
def test_wrong_array_at_run_time(cli: Cli, tmp_path: Path, small: Path, array: np.ndarray, words: str) -> None:
    art = tmp_path / "s.optc"
    assert cli(small, "-o", art, "--quiet")[0] == 0
    np.save(tmp_path / "x.npy", array)
    code, _, err = cli("run", art, "--input", f"x={tmp_path / 'x.npy'}")
    assert code == 3
    assert "x" in err
    assert words in err


def test_unknown_option_value(cli: Cli, tmp_path: Path, small: Path) -> None:
    refused(cli, tmp_path, 5, "unknown target", model=small, extra=("--target", "z80"))
    refused(cli, tmp_path, 2, "NAME=", model=small, extra=("--shape", "x"))


def test_what_a_later_version_brings(cli: Cli, tmp_path: Path, small: Path) -> None:
    refused(cli, tmp_path, 4, "version", model=small, extra=("--fp16",))


def test_a_full_disk(tmp_path: Path, small: Path) -> None:
    """A file-size limit stands for the disk: both fail in write with an OSError."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from optc.tools.cli.main import main; import optc.compiler.driver as d, tempfile\n"
        "out = sys.argv[2]\n"
        "assert main([sys.argv[1], '-o', out + '.first', '--quiet']) == 0\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "sys.exit(main([sys.argv[1], '-o', out, '--quiet']))"
    )
    out = tmp_path / "full.optc"
    done = subprocess.run([sys.executable, "-c", code, small, out], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("optc: error:") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full.optc.first", "small.onnx"]


def test_interrupt_while_compiling(tmp_path: Path) -> None:
    model = Path(optc.__file__).parent / "models" / "fashion_cnn.onnx"
    environment = os.environ | {"OPTC_CACHE_DIR": str(tmp_path / "cache")}
    out = tmp_path / "out" / "f.optc"
    out.parent.mkdir()
    command = [sys.executable, "-m", "optc.tools.cli.main", str(model), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if "kernel" in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert rest.splitlines()[-1] == "optc: interrupted"
    assert list(out.parent.iterdir()) == []
    assert list((tmp_path / "cache" / "artifacts").glob("*")) == []
