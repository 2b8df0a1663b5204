"""Conversions between floats and affine integers."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import DType, TensorType
from .base import Op, attr_dtype, attr_int, axis_of, dtype_of, fail, register, shape_of, type_of

OPS = frozenset(("QuantizeLinear", "DequantizeLinear"))
"""The two that go by a scale and a zero point given to them."""


def _check_parameters(node: Node) -> None:
    """Raises ShapeError if the scale is neither a scalar, nor one a slice along `axis`, nor one a block."""
    shape, scale = shape_of(node, 0), shape_of(node, 1)
    if shape is None or scale is None or not scale:
        return
    if attr_int(node, "block_size", 0):
        if len(scale) != len(shape):
            fail(node, "a blocked scale must have the input's rank", expected=len(shape), found=list(scale))
        return
    if len(scale) > 1:
        fail(node, "the scale must be a scalar or have rank 1", found=list(scale))
    if scale == (1,):
        return
    count, size = scale[0], shape[axis_of(node, attr_int(node, "axis", 1), len(shape))]
    if isinstance(count, int) and isinstance(size, int) and count != size:
        fail(node, "the scale must have a value for each slice along the axis", expected=size, found=count)


def broadcasts(node: Node) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear has one scale and zero point, or a vector of each along the last
    axis: so that broadcasting, as pointwise ops do it, pairs them with the elements."""
    shape, scale = shape_of(node, 0), shape_of(node, 1)
    if shape is None or scale is None or attr_int(node, "block_size", 0):
        return False
    if all(isinstance(d, int) and d == 1 for d in scale):
        return True
    return len(scale) == 1 and attr_int(node, "axis", 1) % len(shape) == len(shape) - 1


@register
class QuantizeLinear(Op):
    """x, y_scale, y_zero_point: saturated round(x / scale) + zero point, of the zero point's dtype (default u8)."""

    pointwise = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        _check_parameters(node)
        default = DType.U8 if node.input(2) is None else dtype_of(node, 2)
        return [type_of(node, 0).with_dtype(attr_dtype(node, "output_dtype", default))]


@register
class DequantizeLinear(Op):
    """x, x_scale, x_zero_point: (x - zero point) * scale, of the scale's dtype."""

    pointwise = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        _check_parameters(node)
        return [type_of(node, 0).with_dtype(attr_dtype(node, "output_dtype", dtype_of(node, 1)))]


@register
class Lookup(Op):
    """x u8, table [256] of any type: table[x]."""

    name = "optc.Lookup"

    def infer(self, node: Node) -> Sequence[TensorType]:
        if shape_of(node, 1) != (256,):
            fail(node, "the table must have an entry for each byte", expected=[256], found=shape_of(node, 1))
        return [type_of(node, 0).with_dtype(dtype_of(node, 1))]


@register
class DynamicQuantizeLinear(Op):
    """x -> u8 values, scale and zero point that cover x's range."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [type_of(node, 0).with_dtype(DType.U8), TensorType(DType.F32, ()), TensorType(DType.U8, ())]
