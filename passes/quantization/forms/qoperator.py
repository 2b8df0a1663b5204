"""Operators on quantized tensors as float operators between DequantizeLinear (D) and QuantizeLinear (Q).

QLinearConv(x, w, B)   -> Q(Conv(D(x), D(w), D(B)))       B int32 in units of s_x s_w
QLinearMatMul(a, b)    -> Q(MatMul(D(a), D(b)))
"""

from __future__ import annotations

from typing import ClassVar

from ....compiler.ir import Value
from ....compiler.ops.microsoft import DOMAIN
from ...pattern import Op
from ...rewrite import Match, Rule, register_rule
from .affine import dequantize, is_single, is_vector, quantize, spatial, times


@register_rule
class QLinearConv(Rule):
    """x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B; also in com.microsoft."""

    name: ClassVar[str] = "qlinear-conv"
    patterns: ClassVar[tuple[Op, ...]] = (Op(("QLinearConv", f"{DOMAIN}.QLinearConv"), rest=True),)

    def check(self, m: Match) -> str | None:
        if m.root.operand(0).type.shape is None:
            return "the rank is not known"
        single = all(is_single(m.root.input(i)) for i in (1, 2, 6, 7))
        return None if single else "an activation has a scale per channel"

    def rewrite(self, m: Match) -> Value:
        x_scale, w_scale = m.root.operand(1), m.root.operand(4)
        x = dequantize(m, m.root.operand(0), x_scale, m.root.input(2))
        w = dequantize(m, m.root.operand(3), w_scale, m.root.input(5))
        bias = m.root.input(8)
        if bias is not None:
            bias = dequantize(m, bias, times(m, w_scale, x_scale), None)
        y = spatial(m, "Conv", [x, w, bias])
        return quantize(m, y, m.root.operand(6), m.root.input(7), m.root.output.type.dtype)


@register_rule
class QLinearMatMul(Rule):
    """a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point."""

    name: ClassVar[str] = "qlinear-matmul"
    patterns: ClassVar[tuple[Op, ...]] = (Op("QLinearMatMul", rest=True),)

    def check(self, m: Match) -> str | None:
        if not all(is_vector(m.root.input(i)) for i in (1, 2, 4, 5, 6, 7)):
            return "a scale has more than one dim"
        ranks = all(m.root.operand(i).type.shape is not None and m.root.operand(i).type.rank > 1 for i in (0, 3))
        if not ranks and not all(is_single(m.root.input(i)) for i in (1, 2, 4, 5, 6, 7)):
            return "a vector is multiplied, or a rank is not known"
        return None

    def rewrite(self, m: Match) -> Value:
        a, b = m.root.operand(0), m.root.operand(3)
        left = dequantize(m, a, m.root.operand(1), m.root.input(2), axis=-2)
        right = dequantize(m, b, m.root.operand(4), m.root.input(5), axis=-1)
        y = m.emit("MatMul", [left, right])
        return quantize(m, y, m.root.operand(6), m.root.input(7), m.root.output.type.dtype, axis=-2)
