"""Kernels of the CPU as launches of a grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from optc.backends.cuda.grid import BLOCK, launches
from optc.backends.cuda.target import CudaTarget
from optc.backends.kernels.builder import KernelBuilder, buffer
from tvm import tirx

from .emulation import load

N = tirx.Var("N", "int64")


def prefix_doubled(size: int) -> object:
    """y = 2 x by a thread an element, then y[0] = the sum of y by one thread."""
    kb = KernelBuilder()
    x, y = buffer("x", (size,)), buffer("y", (size,))
    source, out = kb.flat(x), kb.flat(y)
    with kb.loop(size, "i", parallel=True) as i:
        kb.store(out, i, kb.load(source, i) * tirx.FloatImm("float32", 2.0))
    with kb.loop(size - 1, "j") as j:
        kb.store(out, 0, kb.load(out, 0) + kb.load(out, j + 1))
    return kb.finish([x, y])


@pytest.fixture(scope="module")
def run() -> Callable[..., None]:
    return load({"small": prefix_doubled(5), "large": prefix_doubled(300)}, CudaTarget.of("cuda:sm_80"))


@pytest.mark.parametrize(("name", "size"), [("small", 5), ("large", 300)])
def test_launches_run_in_order(name: str, size: int, run: Callable[..., None]) -> None:
    x, y = np.arange(1, size + 1, dtype="float32"), np.zeros(size, "float32")
    run(name, x, y)
    assert y[0] == 2 * x.sum()
    np.testing.assert_array_equal(y[1:], 2 * x[1:])


def test_a_parallel_loop_has_a_thread_an_iteration() -> None:
    parallel, serial = launches("k", prefix_doubled(300))
    assert (parallel.grid[0], parallel.block[0]) == (-(-300 // BLOCK), BLOCK)
    assert (serial.grid, serial.block) == ((1, 1, 1), (1, 1, 1))


def test_a_grid_may_depend_on_dims() -> None:
    kb = KernelBuilder()
    y = buffer("y", (N,))
    out = kb.flat(y)
    with kb.loop(N, "i", parallel=True) as i:
        kb.store(out, i, tirx.FloatImm("float32", 1.0))
    (only,) = launches("k", kb.finish([y]))
    assert not isinstance(only.grid[0], int)
    assert only.block[0] == BLOCK
