"""Building blocks of the rules: DequantizeLinear and QuantizeLinear over parameters in any of their forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....compiler.ir import Attr, Value
from ....compiler.ops.base import attr_int
from ....compiler.ops.nhwc import to_nchw, to_nhwc
from ....compiler.types import DType
from ...rewrite import Match

BYTES = (DType.U8, DType.I8)


def is_single(value: Value | None) -> bool:
    """True if a scale or zero point surely has one element; an omitted one counts as zero."""
    return value is None or (value.type.shape is not None and all(d == 1 for d in value.type.shape))


def is_vector(value: Value | None) -> bool:
    """True if a parameter is a scalar or has one dim."""
    return value is None or (value.type.shape is not None and value.type.rank <= 1)


def scalar(m: Match, value: Value) -> Value:
    """A parameter of one element as a scalar."""
    if value.type.rank == 0:
        return value
    if value.data is not None:
        return m.constant(value.data.reshape(()), like=value)
    return m.emit("Squeeze", [value])


def dequantize(m: Match, x: Value, scale: Value, zero: Value | None, axis: int = 0) -> Value:
    """(x - zero) * scale; where either parameter is a vector, along `axis`."""
    scale, zero = _alike(m, scale, zero)
    return m.emit("DequantizeLinear", [x, scale, zero], _axis(scale, axis))


def quantize(m: Match, x: Value, scale: Value, zero: Value | None, dtype: DType, axis: int = 0) -> Value:
    """x in the integers of `dtype`; the zero point defaults to 0 of that type."""
    if zero is None:
        zero = m.constant(np.zeros((), dtype.numpy))
    scale, zero = _alike(m, scale, zero)
    assert zero is not None
    return m.emit("QuantizeLinear", [x, scale, zero], _axis(scale, axis))


def times(m: Match, a: Value, b: Value) -> Value:
    """The product of two scales, in float32."""
    if a.data is not None and b.data is not None:
        return m.constant(np.asarray(a.data * b.data), like=a)
    return m.emit("Mul", [a, b])


def spatial(m: Match, op: str, inputs: Sequence[Value | None], channels_last: int = 0) -> Value:
    """`op` with the root's attributes; between Transposes where the root has its channels last."""
    attrs = {k: v for k, v in m.root.attrs.items() if k != "channels_last"}
    x = inputs[0]
    if x is None or not attr_int(m.root, "channels_last", channels_last):
        return m.emit(op, inputs, attrs)
    rank = x.type.rank
    first = m.emit("Transpose", [x], {"perm": to_nchw(rank)})
    return m.emit("Transpose", [m.emit(op, [first, *inputs[1:]], attrs)], {"perm": to_nhwc(rank)})


def _alike(m: Match, scale: Value, zero: Value | None) -> tuple[Value, Value | None]:
    """Scale and zero point of one shape, scalars where they have one element."""
    if is_single(scale) and is_single(zero):
        return scalar(m, scale), None if zero is None else scalar(m, zero)
    if zero is None or zero.type.shape == scale.type.shape:
        return scale, zero
    if is_single(zero):
        return scale, _spread(m, zero, like=scale)
    return _spread(m, scale, like=zero), zero


def _spread(m: Match, value: Value, like: Value) -> Value:
    """A parameter of one element repeated to the shape of another."""
    if value.data is not None and like.type.is_static:
        return m.constant(np.full(like.type.static_shape, value.data.reshape(())), like=value)
    return m.emit("Expand", [scalar(m, value), m.emit("Shape", [like])])


def _axis(scale: Value, axis: int) -> dict[str, Attr]:
    return {} if scale.type.rank == 0 else {"axis": axis}
