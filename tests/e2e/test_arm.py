"""Artifacts for ARM, made here and run under QEMU: commands, bits, and what happens on the wrong machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optc
import pytest
from optc.backends.runtime.artifact import WrongHostError
from optc.backends.target import Target
from optc.tools.emulator import EmulatedError, Emulator
from quantized_models import attention, cnn, dynamically_quantized, normal, quantized
from small_models import Cli

Emulate = Callable[[str], Emulator]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", ["arm", "arm:armv7"])
def test_the_command_line_makes_an_artifact_that_arm_runs(
    target: str, cli: Cli, small: Path, tmp_path: Path, emulator: Emulate
) -> None:
    process = emulator(target)
    art = tmp_path / "small.optc"
    code, out, err = cli(small, "--target", target, "-o", art)
    assert code == 0, out + err
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    found = process.load(art).run({"x": x})["y"]
    np.testing.assert_allclose(found, optc.compile(small, cache=False)(x), rtol=1e-6)


def test_running_it_here_is_refused(cli: Cli, small: Path, tmp_path: Path, emulator: Emulate) -> None:
    emulator("arm")
    art = tmp_path / "small.optc"
    assert cli(small, "--target", "arm", "-o", art)[0] == 0
    code, _, err = cli("run", art)
    assert code == 5
    assert "aarch64" in err
    assert "--target cpu" in err


def test_python_gets_a_model_to_save(small: Path, tmp_path: Path, emulator: Emulate) -> None:
    process = emulator("arm:cortex-a76")
    model = optc.compile(small, target="arm:cortex-a76", cache=False)
    model.save(tmp_path / "m.optc")
    assert "arm:cortex-a76" in repr(model.manifest["target"])
    with pytest.raises(WrongHostError, match="another machine"):
        model(np.zeros((1, 4), "float32"))
    assert process.load(tmp_path / "m.optc").run({"x": np.zeros((1, 4), "float32")})["y"].shape == (1, 3)


@pytest.mark.parametrize("target", ["arm", "arm:cortex-a76", "arm:neoverse-v1", "arm:armv7"])
def test_quantized_models_give_the_bits_of_this_host(target: str, tmp_path: Path, emulator: Emulate) -> None:
    process = emulator(target)
    x = normal(2, 3, 12, 12)
    model = quantized(cnn(), [{"x": x}], "qdq", "u8", "s8", True)
    optc.compile(model, target=target, cache=False).save(tmp_path / "m.optc")
    expected = optc.compile(model, cache=False).run({"x": x})
    for name, array in process.load(tmp_path / "m.optc").run({"x": x}).items():
        np.testing.assert_array_equal(array, expected[name])


def test_scales_found_at_run_time(tmp_path: Path, emulator: Emulate) -> None:
    """The bias of such a product is computed, and what sdot leaves out is added all the same."""
    process = emulator("arm:cortex-a76")
    model, x = dynamically_quantized(attention(), "s8", True), normal(1, 6, 32)
    optc.compile(model, target="arm:cortex-a76", cache=False).save(tmp_path / "m.optc")
    expected = optc.compile(model, cache=False).run({"x": x})["y"]
    found = process.load(tmp_path / "m.optc").run({"x": x})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_core_without_the_features_refuses(small: Path, tmp_path: Path, emulator: Emulate) -> None:
    emulator("arm")
    optc.compile(small, target="arm:neoverse-v1", cache=False).save(tmp_path / "m.optc")
    with Emulator("arm", cpu="cortex-a53") as process, pytest.raises(EmulatedError, match=r"lacks: .*dotprod.* i8mm"):
        process.load(tmp_path / "m.optc")


def test_a_plain_host_program_runs_it(small: Path, tmp_path: Path, emulator: Emulate) -> None:
    """tools/runner, the C++ host without Python, built for aarch64."""
    triple = emulator("arm").target.triple
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if not (cmake and shutil.which("aarch64-linux-gnu-g++")):
        pytest.skip(f"no CMake or C++ compiler for {triple}: apt-get install cmake g++-aarch64-linux-gnu")
    optc.compile(small, target="arm", cache=False).save(tmp_path / "m.optc")
    tools = [f"-DCMAKE_{k}_COMPILER=aarch64-linux-gnu-{v}" for k, v in (("C", "gcc"), ("CXX", "g++"))]
    folder = tmp_path / "runner"
    configure = [cmake, "-S", ROOT / "tools" / "runner", "-B", folder, "-DCMAKE_SYSTEM_NAME=Linux", *tools]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run([cmake, "--build", folder], check=True, capture_output=True)
    program = folder / "optc_runner"
    np.save(tmp_path / "x.npy", np.ones((2, 4), "float32"))
    command = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu", program, tmp_path / "m.optc"]
    subprocess.run([*command, "--input", f"x={tmp_path / 'x.npy'}", "--output", tmp_path], check=True)
    expected = optc.compile(small, cache=False)(np.ones((2, 4), "float32"))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-6)


def test_the_code_needs_the_c_library_alone(small: Path, tmp_path: Path, emulator: Emulate) -> None:
    emulator("arm")
    model = optc.compile(small, target="arm", cache=False)
    model.save(tmp_path / "m.optc")
    assert Target.parse("arm").triple in model.manifest["target"]["triple"]
    data = (tmp_path / "m.optc").read_bytes()
    assert b"libtvm" not in data
    assert b"__TVMFFI" not in data
