"""What loading and running a model adds to a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import optc
import pytest
from helpers import graph_of
from optc.compiler.onnx.exporter import export_model
from optc.tools.memory_bench import MB, Row

SIDE = 4096  # of the weights: 64 MB
GRAPH = f"graph main(%x: f32[1,{SIDE}]) {{ %w: f32[{SIDE},{SIDE}] = const 0.5 %y = MatMul(%x, %w) return %y }}"


def test_ratio() -> None:
    assert Row("m", plan=1, optc=10, onnxruntime=40).ratio == 0.25


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks the kernel")
@pytest.mark.parametrize("system", ["optc", "onnxruntime"])
def test_growth_holds_the_weights(system: str, tmp_path: Path) -> None:
    proto = export_model(graph_of(GRAPH))
    if system == "optc":
        optc.compile(proto, threads=1, cache=False).save(tmp_path / "model")
    else:
        onnx.save(proto, tmp_path / "model")
    np.savez(tmp_path / "feed.npz", x=np.ones((1, SIDE), np.float32))
    child = [sys.executable, "-m", "optc.tools.memory_bench", "--child", system]
    done = subprocess.run([*child, tmp_path / "model", tmp_path / "feed.npz", "1"], capture_output=True, check=True)
    assert 60 * MB < int(done.stdout) < 200 * MB
