"""Products of activations quantized while running, as ONNX Runtime writes them, in ONNX's integer ops.

MatMulIntegerToFloat(A, B)  -> float(MatMulInteger(A, B)) * (a_scale * b_scale) + bias
DynamicQuantizeMatMul(A, B) -> the same of DynamicQuantizeLinear(A)
DynamicQuantizeLSTM(X, W, R) -> LSTM(X, dequantized W, dequantized R)

The last computes in float what ONNX Runtime computes from quantized inputs and states: it is closer to the layer that
was quantized, and differs from ONNX Runtime by the error of that quantization.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ....compiler.ir import Node, Value
from ....compiler.ops.microsoft import DOMAIN
from ...pattern import Const, Op
from ...rewrite import Match, Rule, register_rule


@register_rule
class MatMulIntegerToFloat(Rule):
    """A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias."""

    name: ClassVar[str] = "matmul-integer-to-float"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(f"{DOMAIN}.MatMulIntegerToFloat", "a", "b", "a_scale", "b_scale", rest=True),
    )

    def rewrite(self, m: Match) -> Value:
        zeros = m.root.input(4), m.root.input(5)
        return _scaled_product(m, m["a"], m["b"], (m["a_scale"], m["b_scale"]), zeros, m.root.input(6))


@register_rule
class DynamicQuantizeMatMul(Rule):
    """A (float), B, b_scale, b_zero_point, bias."""

    name: ClassVar[str] = "dynamic-quantize-matmul"
    patterns: ClassVar[tuple[Op, ...]] = (Op(f"{DOMAIN}.DynamicQuantizeMatMul", "a", "b", "b_scale", rest=True),)

    def rewrite(self, m: Match) -> Value:
        quantized = m.emit("DynamicQuantizeLinear", [m["a"]], num_outputs=3).producer
        assert quantized is not None
        a, a_scale, a_zero = quantized.outputs
        return _scaled_product(m, a, m["b"], (a_scale, m["b_scale"]), (a_zero, m.root.input(3)), m.root.input(4))


def _scaled_product(
    m: Match,
    a: Value,
    b: Value,
    scales: tuple[Value, Value],
    zeros: tuple[Value | None, Value | None],
    bias: Value | None,
) -> Value:
    total = m.emit("MatMulInteger", [a, b, *zeros])
    real = m.emit("Cast", [total], {"to": scales[0].type.dtype})
    y = m.emit("Mul", [real, m.emit("Mul", scales)])
    return y if bias is None else m.emit("Add", [y, bias])


@register_rule
class DynamicQuantizeLstm(Rule):
    """X, W, R, B, sequence_lens, initial_h, initial_c, P, W_scale, W_zero_point, R_scale, R_zero_point.

    W is [directions, input, 4 * hidden] and R [directions, hidden, 4 * hidden], transposed to LSTM's; their scales
    and zero points are [directions] or [directions, 4 * hidden].
    """

    name: ClassVar[str] = "dynamic-quantize-lstm"
    patterns: ClassVar[tuple[Op, ...]] = (Op(f"{DOMAIN}.DynamicQuantizeLSTM", "x", Const("w"), Const("r"), rest=True),)

    def check(self, m: Match) -> str | None:
        parameters = [m.root.input(i) for i in range(8, 12)]
        constant = all(v is not None and v.data is not None for v in parameters)
        return None if constant else "the scales are not constant"

    def rewrite(self, m: Match) -> list[Value]:
        w, r = (m.constant(self._weights(m.root, i, scale)) for i, scale in ((1, 8), (2, 10)))
        inputs = [m["x"], w, r, *m.root.inputs[3:8]]
        first = m.emit("LSTM", inputs, m.root.attrs, num_outputs=len(m.root.outputs))
        assert first.producer is not None
        return list(first.producer.outputs)

    def _weights(self, node: Node, index: int, scale: int) -> np.ndarray:
        """float32 [directions, 4 * hidden, inputs]."""
        data, factor, zero = (np.asarray(node.operand(i).data) for i in (index, scale, scale + 1))
        directions = len(data)
        factor, zero = (p.reshape(directions if p.size > 1 else 1, 1, -1) for p in (factor, zero))
        real = (data.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * factor.astype(np.float32)
        return np.ascontiguousarray(real.transpose(0, 2, 1))
