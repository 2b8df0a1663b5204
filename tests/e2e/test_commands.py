"""The commands on a real model, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import optc
import pytest
from optc.compiler.ir import Node
from small_models import Cli

MODEL = Path(optc.__file__).parent / "models" / "fashion_cnn.onnx"


@pytest.fixture
def artifact(cli: Cli, tmp_path: Path) -> Path:
    path = tmp_path / "fashion.optc"
    code, _, err = cli(MODEL, "-o", path, "--quiet")
    assert code == 0, err
    return path


def test_compile_prints_one_summary(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli(MODEL, "-o", tmp_path / "f.optc")
    assert code == 0
    for word in ("graph", "code", "parameters", "MACs", "artifact"):
        assert word in out


def test_json_is_one_object(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli(MODEL, "-o", tmp_path / "f.optc", "--json")
    assert code == 0
    assert json.loads(out)["nodes_before"] > 0


def test_the_same_model_gives_the_same_bytes(cli: Cli, tmp_path: Path, small: Path) -> None:
    for name in ("a", "b"):
        assert cli(small, "-o", tmp_path / name, "--quiet", "--no-cache")[0] == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_run_writes_outputs(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code, out, _ = cli("run", artifact, "--input", f"image={tmp_path / 'x.npy'}", "-o", tmp_path / "y.npz")
    assert code == 0
    assert "logits" in out
    expected = onnxruntime.InferenceSession(MODEL).run(None, {"image": x})[0]
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["logits"], expected, atol=1e-4)


def test_verify_passes(cli: Cli, artifact: Path) -> None:
    code, out, _ = cli("verify", artifact, MODEL, "--shape", "image=3x1x28x28")
    assert code == 0
    assert "ok" in out


def test_verify_names_what_departs(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    other = onnx.load(MODEL)
    tensor = next(t for t in other.graph.initializer if t.name.startswith("head"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    onnx.save(other, tmp_path / "other.onnx")
    code, _, err = cli("verify", artifact, tmp_path / "other.onnx")
    assert code == 5
    assert "logits" in err


def test_bench_prints_ratios(cli: Cli, artifact: Path) -> None:
    code, out, _ = cli("bench", artifact, MODEL, "--vs", "onnxruntime", "--rounds", "3")
    assert code == 0
    assert "onnxruntime" in out


def test_bench_profiles_every_step_beside_its_roofline(cli: Cli, artifact: Path) -> None:
    code, out, _ = cli("bench", artifact, "--rounds", "2", "--profile", "--json")
    assert code == 0
    (result,) = json.loads(out)["results"]
    found = result["profile"]
    assert {"f32", "L2", "memory"} <= found["ceilings"].keys()
    conv = next(step for step in found["steps"] if step["op"] == "Conv")
    assert conv["macs"] > 0
    assert conv["share"] > 0
    assert sum(part["steps"] for part in found["bounds"].values()) == len(found["steps"])


def test_bench_in_int8_quantizes_the_peers_with_the_same_samples(cli: Cli, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((4, 1, 28, 28), np.float32)
    np.savez(tmp_path / "d.npz", image=x)
    options = ["--precision", "int8", "--calib", tmp_path / "d.npz", "--shape", "image=1x1x28x28", "--rounds", "2"]
    code, out, _ = cli("bench", MODEL, *options, "--vs", "onnxruntime")
    assert code == 0
    assert "onnxruntime-int8" in out


def test_bench_refuses_unknown_precisions_and_data_it_would_not_use(cli: Cli, tmp_path: Path) -> None:
    assert cli("bench", MODEL, "--precision", "int4")[0] == 2
    assert cli("bench", MODEL, "--calib", tmp_path / "d.npz")[0] == 2


def test_inspect_compiles_nothing(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("inspect", MODEL)
    assert code == 0
    assert "Conv" in out
    assert "compiles" in out


def test_simplify_keeps_dynamic_dims_and_results(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "s.onnx"
    assert cli("simplify", MODEL, "-o", out)[0] == 0
    x = np.random.default_rng(0).standard_normal((5, 1, 28, 28)).astype(np.float32)
    a, b = (onnxruntime.InferenceSession(p).run(None, {"image": x})[0] for p in (MODEL, out))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_targets_lists_this_host(cli: Cli) -> None:
    code, out, _ = cli("targets")
    assert code == 0
    assert "x86-64-v3" in out
    assert "arm:cortex-a76" in out


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_lower_levels_run_here(cli: Cli, tmp_path: Path, level: str) -> None:
    path = tmp_path / "level.optc"
    code, _, err = cli(MODEL, "--target", f"cpu:{level}", "-o", path, "--quiet")
    assert code == 0, err
    assert cli("verify", path, MODEL)[0] == 0


def test_python_api_takes_bytes_and_arrays_by_position_or_name() -> None:
    model = optc.compile(MODEL.read_bytes(), shapes={"image": (1, 1, 28, 28)}, threads=2)
    x = np.zeros((1, 1, 28, 28), np.float32)
    np.testing.assert_array_equal(model(x), model(image=x))
    assert "fashion" in model.summary()


def test_fallback_runs_what_cannot_be_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    from optc.backends import cpu

    def refuses_relu(self: object, node: Node, **kwargs: object) -> object:
        return iter(self.refuse(node, "by this test") if node.op == "Relu" else lower_node(self, node, **kwargs))  # type: ignore[attr-defined]

    lower_node = cpu.Lowering.node_steps
    monkeypatch.setattr(cpu.Lowering, "node_steps", refuses_relu)
    monkeypatch.setattr(cpu.Lowering, "is_pointwise", lambda self, node: False)
    model = optc.compile(MODEL, fallback="onnxruntime", cache=False)
    assert model.manifest["fallback"]
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
    expected = onnxruntime.InferenceSession(MODEL).run(None, {"image": x})[0]
    np.testing.assert_allclose(model(x), expected, atol=1e-4)


def test_python_api_says_what_this_version_has_not() -> None:
    with pytest.raises(optc.UnsupportedError, match="this version"):
        optc.compile(MODEL, fp16=True)
