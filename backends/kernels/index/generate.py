"""Ops whose elements follow from their position: Range, ConstantOfShape, EyeLike, Trilu, Shape, Size, windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_int
from ....compiler.types import DType
from ...base import Element, Expr, Index, defines
from .. import exprs
from ..exprs import cast_raw, like, select
from .base import i64, zero
from .cast import convert

Inputs = Sequence[Any]
Elements = Sequence[Element]


@defines("Range")
def range_(node: Node, inputs: Inputs) -> Elements:
    """start + i delta."""
    start, _, delta = inputs

    def element(index: Index) -> Expr:
        first, step = (x([zero()] * x.type.rank) for x in (start, delta))
        return first + cast_raw(index[0], exprs.dtype_of(first)) * step

    return [element]


@defines("ConstantOfShape")
def constant_of_shape(node: Node, inputs: Inputs) -> Elements:
    value = node.attrs.get("value", np.zeros(1, "float32"))
    dtype = exprs.load_type(node.outputs[0].type.dtype)
    return [lambda index: exprs.const(np.asarray(value).reshape(-1)[0], dtype)]


@defines("EyeLike")
def eye_like(node: Node, inputs: Inputs) -> Elements:
    dtype = node.outputs[0].type.dtype
    k = attr_int(node, "k", 0)

    def element(index: Index) -> Expr:
        on = tirx.EQ(index[1], index[0] + i64(k))
        return convert(cast_raw(on, "uint8"), DType.U8, dtype)

    return [element]


@defines("Trilu")
def trilu(node: Node, inputs: Inputs) -> Elements:
    """Elements on one side of diagonal k, zero on the other."""
    x, k = inputs[0], inputs[1] if len(inputs) > 1 else None
    upper = attr_int(node, "upper", 1)

    def element(index: Index) -> Expr:
        diagonal = k([zero()] * k.type.rank) if k is not None else zero()
        value, row, column = x(index), index[-2] + diagonal, index[-1]
        keep = tirx.GE(column, row) if upper else tirx.LE(column, row)
        return select(keep, value, like(0, value))

    return [element]


@defines("Shape")
def shape(node: Node, inputs: Inputs) -> Elements:
    x = inputs[0]
    rank = x.type.rank
    start, end = attr_int(node, "start", 0), attr_int(node, "end", rank)
    start = min(max(start + rank if start < 0 else start, 0), rank)
    end = min(max(end + rank if end < 0 else end, start), rank)

    def element(index: Index) -> Expr:
        extents = x.shape[start:end]
        out = extents[-1]
        for number in reversed(range(len(extents) - 1)):
            out = select(tirx.EQ(index[0], i64(number)), extents[number], out)
        return out

    return [element]


@defines("Size")
def size(node: Node, inputs: Inputs) -> Elements:
    return [lambda index: inputs[0].dims.expr(inputs[0].type.numel)]


def _window(op: str, coefficients: tuple[float, ...]) -> None:
    """A cosine window: Σ_k (-1)^k a_k cos(2 π k n / N), N the size, or the size - 1 if not periodic."""

    @defines(op)
    def window(node: Node, inputs: Inputs) -> Elements:
        dtype = node.outputs[0].type.dtype
        periodic = attr_int(node, "periodic", 1)

        def element(index: Index) -> Expr:
            count = inputs[0].dims.expr(node.outputs[0].type.dims[0])
            length = cast_raw(count if periodic else count - i64(1), "float64")
            n = cast_raw(index[0], "float64")
            total = like(coefficients[0], n)
            for k, a in enumerate(coefficients[1:], 1):
                total = total + like(a if k % 2 == 0 else -a, n) * tirx.cos(n * like(2 * math.pi * k, n) / length)
            return exprs.rounded_to(convert(total, DType.F64, dtype), dtype)

        return [element]


_window("HannWindow", (0.5, 0.5))
_window("HammingWindow", (25 / 46, 21 / 46))
_window("BlackmanWindow", (0.42, 0.5, 0.08))
