"""A worker whose kernels are made up: what a candidate's text says happens, and its time is its number of rows."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
from optc.backends.target import Target
from optc.backends.tuning import worker
from optc.backends.tuning.measure import Built, Timing
from optc.backends.tuning.space import features
from optc.compiler.types import DType


def build(text: str, candidate: str, target: Target, threads: int) -> Built:
    if "crash" in candidate:
        os.kill(os.getpid(), signal.SIGSEGV)
    while "hang" in candidate:
        pass
    if "refuse" in candidate:
        raise ValueError("no such kernel")
    time.sleep(0.02)
    rows = features(candidate).get("rows", 1.0)
    return Built([lambda: None], np.array([0.0 if "wrong" in candidate else rows * 0 + 1]), DType.F32)


def build_noted(text: str, candidate: str, target: Target, threads: int) -> Built:
    """The kernel, with its time where `compare` finds it."""
    built = build(text, candidate, target, threads)
    _rows[id(built.calls)] = features(candidate).get("rows", 1.0)
    return built


def compare(first: Built, second: Built, seconds: float) -> Timing:
    a, b = (_rows[id(built.calls)] for built in (first, second))
    return Timing(a * 1e-3, b * 1e-3, b / a)


_rows: dict[int, float] = {}
worker.build, worker.compare = build_noted, compare

if __name__ == "__main__":
    worker.main()
