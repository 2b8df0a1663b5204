"""Kernels that belong to no family: DynamicQuantizeLinear, DeformConv, Dropout at inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int, attr_ints
from ..base import Expr, builds
from . import exprs
from .builder import i64, known, product
from .context import BuildContext
from .exprs import cast_raw, const, like, select
from .index.base import clamp
from .index.cast import quantize, saturate
from .loops import NodeKernel
from .rows import each_vector, reduce_row


@builds("DynamicQuantizeLinear")
def dynamic_quantize_linear(node: Node, context: BuildContext) -> Any:
    """uint8 over [min(0, x), max(0, x)]: y, scale, zero point."""
    kernel = NodeKernel(node, context)
    kb, lanes = kernel.kb, context.target.lanes
    size, zero = known(product(kernel.shape(node.operand(0)))), const(0.0, "float32")

    def load(at: Expr, width: int) -> Expr:
        return kernel.load_flat(0, at, width)

    low = kernel.cell(reduce_row(kb, size, lanes, 0.0, tirx.min, load))
    high = kernel.cell(reduce_row(kb, size, lanes, 0.0, tirx.max, load))
    scale = kernel.cell((high.get() - low.get()) / const(255.0, "float32"))
    flat = tirx.EQ(scale.get(), zero)
    scale.set(select(flat, const(1.0, "float32"), scale.get()))
    dtype = node.outputs[0].type.dtype
    point = kernel.cell(saturate(exprs.round_even(zero - low.get() / scale.get()), dtype))

    def write(at: Expr, width: int) -> None:
        value = quantize(load(at, width), exprs.widen(scale.get(), width), exprs.widen(point.get(), width), dtype)
        kernel.store_flat(at, value, lanes=width)

    each_vector(kb, size, lanes, write)
    kernel.store_flat(i64(0), scale.get(), 1)
    kernel.store_flat(i64(0), point.get(), 2)
    return kernel.finish()


@builds("Dropout")
def dropout(node: Node, context: BuildContext) -> Any:
    """The identity with a mask of ones; with a training mode given, only if that is the constant false."""
    training = node.input(2)
    if training is not None and (training.data is None or bool(np.asarray(training.data).reshape(-1)[0])):
        return None
    kernel = NodeKernel(node, context)
    with kernel.each([product(kernel.shape(node.operand(0)))]) as (i,):
        kernel.store_flat(i, kernel.load_flat(0, i))
        if len(node.outputs) > 1:
            kernel.store_flat(i, const(True, "bool"), 1)
    return kernel.finish()


@builds("DeformConv")
def deform_conv(node: Node, context: BuildContext) -> Any:
    """Convolution whose taps are moved by learned offsets, sampled bilinearly, and weighted by a mask (2-D)."""
    if node.operand(0).type.rank != 4:
        return None
    kernel = NodeKernel(node, context)
    shape, weights = kernel.shape(node.operand(0)), kernel.shape(node.operand(1))
    height, width = shape[2:]
    window = weights[2:]
    strides = attr_ints(node, "strides") or (1, 1)
    dilations = attr_ints(node, "dilations") or (1, 1)
    pads = attr_ints(node, "pads") or (0, 0, 0, 0)
    group, offset_group = attr_int(node, "group", 1), attr_int(node, "offset_group", 1)
    dtype = exprs.load_type(node.operand(0).type.dtype)
    zero = const(0.0, dtype)
    per_group, outputs = i64(weights[1]), tirx.truncdiv(i64(weights[0]), i64(group))
    per_offset = tirx.truncdiv(i64(shape[1]), i64(offset_group))
    with kernel.each(kernel.shape(node.outputs[0]), product(weights[1:])) as (n, m, oy, ox):
        first = kernel.kb.let(tirx.truncdiv(m, outputs) * per_group, "first")

        def step(acc: Expr, k: list[Expr], at: Sequence[Expr] = (n, m, oy, ox), first: Expr = first) -> Expr:
            n, m, oy, ox = at
            c, ky, kx = k
            tap = (tirx.truncdiv(first + c, per_offset) * window[0] + ky) * window[1] + kx
            moves = [kernel.load(2, [n, tap * i64(2) + i64(axis), oy, ox]) for axis in (0, 1)]
            starts = [
                oy * strides[0] + ky * dilations[0] - i64(pads[0]),
                ox * strides[1] + kx * dilations[1] - i64(pads[1]),
            ]
            y, x = (kernel.cell(cast_raw(s, dtype) + d).get() for s, d in zip(starts, moves, strict=True))
            value = _bilinear(kernel, [n, first + c], y, x, height, width)
            if node.input(4) is not None:
                value = value * kernel.load(4, [n, tap, oy, ox])
            return acc + value * kernel.load(1, [m, c, ky, kx])

        bias = zero if node.input(3) is None else kernel.load(3, [m])
        kernel.store([n, m, oy, ox], kernel.accumulate(bias, [weights[1], *window], step))
    return kernel.finish()


def _bilinear(kernel: NodeKernel, outer: Sequence[Expr], y: Expr, x: Expr, height: Any, width: Any) -> Expr:
    """Input 0 at (y, x), zero beyond the border."""
    top, left = kernel.cell(tirx.floor(y)).get(), kernel.cell(tirx.floor(x)).get()
    total: Expr = like(0.0, y)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (y - top if dy else like(1.0, y) - (y - top)) * (x - left if dx else like(1.0, x) - (x - left))
            row, column = (cast_raw(v, "int64") + i64(d) for v, d in ((top, dy), (left, dx)))
            inside = tirx.all(row >= i64(0), row < i64(height), column >= i64(0), column < i64(width))
            value = kernel.load(0, [*outer, clamp(row, i64(height)), clamp(column, i64(width))])
            total = total + select(inside, value * weight, like(0.0, y))
    return total
