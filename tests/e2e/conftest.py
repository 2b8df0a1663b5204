"""A command line to call, a small model to call it with, and an empty cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, save
from optc.tools.cli.main import main
from small_models import Cli, make_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "optc-cache"))


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs `optc ARGS...` in this process; returns exit code, stdout, stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        code = main([str(a) for a in args])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """y = relu(x w + b) with x [N, 4]."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3)).astype("float32"), "b": rng.standard_normal(3).astype("float32")}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="dense"),
        helper.make_node("Relu", ["h"], ["y"], name="act"),
    ]
    path = tmp_path / "small.onnx"
    save(make_model(nodes, weights, ["N", 4]), path)
    return path
