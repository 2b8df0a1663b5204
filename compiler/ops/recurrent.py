"""RNN, GRU and LSTM.

X is (seq, batch, input), or (batch, seq, input) with layout=1; R is (directions, gates * hidden, hidden).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..ir import Node
from ..types import Dim, TensorType, fresh_dim
from .base import Op, attr_int, attr_str, check_rank, dtype_of, fail, register


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
        if attr_int(node, "layout", 0):
            batch, steps = first, second
            state = TensorType(dtype, (batch, directions, hidden))
            return [TensorType(dtype, (batch, steps, directions, hidden)), *[state] * self.states]
        steps, batch = first, second
        state = TensorType(dtype, (directions, batch, hidden))
        return [TensorType(dtype, (steps, directions, batch, hidden)), *[state] * self.states]


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
