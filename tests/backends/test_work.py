"""How much work a step is, and that threads are for those worth it."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers import graph_of
from optc.backends.cpu import lower
from optc.backends.steps import Kernel
from optc.backends.target import LEVELS, Target
from optc.compiler.driver import compile, optimize
from optc.compiler.onnx.exporter import export_model
from optc.compiler.types import Dim, symbol

MATMUL = """
graph main(%x: f32[N,256]) {
  %w: f32[256,256] = const random(1)
  %y = MatMul(%x, %w)
  return %y
}
"""


def work_of(text: str, target: Target) -> Dim:
    graph = graph_of(text)
    optimize(graph)
    (step,) = (s for s in lower(graph, target).steps if isinstance(s, Kernel))
    assert step.work is not None
    return step.work


def test_work_grows_with_the_dims() -> None:
    work = work_of(MATMUL, LEVELS["x86-64-v4"])
    assert not isinstance(work, int)
    few, many = (float(work.subs({symbol("N"): n})) for n in (1, 1024))
    assert few < 40_000  # the weights from the cache
    assert 1024 * 256 * 256 / 100 < many < 1024 * 256 * 256 / 30


def test_narrow_vectors_take_longer() -> None:
    text = MATMUL.replace("[N,256]", "[512,256]")
    wide, narrow = work_of(text, LEVELS["x86-64-v4"]), work_of(text, LEVELS["x86-64-v3"])
    assert isinstance(wide, int)
    assert isinstance(narrow, int)
    assert wide < narrow < 2.2 * wide


def test_transcendental_functions_count() -> None:
    plain, steep = (work_of(f"graph main(%x: f32[64,64]) {{ %y = {op}(%x) return %y }}", Target.host())
                    for op in ("Neg", "Erf"))  # fmt: skip
    assert isinstance(plain, int)
    assert steep == plain + 64 * 64 // 3


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of this process")
def test_only_work_that_pays_starts_a_thread() -> None:
    model = compile(export_model(graph_of(MATMUL)), threads=2, cache=False)
    before = len(os.listdir("/proc/self/task"))
    model(np.ones((1, 256), np.float32))
    assert len(os.listdir("/proc/self/task")) == before
    model(np.ones((2048, 256), np.float32))
    assert len(os.listdir("/proc/self/task")) == before + 1
