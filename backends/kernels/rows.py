"""Walks over rows of numbers with vectors: what softmax and normalisation have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..target import Target
from .builder import Dim, Expr, KernelBuilder, floordiv, i64, known, lanes_of, pieces, splat, static
from .matmul import guess

PARALLEL_ELEMENTS = 1 << 15
"""Rows with fewer elements than this in all (about 20 microseconds) run on one thread."""
UNROLL = 4
"""Vectors in flight in a reduction: enough to hide the latency of an addition."""


def is_parallel(rows: Dim, columns: Dim, target: Target) -> bool:
    return target.num_cores > 1 and guess(rows) * guess(columns) >= PARALLEL_ELEMENTS


def each_vector(kb: KernelBuilder, columns: Dim, lanes: int, emit: Callable[[Expr, int], None]) -> None:
    """`emit(column, width)` over a row: whole vectors, then narrower ones for a known rest, single ones for others."""
    columns = known(columns)
    with kb.loop(floordiv(columns, lanes), "v") as v:
        emit(kb.let(v * lanes, "column"), lanes)
    whole = kb.let(floordiv(columns, lanes) * lanes, "whole")
    if isinstance(columns, int):
        for start, width in pieces(columns - whole, lanes):
            emit(i64(whole + start), width)
        return
    with kb.loop(columns - whole, "rest") as rest:
        emit(kb.let(whole + rest, "column"), 1)


def reduce_row(
    kb: KernelBuilder,
    columns: Dim,
    lanes: int,
    initial: float,
    combine: Callable[[Expr, Expr], Expr],
    values: Callable[[Expr, int], Expr],
) -> Expr:
    """Reduces `values(column, width)` over a row to one number, in UNROLL vectors side by side."""
    columns = known(columns)
    wide = UNROLL if (static(columns) or 1 << 30) >= UNROLL * lanes else 1
    acc = kb.local(wide * lanes)
    scalar = kb.local(1, name="scalar")
    for u in range(wide):
        kb.store(acc, u * lanes, splat(initial, lanes), lanes)
    kb.store(scalar, 0, splat(initial, 1))

    def add(slot: int, at: Expr) -> None:
        kb.store(acc, slot * lanes, combine(kb.load(acc, slot * lanes, lanes), values(at, lanes)), lanes)

    with kb.loop(floordiv(columns, wide * lanes), "v") as v:
        for u in range(wide):
            add(u, kb.let(v * (wide * lanes) + u * lanes, "column"))
    done = kb.let(floordiv(columns, wide * lanes) * (wide * lanes), "done")
    if wide > 1:
        with kb.loop(known(floordiv(columns - done, lanes)), "v") as v:
            add(0, kb.let(done + v * lanes, "column"))
    whole = kb.let(floordiv(columns, lanes) * lanes, "whole")

    def add_narrow(at: Expr, width: int) -> None:
        part = kb.local(width, name="part")
        kb.store(part, 0, values(at, width), width)
        for i in range(width):
            kb.store(scalar, 0, combine(kb.load(scalar, 0), kb.load(part, i)))

    if isinstance(columns, int):
        for start, width in pieces(columns - whole, lanes):
            add_narrow(i64(whole + start), width)
    else:
        with kb.loop(columns - whole, "rest") as rest:
            add_narrow(kb.let(whole + rest, "column"), 1)
    total = kb.load(acc, 0, lanes)
    for u in range(1, wide):
        total = combine(total, kb.load(acc, u * lanes, lanes))
    kb.store(acc, 0, total, lanes)
    kb.store(scalar, 0, combine(kb.load(scalar, 0), fold_local(kb, acc, lanes, combine)))
    return kb.load(scalar, 0)


def fold_local(kb: KernelBuilder, acc: Any, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Halves the vector at the start of a local array until one number is left."""
    width = lanes
    while width > 1:
        width //= 2
        value = kb.load(acc, 0, 2 * width)
        kb.store(acc, 0, combine(lanes_of(value, 0, width), lanes_of(value, width, width)), width)
    return kb.load(acc, 0)
