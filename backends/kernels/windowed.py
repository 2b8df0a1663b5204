"""Pools of any dtype, rank and layout as plain loops: MaxPool with indices, AveragePool, LpPool, the global ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int, attr_ints
from ..base import Expr, builds
from . import exprs
from .builder import Dim, i64, product
from .context import BuildContext
from .exprs import cast_raw, const, like, select
from .index.arithmetic import larger
from .loops import NodeKernel
from .taps import Taps, channel_axis


class _Pool:
    """The window over each output element of a pool."""

    def __init__(self, node: Node, context: BuildContext) -> None:
        self.node, self.kernel = node, NodeKernel(node, context)
        self.channel = channel_axis(node)
        self.shape = self.kernel.shape(node.operand(0))
        window: Sequence[Dim] | None = attr_ints(node, "kernel_shape")
        if window is None:
            window = self.shape[1:-1] if self.channel == -1 else self.shape[2:]
        self.taps = Taps(self.kernel, 0, window)

    def spatial(self, index: Sequence[Expr]) -> list[Expr]:
        return list(index[1:-1] if self.channel == -1 else index[2:])

    def source(self, index: Sequence[Expr], k: Sequence[Expr]) -> list[Expr]:
        place = self.taps.positions(self.spatial(index), k)
        return [index[0], *place, index[-1]] if self.channel == -1 else [index[0], index[1], *place]

    def load(self, index: Sequence[Expr], k: Sequence[Expr]) -> Expr:
        return self.kernel.load(0, self.source(index, k))

    def over(self, index: Sequence[Expr], initial: Expr, step: Any) -> Expr:
        """step(acc, k) over the taps inside the input."""
        inside = self.spatial(index)
        return self.kernel.accumulate(initial, self.taps.window, step, when=lambda k: self.taps.inside(inside, k))

    def each(self) -> Any:
        return self.kernel.each(self.kernel.shape(self.node.outputs[0]), product(self.taps.window))


@builds("MaxPool", "optc.MaxPool", "GlobalMaxPool", "optc.GlobalMaxPool")
def max_pool(node: Node, context: BuildContext) -> Any:
    """The second output holds flat positions in the input; storage_order 1 counts the spatial axes column-major."""
    pool = _Pool(node, context)
    kernel = pool.kernel
    dtype = exprs.load_type(node.operand(0).type.dtype)
    lowest = -math.inf if exprs.is_float(dtype) else int(np.iinfo(dtype).min)
    with pool.each() as index:
        if len(node.outputs) == 1:
            kernel.store(index, pool.over(index, const(lowest, dtype), lambda acc, k: larger(acc, pool.load(index, k))))
        else:
            best, place = _with_place(pool, index, const(lowest, dtype))
            kernel.store(index, best)
            kernel.store(index, place, 1)
    return kernel.finish()


def _with_place(pool: _Pool, index: Sequence[Expr], lowest: Expr) -> tuple[Expr, Expr]:
    """The largest element and its flat position; the first of equals."""
    kernel = pool.kernel
    best, place = kernel.cell(lowest), kernel.cell(i64(-1))
    spatial = pool.spatial(index)
    with kernel.nest(pool.taps.window) as k, kernel.kb.when(pool.taps.inside(spatial, k)):
        at = pool.source(index, k)
        x = kernel.load(0, at)
        wins = kernel.cell(cast_raw(tirx.Or(tirx.GT(x, best.get()), tirx.LT(place.get(), i64(0))), "uint8"))
        chosen = tirx.NE(wins.get(), like(0, wins.get()))
        place.set(select(chosen, _flat(pool, at), place.get()))
        best.set(select(chosen, x, best.get()))
    return best.get(), place.get()


def _flat(pool: _Pool, at: Sequence[Expr]) -> Expr:
    axes = list(range(len(at)))
    if attr_int(pool.node, "storage_order", 0):
        axes[2:] = axes[:1:-1]
    offset: Expr = i64(0)
    for axis in axes:
        offset = offset * pool.shape[axis] + at[axis]
    return offset


@builds("AveragePool", "optc.AveragePool", "GlobalAveragePool", "optc.GlobalAveragePool")
def average_pool(node: Node, context: BuildContext) -> Any:
    """Divides by the taps inside the input, or (count_include_pad) inside the padded input."""
    pool = _Pool(node, context)
    kernel = pool.kernel
    dtype = exprs.load_type(node.operand(0).type.dtype)
    padded = attr_int(node, "count_include_pad", 0)
    with pool.each() as index:
        total = pool.over(index, const(0, dtype), lambda acc, k: acc + pool.load(index, k))
        spatial = pool.spatial(index)
        within = pool.taps.padded if padded else pool.taps.inside
        count = kernel.accumulate(
            i64(0), pool.taps.window, lambda acc, k: acc + i64(1), when=lambda k: within(spatial, k)
        )
        kernel.store(index, total / cast_raw(count, dtype))
    return kernel.finish()


@builds("LpPool", "GlobalLpPool")
def lp_pool(node: Node, context: BuildContext) -> Any:
    """(Σ |x|^p)^(1/p)."""
    pool = _Pool(node, context)
    kernel = pool.kernel
    p = attr_int(node, "p", 2)
    dtype = exprs.load_type(node.operand(0).type.dtype)
    with pool.each() as index:
        total = pool.over(index, const(0, dtype), lambda acc, k: acc + power_of(tirx.abs(pool.load(index, k)), p))
        kernel.store(index, root_of(total, p))
    return kernel.finish()


def power_of(x: Expr, p: int) -> Expr:
    """x^p for x >= 0."""
    if p == 1:
        return x
    return x * x if p == 2 else exprs.libm("pow", x, like(float(p), x))


def root_of(x: Expr, p: int) -> Expr:
    """x^(1/p)."""
    if p == 1:
        return x
    return tirx.sqrt(x) if p == 2 else exprs.libm("pow", x, like(1.0 / p, x))
