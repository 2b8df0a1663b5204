"""Conversions between dtypes, and linear quantization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_int
from ....compiler.types import DType
from ...base import Element, Expr, Index, defines
from .. import exprs
from ..compose import Operand
from ..exprs import dtype_of, is_float, let, like, select
from .base import i64, int_value, pointwise, zero

Args = Sequence[Any]


def convert(value: Expr, source: DType, to: DType) -> Expr:
    """`value`, an element of `source` in its computed type, as the computed type of `to` (ONNX Cast).

    Floats go to integers towards zero; out of range, as numpy on x86 does it: through int64, wrapped.
    """
    target = exprs.load_type(to)
    have = dtype_of(value)
    if to is DType.BOOL:
        return tirx.NE(value, like(0, value)) if have != "bool" else value
    if have == "bool":
        return exprs.cast_raw(exprs.cast_raw(value, "uint8"), target)
    if is_float(have) and not is_float(target):
        wide = "int32" if exprs.bits_of(target) < 32 else "int64" if target == "uint32" else target
        if target == "uint64":
            return let(value, _to_uint64)
        return exprs.cast_raw(exprs.cast_raw(value, wide), target)
    return exprs.cast_raw(value, target)


def _to_uint64(value: Expr) -> Expr:
    """Negative numbers wrap, as they do on their way through int64."""
    negative = exprs.cast_raw(exprs.cast_raw(value, "int64"), "uint64")
    return select(tirx.LT(value, like(0, value)), negative, exprs.cast_raw(value, "uint64"))


@pointwise("Cast", "CastLike")
def cast(node: Node, args: Args) -> Expr:
    return convert(args[0], node.operand(0).type.dtype, node.outputs[0].type.dtype)


@pointwise("Identity")
def identity(node: Node, args: Args) -> Expr:
    return args[0]


def saturate(value: Expr, to: DType) -> Expr:
    """A float that holds an integer, limited to the range of integer type `to`; NaN gives 0."""
    info = np.iinfo(to.numpy)
    low, high = like(float(info.min), value), like(float(info.max), value)
    bounded = select(tirx.LT(value, low), low, select(tirx.GT(value, high), high, value))
    bounded = select(exprs.is_nan(value), like(0.0, value), bounded)
    wide = "int32" if info.bits < 32 else "int64"
    return exprs.cast_raw(exprs.cast_raw(bounded, wide), to.tvm)


def quantize(x: Expr, scale: Expr, zero_point: Expr | None, to: DType) -> Expr:
    """saturate(round(x / scale) + zero_point), ties to even."""
    scaled = exprs.round_even(exprs.cast_raw(x, dtype_of(scale)) / scale)
    if zero_point is not None:
        scaled = scaled + exprs.cast_raw(zero_point, dtype_of(scaled))
    return let(scaled, lambda v: saturate(v, to))


def dequantize(x: Expr, scale: Expr, zero_point: Expr | None) -> Expr:
    """(x - zero_point) * scale."""
    value = exprs.cast_raw(x, "int32") if exprs.bits_of(dtype_of(x)) < 32 else x
    if zero_point is not None:
        value = value - exprs.cast_raw(zero_point, dtype_of(value))
    return exprs.cast_raw(value, dtype_of(scale)) * scale


def _parameter_index(node: Node, parameter: Operand, x: Operand, index: Index) -> list[Expr]:
    """Where the scale or zero point for an element lies: per tensor, per axis, or a block of an axis."""
    rank = parameter.type.rank
    if rank == 0:
        return []
    axis = attr_int(node, "axis", 1)
    axis += x.type.rank if axis < 0 else 0
    block = attr_int(node, "block_size", 0)
    if rank == 1 and not block:
        only = int_value(parameter.shape[0])
        return [zero() if only == 1 else index[axis]]
    return [tirx.truncdiv(i, i64(block)) if d == axis else i for d, i in enumerate(index)]


@defines("QuantizeLinear")
def quantize_linear(node: Node, inputs: Sequence[Operand | None]) -> Sequence[Element] | None:
    x, scale = inputs[0], inputs[1]
    point = inputs[2] if len(inputs) > 2 else None
    to = node.outputs[0].type.dtype
    if x is None or scale is None or not to.is_int:
        return None

    def element(index: Index) -> Expr:
        at = _parameter_index(node, scale, x, index)
        return quantize(x(index), scale(at), None if point is None else point(at), to)

    return [element]


@defines("DequantizeLinear")
def dequantize_linear(node: Node, inputs: Sequence[Operand | None]) -> Sequence[Element] | None:
    x, scale = inputs[0], inputs[1]
    point = inputs[2] if len(inputs) > 2 else None
    if x is None or scale is None or not x.type.dtype.is_int:
        return None
    to = node.outputs[0].type.dtype

    def element(index: Index) -> Expr:
        at = _parameter_index(node, scale, x, index)
        result = dequantize(x(index), scale(at), None if point is None else point(at))
        return exprs.rounded_to(convert(result, scale.type.dtype, to), to)

    return [element]
