"""Code generation: the C interface, dims, alignment, stack arrays, and floats left as they are written."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from optc.backends.codegen import compile_kernels, signature
from optc.backends.jit import jit
from optc.backends.kernels.builder import KernelBuilder, buffer, i64, splat
from optc.backends.kernels.vmath import exp
from optc.backends.target import Target
from tvm import te, tirx


def scaled(rows: Any, columns: int = 8, parallel: bool = False) -> Any:
    """y = 2 x, by vectors of a whole row."""
    kb = KernelBuilder()
    x, y = buffer("x", (rows, columns)), buffer("y", (rows, columns))
    with kb.loop(rows, "row", parallel=parallel) as row:
        value = kb.load(kb.flat(x), row * columns, columns)
        kb.store(kb.flat(y), row * columns, value * splat(2.0, columns), columns)
    return kb.finish([x, y])


def test_signature_gives_buffers_then_dims() -> None:
    n = tirx.Var("n", "int64")
    known = signature(scaled(n))
    assert [b.name for b in known.buffers] == ["x", "y"]
    assert [d.name for d in known.dims] == ["n"]
    assert known.workspace is None


def test_exports_plain_c_functions_and_needs_nothing_of_tvm(tmp_path: Path) -> None:
    path = tmp_path / "k.o"
    path.write_bytes(compile_kernels({"one": scaled(4), "two": scaled(5)}, Target.host()))
    symbols = subprocess.run(["nm", str(path)], check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in symbols.splitlines()]
    assert {"one", "two"} <= {line[-1] for line in lines if line[-2] == "T"}
    assert not [line for line in lines if line[0] == "U"]


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_symbolic_dims_are_arguments(rows: int) -> None:
    x = np.arange(rows * 8, dtype="float32").reshape(rows, 8)
    y = np.empty_like(x)
    jit({"f": scaled(tirx.Var("n", "int64"))})["f"](x, y)
    np.testing.assert_array_equal(y, 2 * x)


def test_memory_needs_no_alignment_beyond_its_elements() -> None:
    raw, out = np.zeros(33 * 8, "float32"), np.zeros(33 * 8, "float32")
    kernel = jit({"f": scaled(4, 16)})["f"]
    for shift in range(16):
        x = raw[shift : shift + 64].reshape(4, 16)
        y = out[shift : shift + 64].reshape(4, 16)
        x[...] = shift
        kernel(x, y)
        assert (y == 2 * shift).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_parallel_loops_cover_their_range(threads: int) -> None:
    x = np.random.default_rng(0).standard_normal((37, 8), dtype="float32")
    y = np.empty_like(x)
    jit({"f": scaled(37, parallel=True)}, threads=threads)["f"](x, y)
    np.testing.assert_array_equal(y, 2 * x)


def test_functions_made_of_blocks_are_lowered_too() -> None:
    a = te.placeholder((16, 10), name="a")
    func = te.create_prim_func([a, te.compute((16, 10), lambda i, j: a[i, j] + te.const(1, "float32"), name="b")])
    x = np.random.default_rng(0).standard_normal((16, 10), dtype="float32")
    y = np.empty_like(x)
    jit({"f": func})["f"](x, y)
    np.testing.assert_array_equal(y, x + 1)


def test_floats_are_not_simplified_as_reals() -> None:
    kb = KernelBuilder()
    x, y = buffer("x", (1,)), buffer("y", (1,))
    big = tirx.FloatImm("float32", 2.0**24)
    kb.store(kb.flat(y), 0, kb.load(kb.flat(x), 0) + big - big)
    out = np.empty(1, "float32")
    jit({"f": kb.finish([x, y])})["f"](np.array([0.3], "float32"), out)
    assert out[0] == 0.0


def test_vectorised_loops_over_several_dims_stay_contiguous() -> None:
    x, y = buffer("x", (8, 32)), buffer("y", (8, 32))
    i, j = tirx.Var("i", "int64"), tirx.Var("j", "int64")
    body: Any = tirx.BufferStore(y, tirx.BufferLoad(x, [i, j]) + tirx.BufferLoad(x, [i, j]), [i, j])
    body = tirx.For(j, i64(0), i64(32), tirx.ForKind.VECTORIZED, body)
    func = tirx.PrimFunc([x, y], tirx.For(i, i64(0), i64(8), tirx.ForKind.SERIAL, body))
    data = np.random.default_rng(0).standard_normal((8, 32), dtype="float32")
    out = np.empty_like(data)
    jit({"f": func})["f"](data, out)
    np.testing.assert_array_equal(out, 2 * data)


def test_a_binding_in_a_branch_does_not_run_when_the_branch_is_not_taken() -> None:
    kb = KernelBuilder()
    x, y = buffer("x", (4,)), buffer("y", (8,))
    with kb.loop(8) as i:
        far = tirx.if_then_else(i < 4, exp(kb.load(kb.flat(x), i * (1 << 40) * tirx.Cast("int64", i >= 4) + i)), 0.0)
        kb.store(kb.flat(y), i, far)
    out = np.empty(8, "float32")
    jit({"f": kb.finish([x, y])})["f"](np.zeros(4, "float32"), out)
    np.testing.assert_array_equal(out, [1, 1, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_other_levels_compile(level: str) -> None:
    assert compile_kernels({"f": scaled(4)}, Target.parse(f"cpu:{level}"))[:4] == b"\x7fELF"


def test_tvm_is_the_pinned_one() -> None:
    assert tvm.__version__.startswith("0.27.")
