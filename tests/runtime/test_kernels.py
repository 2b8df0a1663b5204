"""TVM's object files in the runtime: their parallel loops run on the context's threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from optc.backends.codegen import compile_kernels
from optc.backends.runtime.artifact import read_artifact, write_artifact
from optc.backends.runtime.model import load
from optc.backends.runtime.toolchain import link
from optc.backends.target import Target
from tvm.script import tirx as T

PROGRAM = (Path(__file__).parent / "programs" / "add.c").read_text()


def parallel_add() -> Any:
    @T.prim_func(s_tir=True)
    def add(
        x: T.Buffer((1, 8), "float32"),  # type: ignore[valid-type]
        y: T.Buffer((1, 8), "float32"),  # type: ignore[valid-type]
        z: T.Buffer((1, 8), "float32"),  # type: ignore[valid-type]
    ) -> None:
        for i in T.parallel(8):
            z[0, i] = x[0, i] + y[0, i]

    return add


def test_parallel_loops_of_two_objects(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    objects = [compile_kernels({name: parallel_add()}, Target.host()) for name in ("first", "second")]
    body = "static int32_t add(const float* x, const float* y, float* z) {"
    calls = "int first(const float*, const float*, float*), second(const float*, const float*, float*);\n"
    source = PROGRAM.replace(body, calls + body + "\n  if (first(x, y, z)) return 4;\n  return second(x, z, z);")
    link(source, objects, [], tmp_path / "code.so")
    write_artifact(tmp_path / "a.optc", read_artifact(artifact("add")).manifest, tmp_path / "code.so", [])
    x, y = np.random.default_rng(0).random((2, 1, 8), np.float32)
    for threads in (1, 2, 3):
        model = load(tmp_path / "a.optc", threads)
        for _ in range(20):
            np.testing.assert_array_equal(model(x, y), x + (x + y))
