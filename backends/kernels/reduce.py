"""Reductions: Reduce*, ArgMax and ArgMin, with vector accumulators along whichever side is contiguous."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int, attr_ints, ints
from ...compiler.types import DType
from ..base import Expr, builds
from . import exprs, vmath
from .builder import Dim, i64, known, product, static
from .context import BuildContext
from .exprs import cast_raw, const, dtype_of, is_float, like, select
from .index.arithmetic import larger, smaller
from .loops import PARALLEL_STEPS, NodeKernel

VECTORS = 4
"""Independent accumulators of a reduction along the contiguous axis: they hide the latency of the addition."""


@dataclass(frozen=True)
class Reduction:
    """result = finish(combine over x of (initial, prepare(x)), number of elements), in `dtype`."""

    dtype: str
    initial: float
    prepare: Callable[[Expr], Expr]
    combine: Callable[[Expr, Expr], Expr]
    finish: Callable[[Expr, Expr], Expr] = lambda value, count: value


def reduction_of(op: str, dtype: DType) -> Reduction:
    """The reduction that an ONNX op means for elements of `dtype`."""
    compute = exprs.load_type(dtype)
    number = "uint8" if compute == "bool" else compute
    low, high = (-math.inf, math.inf) if is_float(number) else _range(number)

    def same(x: Expr) -> Expr:
        return cast_raw(x, number)

    def add(a: Expr, b: Expr) -> Expr:
        return a + b

    def real(function: Callable[[Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
        wide = number if is_float(number) else "float64"
        return lambda value, count: cast_raw(function(cast_raw(value, wide)), number)

    table = {
        "ReduceSum": Reduction(number, 0, same, add),
        "ReduceMean": Reduction(number, 0, same, add, _mean),
        "ReduceMax": Reduction(number, low, same, larger, lambda v, n: cast_raw(v, compute)),
        "ReduceMin": Reduction(number, high, same, smaller, lambda v, n: cast_raw(v, compute)),
        "ReduceProd": Reduction(number, 1, same, lambda a, b: a * b),
        "ReduceL1": Reduction(number, 0, lambda x: tirx.abs(x) if not exprs.is_unsigned(number) else x, add),
        "ReduceL2": Reduction(number, 0, lambda x: x * x, add, real(tirx.sqrt)),
        "ReduceSumSquare": Reduction(number, 0, lambda x: x * x, add),
        "ReduceLogSum": Reduction(number, 0, same, add, real(vmath.log)),
    }
    return table[op]


def _range(dtype: str) -> tuple[float, float]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _mean(value: Expr, count: Expr) -> Expr:
    number = cast_raw(count, dtype_of(value))
    return value / number if is_float(dtype_of(value)) else tirx.truncdiv(value, number)


def reduced_axes(node: Node) -> list[int] | None:
    """The axes reduced over, sorted; None if they are not known when compiling."""
    rank = node.operand(0).type.rank
    axes = attr_ints(node, "axes")
    if axes is None and node.input(1) is not None:
        found = ints(node, 1)
        if found is None or any(not isinstance(a, int) for a in found):
            return None
        axes = tuple(int(a) for a in found)
    if not axes:
        return [] if attr_int(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted({a % rank for a in axes})


@builds(
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
)
def reduce(node: Node, context: BuildContext) -> Any:
    axes = reduced_axes(node)
    if axes is None:
        return None
    kernel = NodeKernel(node, context)
    dtype = node.operand(0).type.dtype
    if node.op == "ReduceLogSumExp":
        _log_sum_exp(kernel, axes)
        return kernel.finish()
    space = _Space(kernel, axes)
    reduction = reduction_of(node.op, dtype)
    (space.along_rows if space.inner_reduced else space.along_columns)(reduction)
    return kernel.finish()


class _Space:
    """The axes of input 0 with neighbours of one kind merged: (extent, stride, whether reduced)."""

    def __init__(self, kernel: NodeKernel, axes: Sequence[int]) -> None:
        self.kernel, self.kb = kernel, kernel.kb
        merged: list[tuple[Dim, Dim, bool]] = []
        stride: Dim = 1
        for axis, extent in reversed(list(enumerate(kernel.shape(kernel.node.operand(0))))):
            reduced = axis in axes
            if merged and (merged[-1][2] == reduced):
                size, step, _ = merged[-1]
                merged[-1] = (product([extent, size]), step, reduced)
            elif not (isinstance(extent, int) and extent == 1):
                merged.append((extent, stride, reduced))
            stride = product([extent, stride])
        axes_in_order = merged[::-1]
        self.kept = [(e, s) for e, s, reduced in axes_in_order if not reduced]
        self.reduced = [(e, s) for e, s, reduced in axes_in_order if reduced]
        self.inner_reduced = bool(merged) and merged[0][2]
        self.count = i64(product([e for e, _ in self.reduced]))

    def lanes(self, dtype: str) -> int:
        return max(1, self.kernel.target.lanes * 32 // max(exprs.bits_of(dtype), 32))

    def _base(self, flat: Expr, kept: Sequence[tuple[Dim, Dim]]) -> Expr:
        """Offset in the input of a flat position over the kept axes."""
        offset: Expr = i64(0)
        for number, (extent, stride) in reversed(list(enumerate(kept))):
            position = tirx.truncmod(flat, i64(extent)) if number else flat
            offset = offset + position * stride
            flat = tirx.truncdiv(flat, i64(extent))
        return self.kb.let(offset, "base")

    def _parallel(self) -> bool:
        total = static(product([e for e, _ in (*self.kept, *self.reduced)]))
        return total is None or total > PARALLEL_STEPS

    def _over(self, axes: Sequence[tuple[Dim, Dim]], base: Expr, body: Callable[[Expr], None]) -> None:
        """Serial loops over axes; body gets the offset."""
        if not axes:
            body(base)
            return
        extent, stride = axes[0]
        with self.kb.loop(extent, "r") as r:
            self._over(axes[1:], base + r * stride, body)

    def along_rows(self, how: Reduction) -> None:
        """The innermost axis is reduced: a few vector accumulators along it, then across lanes."""
        lanes, kb = self.lanes(how.dtype), self.kb
        length = self.reduced[-1][0]
        size = static(length)
        block = lanes * VECTORS if size is None or size >= lanes * VECTORS else lanes
        vectors = block // lanes
        use_vectors = size is None or size >= lanes
        with kb.loop(product([e for e, _ in self.kept]), "row", parallel=self._parallel()) as row:
            base = self._base(row, self.kept)
            total = self.kernel.cell(const(how.initial, how.dtype))
            acc = kb.local(block, how.dtype)
            done = (length // block) * block if size is not None else kb.let(tirx.truncdiv(length, i64(block)) * block)
            if use_vectors:
                for v in range(vectors):
                    kb.store(acc, v * lanes, const(how.initial, how.dtype, lanes), lanes)

            def run(offset: Expr) -> None:
                if use_vectors:
                    chunks = length // block if size is not None else tirx.truncdiv(length, i64(block))
                    with kb.loop(chunks, "c") as c:
                        for v in range(vectors):
                            x = how.prepare(self.kernel.load_flat(0, offset + (c * block + v * lanes), lanes))
                            kb.store(acc, v * lanes, how.combine(kb.load(acc, v * lanes, lanes), x), lanes)
                rest = length - done if use_vectors else length
                with kb.loop(rest, "t") as t:
                    x = self.kernel.load_flat(0, offset + (done if use_vectors else 0) + t)
                    total.set(how.combine(total.get(), how.prepare(x)))

            self._over(self.reduced[:-1], base, run)
            if use_vectors:
                with kb.loop(block, "lane") as lane:
                    total.set(how.combine(total.get(), kb.load(acc, lane)))
            self.kernel.store_flat(row, how.finish(total.get(), self.count))

    def along_columns(self, how: Reduction) -> None:
        """The innermost axis is kept: vectors of columns accumulate down the reduced axes."""
        lanes, kb = self.lanes(how.dtype), self.kb
        kept = self.kept or [(1, 1)]
        columns = kept[-1][0]
        size = static(columns)
        block = lanes * VECTORS if size is None or size >= lanes * VECTORS else lanes
        outer = product([e for e, _ in kept[:-1]])
        whole = size // block if size is not None else tirx.truncdiv(columns, i64(block))

        def tile(row: Expr, start: Expr, width: int, vectors: int) -> None:
            base = self._base(row, kept[:-1]) if len(kept) > 1 else i64(0)
            acc = kb.local(width * vectors, how.dtype)
            for v in range(vectors):
                kb.store(acc, v * width, const(how.initial, how.dtype, width), width)

            def run(offset: Expr) -> None:
                for v in range(vectors):
                    x = how.prepare(self.kernel.load_flat(0, offset + start + v * width, width))
                    kb.store(acc, v * width, how.combine(kb.load(acc, v * width, width), x), width)

            self._over(self.reduced, base, run)
            for v in range(vectors):
                value = how.finish(kb.load(acc, v * width, width), exprs.widen(self.count, width))
                self.kernel.store_flat(row * columns + start + v * width, value, lanes=width)

        if size is None:  # two loops: a number of blocks that may be 0 divides nothing
            rows = len(kept) > 1
            over_rows = kb.loop(outer, "row", parallel=rows and self._parallel())
            with over_rows as row, kb.loop(whole, "block", parallel=not rows and self._parallel()) as index:
                tile(row, kb.let(index * block, "start"), lanes, block // lanes)
        elif size >= block:
            with kb.loop(product([outer, whole]), "block", parallel=self._parallel()) as task:
                row = kb.let(tirx.truncdiv(task, i64(whole)), "row")
                tile(row, kb.let(tirx.truncmod(task, i64(whole)) * block, "start"), lanes, block // lanes)
        rest = size % block if size is not None else columns - kb.let(whole * block)
        if not (isinstance(rest, int) and rest == 0):
            small = size is not None and size < block
            with kb.loop(outer, "row", parallel=small and self._parallel()) as row:
                first = i64(known(columns) - rest)
                with kb.loop(rest, "column") as column:
                    tile(row, first + column, 1, 1)


def _log_sum_exp(kernel: NodeKernel, axes: Sequence[int]) -> None:
    """m + ln Σ e^(x - m) with m the largest element, 0 if that is infinite."""
    space, kb = _Space(kernel, axes), kernel.kb
    dtype = kernel.node.operand(0).type.dtype
    compute = exprs.load_type(dtype) if dtype.is_float else "float64"
    with kb.loop(product([e for e, _ in space.kept]), "row", parallel=space._parallel()) as row:
        base = space._base(row, space.kept)
        most = kernel.cell(const(-math.inf, compute))

        def element(offset: Expr) -> Expr:
            return cast_raw(kernel.load_flat(0, offset), compute)

        space._over(space.reduced, base, lambda offset: most.set(larger(most.get(), element(offset))))
        finite = tirx.LT(tirx.abs(most.get()), const(math.inf, compute))
        most.set(select(finite, most.get(), const(0.0, compute)))
        total = kernel.cell(const(0.0, compute))
        space._over(space.reduced, base, lambda o: total.set(total.get() + vmath.exp(element(o) - most.get())))
        kernel.store_flat(row, cast_raw(vmath.log(total.get()) + most.get(), exprs.load_type(dtype)))


@builds("ArgMax", "ArgMin")
def arg_extreme(node: Node, context: BuildContext) -> Any:
    """The first (or last, select_last_index) position of the largest or smallest; a NaN counts as such."""
    kernel = NodeKernel(node, context)
    shape = kernel.shape(node.operand(0))
    axis = attr_int(node, "axis", 0) % len(shape)
    last = attr_int(node, "select_last_index", 0)
    outer, inner = product(shape[:axis]), product(shape[axis + 1 :])

    def better(x: Expr, best: Expr) -> Expr:
        if node.op == "ArgMax":
            wins = tirx.GE(x, best) if last else tirx.GT(x, best)
        else:
            wins = tirx.LE(x, best) if last else tirx.LT(x, best)
        if not is_float(dtype_of(x)):
            return wins
        return tirx.Or(wins, tirx.And(exprs.is_nan(x), tirx.Not(exprs.is_nan(best))))

    with kernel.each([outer, inner], shape[axis]) as (o, i):
        start = kernel.kb.let(o * product([shape[axis], inner]) + i, "start")
        best, place = kernel.cell(kernel.load_flat(0, start)), kernel.cell(i64(0))
        with kernel.kb.loop(shape[axis], "k") as k:
            x = kernel.load_flat(0, start + k * inner)
            wins = kernel.cell(cast_raw(better(x, best.get()), "uint8"))
            chosen = tirx.NE(wins.get(), like(0, wins.get()))
            place.set(select(chosen, k, place.get()))
            best.set(select(chosen, x, best.get()))
        kernel.store_flat(o * inner + i, place.get())
    return kernel.finish()


@builds("CumSum", "CumProd")
def cumulate(node: Node, context: BuildContext) -> Any:
    """Running sums or products along an axis; exclusive leaves the element itself out, reverse runs backwards."""
    axes = ints(node, 1)
    if axes is None or not isinstance(axes[0], int):
        return None
    kernel = NodeKernel(node, context)
    shape = kernel.shape(node.operand(0))
    axis = axes[0] % len(shape)
    exclusive, reverse = attr_int(node, "exclusive", 0), attr_int(node, "reverse", 0)
    outer, inner = product(shape[:axis]), product(shape[axis + 1 :])
    unit = const(0 if node.op == "CumSum" else 1, exprs.load_type(node.operand(0).type.dtype))
    with kernel.each([outer, inner], shape[axis]) as (o, i):
        total = kernel.cell(unit)
        with kernel.kb.loop(shape[axis], "k") as k:
            position = i64(shape[axis]) - i64(1) - k if reverse else k
            offset = (o * shape[axis] + position) * inner + i
            x = kernel.load_flat(0, offset)
            if exclusive:
                kernel.store_flat(offset, total.get())
            total.set(total.get() + x if node.op == "CumSum" else total.get() * x)
            if not exclusive:
                kernel.store_flat(offset, total.get())
    return kernel.finish()
