"""RNN, GRU and LSTM, and what passes/recurrent.py leaves of them once the input projection is a MatMul.

X is (seq, batch, input), or (batch, seq, input) with layout=1; R is (directions, gates * hidden, hidden).

optc.RNN, optc.GRU and optc.LSTM take Z, R, B, sequence_lens, initial_h, initial_c, all but Z and R optional.
Z = X W^T + biases for all steps, (seq, batch, width) or with layout=1 (batch, seq, width), and R are packed: gates lie
beside each other for each BLOCK of hidden units, so that one pass over h yields all gates of a block. Packed,
(directions, gates * hidden, k) is (directions, blocks, k, gates, BLOCK), zeros beyond the hidden size; the width of Z
is (directions, blocks, gates, BLOCK) flattened. B, (directions, hidden), is the recurrence bias of the GRU's hidden
gate, only where it stays inside (linear_before_reset). Attributes: hidden_size, direction, layout,
linear_before_reset, activation (of optc.RNN: Tanh or Relu); the other activations are ONNX's defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ..ir import Node
from ..types import Dim, DType, TensorType, fresh_dim
from .base import Op, attr_int, attr_str, check_rank, dtype_of, fail, register

BLOCK = 16
"""Hidden units packed together: one AVX-512 register, or several smaller ones, of float32."""


def pack_gates(weights: np.ndarray, gates: int) -> np.ndarray:
    """(directions, gates * hidden, k) as (directions, blocks, k, gates, BLOCK)."""
    directions, rows, k = weights.shape
    hidden = rows // gates
    blocks = -(-hidden // BLOCK)
    padded = np.zeros((directions, gates, blocks * BLOCK, k), weights.dtype)
    padded[:, :, :hidden] = weights.reshape(directions, gates, hidden, k)
    return np.ascontiguousarray(padded.reshape(directions, gates, blocks, BLOCK, k).transpose(0, 2, 4, 1, 3))


def unpack_gates(packed: np.ndarray, hidden: int) -> np.ndarray:
    """The inverse of `pack_gates`."""
    directions, blocks, k, gates, _ = packed.shape
    rows = packed.transpose(0, 3, 1, 4, 2).reshape(directions, gates, blocks * BLOCK, k)
    return np.ascontiguousarray(rows[:, :, :hidden]).reshape(directions, gates * hidden, k)


class Recurrent(Op):
    """Y for every step, then the last state(s)."""

    anchor = True
    gates: ClassVar[int]
    states: ClassVar[int] = 1

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = dtype_of(node, 0)
        x, weights, recurrence = (check_rank(node, i, 3, 3) for i in range(3))
        direction = attr_str(node, "direction", "forward")
        if direction not in ("forward", "reverse", "bidirectional"):
            fail(node, "unknown direction", found=direction)
        directions = 2 if direction == "bidirectional" else 1
        hidden: Dim = attr_int(node, "hidden_size", 0) or (recurrence[2] if recurrence else fresh_dim("hidden"))
        for index, shape in ((1, weights), (2, recurrence)):
            wanted = (directions, hidden * self.gates)
            if shape and all(isinstance(d, int) for d in (*shape[:2], hidden)) and shape[:2] != wanted:
                fail(node, f"operand {index} does not fit", expected=[*wanted, shape[2]], found=list(shape))
        first, second = x[:2] if x else (fresh_dim("seq"), fresh_dim("batch"))
        return self.results(node, dtype, (first, second), directions, hidden)

    def results(
        self, node: Node, dtype: DType, leading: tuple[Dim, Dim], directions: int, hidden: Dim
    ) -> list[TensorType]:
        """Types of Y and the states; `leading` are the first two dims of X."""
        if attr_int(node, "layout", 0):
            batch, steps = leading
            state = TensorType(dtype, (batch, directions, hidden))
            return [TensorType(dtype, (batch, steps, directions, hidden)), *[state] * self.states]
        steps, batch = leading
        state = TensorType(dtype, (directions, batch, hidden))
        return [TensorType(dtype, (steps, directions, batch, hidden)), *[state] * self.states]


class PackedRecurrent(Recurrent):
    """The recurrence over a projected input, weights packed."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        z, packed = check_rank(node, 0, 3, 3), check_rank(node, 1, 5, 5)
        hidden = attr_int(node, "hidden_size", 0)
        directions = 2 if attr_str(node, "direction", "forward") == "bidirectional" else 1
        blocks = -(-hidden // BLOCK)
        if packed and packed != (directions, blocks, hidden, self.gates, BLOCK):
            expected = [directions, blocks, hidden, self.gates, BLOCK]
            fail(node, "R does not fit", expected=expected, found=list(packed))
        width = directions * blocks * self.gates * BLOCK
        if z and isinstance(z[2], int) and z[2] != width:
            fail(node, "Z does not fit", expected=width, found=z[2])
        leading = (z[0], z[1]) if z else (fresh_dim("seq"), fresh_dim("batch"))
        return self.results(node, dtype_of(node, 0), leading, directions, hidden)


@register
class RNN(Recurrent):
    gates = 1


@register
class GRU(Recurrent):
    gates = 3


@register
class LSTM(Recurrent):
    gates = 4
    states = 2


@register
class PackedRNN(PackedRecurrent):
    name = "optc.RNN"
    gates = 1


@register
class PackedGRU(PackedRecurrent):
    name = "optc.GRU"
    gates = 3


@register
class PackedLSTM(PackedRecurrent):
    name = "optc.LSTM"
    gates = 4
    states = 2
