"""tools/runner: built with CMake, it runs artifacts without Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).parents[2] / "tools" / "runner"
Built = Callable[[str], Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("runner")
    subprocess.run([cmake, "-S", SOURCE, "-B", folder], check=True, capture_output=True)
    subprocess.run([cmake, "--build", folder], check=True, capture_output=True)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [folder / "optc_runner", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return call


def test_inputs_and_outputs_are_npy_files(run: Run, artifact: Built, tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((2, 5, 3), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    inputs = ("--input", f"x={tmp_path / 'x.npy'}", "--input", f"y={tmp_path / 'y.npy'}")
    done = run(artifact("chain"), *inputs, "--output", tmp_path, "--threads", 2, "--repeat", 5)
    assert done.returncode == 0, done.stderr
    assert "z: float32[5,3]" in done.stdout
    assert "5 runs on 2 threads: median" in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), 2 * (x + np.float32(10)) + y)


def test_random_inputs_and_named_dims(run: Run, artifact: Built) -> None:
    assert "z: float32[4,1]" in run(artifact("chain"), "--dim", "N=4").stdout
    assert "c: float16[2]\nd: bool[0,3]" in run(artifact("types")).stdout


def test_outputs_sized_by_data(run: Run, artifact: Built, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.float32([0, 2, 0, 3]))
    done = run(artifact("nonzero"), "--input", f"x={tmp_path / 'x.npy'}", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "indices.npy").tolist() == [1, 3]
    assert np.load(tmp_path / "total.npy") == 2


def test_each_fault_has_its_exit_code(run: Run, artifact: Built, write: Callable[..., None], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    write(tmp_path / "features.optc", "add", cflags=['-DFEATURES="avx4096"'])
    data = artifact("chain").read_bytes()
    (tmp_path / "half.optc").write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(artifact("chain")) as archive:
        after_code = archive.getinfo("weights.bin").header_offset
        after_weights = archive.getinfo("manifest.json").header_offset
    for name, place in (("code", after_code // 2), ("weights", after_weights - 1)):
        (tmp_path / f"{name}.optc").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for arguments, code, message in (
        ([], 2, "usage"),
        ([artifact("add"), "--input", "q=x.npy"], 2, 'no input "q"'),
        ([artifact("add"), "--threads", "many"], 2, "expected a number"),
        (
            [artifact("add"), "--input", f"x={tmp_path / 'x.npy'}"],
            3,
            'input "x": expected float32[1,8], found float64[3]',
        ),
        ([artifact("add"), "--input", f"x={tmp_path / 'missing.npy'}"], 3, "cannot open"),
        ([tmp_path / "half.optc"], 3, "truncated"),
        ([tmp_path / "code.optc"], 3, "the file is damaged: code.so"),
        ([tmp_path / "weights.optc"], 3, "weights.bin has another checksum"),
        ([tmp_path / "features.optc"], 5, "lacks: avx4096"),
    ):
        done = run(*arguments)
        assert (done.returncode, message in done.stderr) == (code, True), (arguments, done)
