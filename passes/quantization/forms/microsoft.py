"""What ONNX Runtime's quantizer writes in domain com.microsoft, in ONNX's own ops.

QLinearAdd(a, b), ...  -> Q(Add(D(a), D(b)))              every QLinear* op: the float op between D and Q
QGemm(A, B, C)         -> Q(Gemm(D(A), D(B), D(C)))       C int32 in units of alpha s_a s_b
QuantizeLinear, DequantizeLinear of that domain -> those of ONNX
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ....compiler.ir import Node, Value
from ....compiler.ops.base import attr_float, attr_int
from ....compiler.ops.microsoft import DOMAIN
from ...pattern import Op
from ...rewrite import Match, Rule, register_rule
from .affine import dequantize, is_single, quantize, spatial, times

Compute = Callable[[Match, Sequence[Value]], Value]


@dataclass(frozen=True)
class Form:
    """Where a QLinear op has its operands: data with scale and zero point behind it, and the output's scale."""

    parts: Callable[[Node], Sequence[int]]
    out: int
    compute: Compute


def _op(op: str) -> Compute:
    return lambda m, values: spatial(m, op, values)


def _where(m: Match, values: Sequence[Value]) -> Value:
    return m.emit("Where", [m.root.operand(0), *values])


def _softmax(m: Match, values: Sequence[Value]) -> Value:
    """Before opset 13, over all dims from `axis` on, taken as one."""
    (x,) = values
    axis = attr_int(m.root, "axis", -1)
    if attr_int(m.root, "opset", 13) >= 13 or axis in (-1, x.type.rank - 1):
        return m.emit("Softmax", [x], {"axis": axis})
    flat = m.emit("Softmax", [m.emit("Flatten", [x], {"axis": axis})], {"axis": -1})
    return m.emit("Reshape", [flat, m.emit("Shape", [x])])


def _unary(compute: Compute) -> Form:
    return Form(lambda node: (0,), 3, compute)


_FORMS: dict[str, Form] = {
    "QLinearAdd": Form(lambda node: (0, 3), 6, _op("Add")),
    "QLinearMul": Form(lambda node: (0, 3), 6, _op("Mul")),
    "QLinearWhere": Form(lambda node: (1, 4), 7, _where),
    "QLinearConcat": Form(lambda node: range(2, len(node.inputs), 3), 0, _op("Concat")),
    "QLinearLeakyRelu": _unary(_op("LeakyRelu")),
    "QLinearSigmoid": _unary(_op("Sigmoid")),
    "QLinearSoftmax": _unary(_softmax),
    "QLinearAveragePool": _unary(_op("AveragePool")),
    "QLinearGlobalAveragePool": _unary(_op("GlobalAveragePool")),
}


@register_rule
class QLinear(Rule):
    """Q(f(D(x), ...))."""

    name: ClassVar[str] = "qlinear"
    patterns: ClassVar[tuple[Op, ...]] = (Op([f"{DOMAIN}.{op}" for op in _FORMS], rest=True),)

    def check(self, m: Match) -> str | None:
        form = _FORMS[m.root.op.removeprefix(f"{DOMAIN}.")]
        places = [form.out - 1, *form.parts(m.root)]
        single = all(is_single(m.root.input(p + i)) for p in places for i in (1, 2))
        if m.root.output.type.shape is None:
            return "the rank is not known"
        return None if single else "a scale has more than one element"

    def rewrite(self, m: Match) -> Value:
        form = _FORMS[m.root.op.removeprefix(f"{DOMAIN}.")]
        values = [dequantize(m, *_triple(m.root, part)) for part in form.parts(m.root)]
        y = form.compute(m, values)
        return quantize(m, y, m.root.operand(form.out), m.root.input(form.out + 1), m.root.output.type.dtype)


def _triple(node: Node, index: int) -> tuple[Value, Value, Value | None]:
    return node.operand(index), node.operand(index + 1), node.input(index + 2)


@register_rule
class QGemm(Rule):
    """A, a_scale, a_zero_point, B, b_scale, b_zero_point, C, y_scale, y_zero_point; the last two may be missing."""

    name: ClassVar[str] = "qgemm"
    patterns: ClassVar[tuple[Op, ...]] = (Op(f"{DOMAIN}.QGemm", rest=True),)

    def check(self, m: Match) -> str | None:
        return None if all(is_single(m.root.input(i)) for i in (1, 2, 7, 8)) else "an activation has several scales"

    def rewrite(self, m: Match) -> Value:
        a_scale, b_scale = m.root.operand(1), m.root.operand(4)
        a = dequantize(m, m.root.operand(0), a_scale, m.root.input(2))
        columns = 0 if attr_int(m.root, "transB", 0) else 1
        b = dequantize(m, m.root.operand(3), b_scale, m.root.input(5), axis=columns)
        c = m.root.input(6)
        if c is not None:
            alpha = m.constant(np.float32(attr_float(m.root, "alpha", 1.0)))
            c = dequantize(m, c, times(m, times(m, b_scale, a_scale), alpha), None, axis=-1)
        y = m.emit("Gemm", [a, b, c], m.root.attrs)
        scale = m.root.input(7)
        return y if scale is None else quantize(m, y, scale, m.root.input(8), m.root.output.type.dtype)


@register_rule
class MicrosoftQdq(Rule):
    """QuantizeLinear and DequantizeLinear as they were before ONNX had them for every type."""

    name: ClassVar[str] = "microsoft-qdq"
    patterns: ClassVar[tuple[Op, ...]] = (Op((f"{DOMAIN}.QuantizeLinear", f"{DOMAIN}.DequantizeLinear"), rest=True),)

    def rewrite(self, m: Match) -> Value:
        return m.emit(m.root.op.removeprefix(f"{DOMAIN}."), m.root.inputs, m.root.attrs)


@register_rule
class NhwcMaxPool(Rule):
    """A MaxPool of bytes with the channels last."""

    name: ClassVar[str] = "nhwc-max-pool"
    patterns: ClassVar[tuple[Op, ...]] = (Op(f"{DOMAIN}.NhwcMaxPool", "x"),)

    def check(self, m: Match) -> str | None:
        return "the rank is not known" if m["x"].type.shape is None else None

    def rewrite(self, m: Match) -> Value:
        return spatial(m, "MaxPool", [m["x"]], channels_last=1)
