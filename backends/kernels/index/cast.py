"""Conversions between dtypes, and linear quantization."""

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
from ..bounds import ANYWHERE, Interval, bounds
from ..compose import Operand
from ..exprs import const, dtype_of, is_float, let, like, select
from .base import POINTWISE, i64, int_value, pointwise, zero

Args = Sequence[Any]
_WITHIN_INT32 = 2.0**31 - 2.0**8
"""Floats below this are rounded to integers below 2^31."""


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


def quantize(x: Expr, scale: Expr, zero_point: Expr | None, to: DType, steps: Interval = ANYWHERE) -> Expr:
    """clamp(rint(x * f32(1 / scale)), lo - zero_point, hi - zero_point) + zero_point, ties to even; NaN gives lo.

    lo and hi bound `to`. A scale that is not a constant divides; both agree but for rare ties one step apart.
    `steps` is what is known of x / scale: a clamp that it makes needless is left out.
    """
    scaled = _over(exprs.cast_raw(x, dtype_of(scale)), scale)
    if dtype_of(scaled) != "float32" or np.iinfo(to.numpy).bits > 16:
        near = exprs.round_even(scaled)
        if zero_point is not None:
            near = near + exprs.cast_raw(zero_point, dtype_of(near))
        return let(near, lambda v: saturate(v, to))
    point = const(0, "int32") if zero_point is None else exprs.cast_raw(zero_point, "int32")
    point = exprs.widen(point, exprs.lanes_of(scaled))
    low, high = (like(int(bound), point) - point for bound in _range(to))
    if max(-steps[0], steps[1]) >= _WITHIN_INT32:
        low, high = exprs.cast_raw(low, "float32"), exprs.cast_raw(high, "float32")
        # The order of the operands matters: x86's maximum gives the second one where the first is NaN.
        return exprs.narrowed(exprs.rint(tirx.min(tirx.max(scaled, low), high)) + point, to.tvm)
    near, offset = exprs.rint(scaled), exprs.number_of(zero_point) if zero_point is not None else 0
    ends = (-math.inf, math.inf) if offset is None else tuple(bound - offset for bound in _range(to))
    if offset is None or steps[0] - _slack(steps[0]) <= ends[0] - 0.5:
        near = tirx.max(near, low)
    if offset is None or steps[1] + _slack(steps[1]) >= ends[1] + 0.5:
        near = tirx.min(near, high)
    return exprs.narrowed(near + point, to.tvm)


def _slack(steps: float) -> float:
    """More than float32 arithmetic can be off."""
    return 1e-4 * (1 + abs(steps))


def _range(dtype: DType) -> tuple[int, int]:
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def _over(x: Expr, scale: Expr) -> Expr:
    """x / scale: by its reciprocal, rounded to float32, where the scale is known; nothing is done for 1."""
    number = exprs.number_of(scale)
    if number is None or dtype_of(scale) != "float32":
        return x / scale
    if number == 1.0:
        return x
    with np.errstate(all="ignore"):
        reciprocal = np.float32(1) / np.float32(number)
    return x * like(float(reciprocal), x) if np.isfinite(reciprocal) else x / scale


def dequantize(x: Expr, scale: Expr, zero_point: Expr | None) -> Expr:
    """(x - zero_point) * scale."""
    value = exprs.cast_raw(x, "int32") if exprs.bits_of(dtype_of(x)) < 32 else x
    if zero_point is not None and exprs.number_of(zero_point) != 0:
        value = value - exprs.widen(exprs.cast_raw(zero_point, dtype_of(value)), exprs.lanes_of(value))
    return exprs.cast_raw(value, dtype_of(scale)) * exprs.widen(scale, exprs.lanes_of(value))


def quantization(node: Node, args: Args) -> Expr:
    """An element of QuantizeLinear or DequantizeLinear, its scale and zero point given beside it."""
    x, scale, point = args[0], args[1], args[2] if len(args) > 2 else None
    to = node.outputs[0].type.dtype
    if node.op == "QuantizeLinear":
        return quantize(x, scale, point, to, _steps(node))
    return exprs.rounded_to(convert(dequantize(x, scale, point), node.operand(1).type.dtype, to), to)


def _steps(node: Node) -> Interval:
    """What is known of a QuantizeLinear's operand in steps of a constant scale."""
    step = node.operand(1).data
    if step is None or not (step > 0).all():
        return ANYWHERE
    low, high = bounds(node.operand(0))
    return (low / float(step.min()) if low < 0 else 0.0), (high / float(step.min()) if high > 0 else 0.0)


POINTWISE["QuantizeLinear"] = POINTWISE["DequantizeLinear"] = quantization


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


@defines("QuantizeLinear", "DequantizeLinear")
def linear_quantization(node: Node, inputs: Sequence[Operand | None]) -> Sequence[Element] | None:
    x, scale = inputs[0], inputs[1]
    point = inputs[2] if len(inputs) > 2 else None
    integer = node.outputs[0] if node.op == "QuantizeLinear" else node.operand(0)
    if x is None or scale is None or not integer.type.dtype.is_int:
        return None

    def element(index: Index) -> Expr:
        at = _parameter_index(node, scale, x, index)
        return quantization(node, [x(index), scale(at), None if point is None else point(at)])

    return [element]
