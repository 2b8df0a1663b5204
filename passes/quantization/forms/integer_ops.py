"""Integer products with zero points as optc's integer ops, which have none (products.py says how).

MatMulInteger(a, b; z_a, z_b)      -> optc.MatMulInteger and what the zero points add
ConvInteger(x, w; z_x, z_w)        -> Transpose, optc.ConvInteger and what the zero points add, Transpose
MatMul(D(a), D(b; z_b)) + c        -> D(that product) + c      where b - z_b does not fit int8; likewise Conv and Gemm

The last is for weights quantized asymmetrically: the form with a DequantizeLinear (D) would need nine bits for them.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ....compiler.ir import Attr, Value
from ....compiler.ops.base import attr_float, attr_int
from ....compiler.ops.nhwc import to_nchw
from ....compiler.types import DType
from ...pattern import Const, Op, Pattern
from ...rewrite import Match, Rule, register_rule
from .affine import BYTES, is_single, is_vector, times
from .products import Weights, conv_product, matmul_product


def _zero(value: Value | None) -> np.ndarray | None:
    return None if value is None else value.data


def _why_not(x: Value, x_zero: Value | None, w: Value, w_zero: Value | None) -> str | None:
    """What keeps a product with constant weights `w` from being one of optc's."""
    if x.type.dtype is not DType.U8 or w.type.dtype not in BYTES:
        return "the operands are not uint8 and constant bytes"
    if x.type.shape is None or x.type.rank < 2:
        return "the rank of the activations is not known or below 2"
    if not is_single(x_zero):
        return "the activations have a zero point per row"
    if w_zero is not None and (w_zero.data is None or not is_vector(w_zero)):
        return "the weights' zero point is not constant, or a matrix"
    return None


@register_rule
class MatMulInteger(Rule):
    """A, B, a_zero_point, b_zero_point."""

    name: ClassVar[str] = "matmul-integer"
    patterns: ClassVar[tuple[Op, ...]] = (Op("MatMulInteger", "a", Const("b"), rest=True),)

    def check(self, m: Match) -> str | None:
        if m["b"].type.rank != 2:
            return "the weights are no matrix"
        return _why_not(m["a"], m.root.input(2), m["b"], m.root.input(3))

    def rewrite(self, m: Match) -> Value:
        weights = Weights.of(m.array("b"), _zero(m.root.input(3)), axis=1)
        return matmul_product(m, m["a"], m.root.input(2), weights)


@register_rule
class ConvInteger(Rule):
    """x, w, x_zero_point, w_zero_point."""

    name: ClassVar[str] = "conv-integer"
    patterns: ClassVar[tuple[Op, ...]] = (Op("ConvInteger", "x", Const("w"), rest=True),)

    def check(self, m: Match) -> str | None:
        return _why_not(m["x"], m.root.input(2), m["w"], m.root.input(3))

    def rewrite(self, m: Match) -> Value:
        weights = Weights.of(m.array("w"), _zero(m.root.input(3)), axis=0)
        total = conv_product(m, m["x"], m.root.input(2), weights, m.root)
        return m.emit("Transpose", [total], {"perm": to_nchw(total.type.rank)})


def _quantized(zero: Pattern) -> tuple[Pattern, Pattern]:
    x = Op("DequantizeLinear", "x", "xs", "xz", name="dx", shared=True)
    return x, Op("DequantizeLinear", Const("w"), Const("ws"), zero, name="dw", shared=True)


@register_rule
class AsymmetricProduct(Rule):
    """Conv, MatMul and Gemm of dequantized operands whose weights kept a zero point (see parameters.SignedWeights)."""

    name: ClassVar[str] = "asymmetric-product"
    patterns: ClassVar[tuple[Op, ...]] = (Op(("Conv", "MatMul", "Gemm"), *_quantized(Const("wz")), rest=True),)

    def check(self, m: Match) -> str | None:
        if any(attr_int(m.node(d), "block_size", 0) for d in ("dx", "dw")):
            return "a scale is blocked"
        if not is_single(m["xs"]) or not is_vector(m["ws"]):
            return "the activations have several scales, or the weights a matrix of them"
        if m.root.op != "Conv" and m["w"].type.rank != 2:
            return "the weights are no matrix"
        if m["ws"].type.numel != 1 and self._axis(m) != attr_int(m.node("dw"), "axis", 1) % m["w"].type.rank:
            return "the weights' scales are not one an output channel"
        if attr_int(m.root, "transA", 0):
            return "the activations are transposed"
        if any(attr_float(m.root, factor, 1.0) != 1.0 for factor in ("alpha", "beta")):
            return "the product is scaled"
        return _why_not(m["x"], m["xz"], m["w"], m["wz"])

    def rewrite(self, m: Match) -> Value:
        weights = Weights.of(m.array("w"), m.array("wz"), self._axis(m))
        if m.root.op == "Conv":
            total = conv_product(m, m["x"], m["xz"], weights, m.root)
        else:
            if attr_int(m.root, "transB", 0):
                weights = Weights(np.ascontiguousarray(weights.data.T), weights.shift)
            total = matmul_product(m, m["x"], m["xz"], weights)
        axis: dict[str, Attr] = {"axis": total.type.rank - 1}
        y = m.emit("DequantizeLinear", [total, times(m, m["xs"], m["ws"])], axis)
        bias = m.root.input(2)
        if bias is not None:
            y = m.emit("Add", [y, bias])
        return m.emit("Transpose", [y], {"perm": to_nchw(y.type.rank)}) if m.root.op == "Conv" else y

    def _axis(self, m: Match) -> int:
        """The axis of the weights that counts output channels."""
        return 0 if m.root.op == "Conv" or attr_int(m.root, "transB", 0) else 1
