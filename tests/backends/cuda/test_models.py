"""Whole models for GPUs, run in emulation: the driver's calls, every kernel, the same bits in int8 as on a CPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import optc
import pytest
from optc import models
from optc.backends.cuda import build
from optc.backends.cuda.toolchain import Usage
from optc.compiler import driver
from optc.compiler.options import Options

from .emulation import emulated

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
FAT_BINARY = bytes.fromhex("50ed55ba") + bytes(60)


@pytest.fixture(autouse=True)
def no_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fat binary of which the fake driver sees the magic only: the emulated kernels come from the source."""

    def assemble(source: str, architectures: object) -> tuple[bytes, list[Usage]]:
        return FAT_BINARY, []

    monkeypatch.setattr(build, "assemble", assemble)


def images(count: int) -> dict[str, np.ndarray]:
    example = models.get("fashion-cnn").inputs()
    rng = np.random.default_rng(0)
    return {name: rng.random((count, *value.shape[1:])).astype(value.dtype) for name, value in example.items()}


def compiled(options: Options, out: Path) -> Path:
    driver.compile_to(models.get("fashion-cnn").path(), out, options, cache=False)
    return out


def both(tmp_path: Path, samples: dict[str, np.ndarray], int8: bool = False) -> list[np.ndarray]:
    """The logits by the CPU and by the emulated GPU."""
    cpu = optc.load(compiled(Options("cpu:x86-64-v2", int8=int8), tmp_path / "cpu.optc"))
    artifact = compiled(Options("cuda:sm_80", int8=int8), tmp_path / "cuda.optc")
    with emulated(artifact):
        gpu = optc.load(artifact)
        return [next(iter(model.run(samples).values())) for model in (cpu, gpu)]


def test_floats(tmp_path: Path) -> None:
    expected, found = both(tmp_path, images(3))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_int8_has_the_bits_of_the_cpu(tmp_path: Path) -> None:
    expected, found = both(tmp_path, images(2), int8=True)
    np.testing.assert_array_equal(found, expected)
