"""A table of 256 bytes, looked up by bytes: y = table[x].

AVX512-VBMI finds 64 of them at a time: one permutation for each half of the table, and the index's highest bit chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from ..target import Target
from .builder import Dim, Expr, KernelBuilder, buffer, ceildiv, floordiv, i64, known, minimum, product
from .exprs import cast_raw, like
from .matmul import guess

PARALLEL_BYTES = 1 << 17
"""Smaller tensors are looked up on one thread."""
_LANES = 64
_PERMUTE = "llvm.x86.avx512.vpermi2var.qi.512"


@dataclass(frozen=True)
class TableSpec:
    """The shape of x."""

    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class TablePlan:
    """`share` bytes are a task's, `lanes` of them are looked up at a time."""

    lanes: int
    share: int
    parallel: bool


def plans(spec: TableSpec, target: Target) -> Iterator[TablePlan]:
    """Legal plans, the best guess first."""
    size = 1
    for dim in spec.shape:
        size *= guess(dim)
    parallel = target.num_cores > 1 and size >= PARALLEL_BYTES
    if target.has("avx512vbmi"):
        yield TablePlan(_LANES, 1 << 15, parallel)
    yield TablePlan(1, 1 << 13, parallel)


def build(spec: TableSpec, plan: TablePlan) -> Any:
    """The kernel. Params: x, table [256], y, all uint8."""
    kb = KernelBuilder()
    x, y = (buffer(name, spec.shape or (1,), "uint8") for name in "xy")
    table = buffer("table", (256,), "uint8")
    source, entries, target = kb.flat(x), kb.flat(table), kb.flat(y)
    size = known(product(spec.shape))

    def look_up(start: Expr, count: Dim) -> None:
        whole = kb.let(floordiv(count, plan.lanes), "whole")
        with kb.loop(whole, "v") as v:
            at = kb.let(start + v * plan.lanes, "at")
            kb.store(target, at, _find(kb, entries, kb.load(source, at, plan.lanes), plan.lanes), plan.lanes)
        done = kb.let(start + whole * plan.lanes, "done")
        with kb.loop(known(start + count - done) if plan.lanes > 1 else 0, "i") as i:
            kb.store(target, done + i, _find(kb, entries, kb.load(source, done + i), 1))

    if not plan.parallel:
        look_up(i64(0), size)
    else:
        with kb.loop(ceildiv(size, plan.share), "task", parallel=True) as task:
            start = kb.let(task * plan.share, "start")
            look_up(start, kb.let(minimum(size - start, plan.share), "count"))
    return kb.finish([x, table, y])


def _find(kb: KernelBuilder, entries: Expr, index: Expr, lanes: int) -> Expr:
    if lanes == 1:
        return kb.load(entries, cast_raw(index, "int64"))
    quarters = [kb.load(entries, i * lanes, lanes) for i in range(4)]
    halves = [
        tirx.call_llvm_pure_intrin(f"uint8x{lanes}", _PERMUTE, quarters[i], index, quarters[i + 1]) for i in (0, 2)
    ]
    return tirx.Select(index > like(127, index), halves[1], halves[0])
