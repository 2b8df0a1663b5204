"""LSTM, GRU and RNN as a projection of all inputs at once and a recurrence over packed weights.

    Y = LSTM(X, W, R, B)   ->   Y = optc.LSTM(MatMul(X, W') + b, R')

The MatMul does all time steps and both directions; what is left to do step by step reads R packed when compiling
(compiler/ops/recurrent.py says how). Forms that are rare (peepholes, clip, other activations) stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.ir import Attr, Graph, Node, Value
from ..compiler.ops.base import attr_int, attr_str
from ..compiler.ops.recurrent import pack_gates
from ..compiler.types import DType
from .base import PassContext, register_pass

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("tanh",), "GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}


@register_pass
@dataclass(frozen=True)
class PackRecurrent:
    """Takes float32 layers with constant weights and the default activations (or RNN's Relu)."""

    name: ClassVar[str] = "pack-recurrent"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        layers = [n for n in graph.all_nodes() if n.op in _GATES]
        packed = sum(n.graph is not None and pack_recurrent(n.graph, n) for n in layers)
        ctx.count(self.name, packed)
        return packed > 0


def pack_recurrent(graph: Graph, node: Node) -> bool:
    """Rewrites one layer; False if it has a form that stays."""
    activation = _activation(node)
    if activation is None or not _is_common(node):
        return False
    w, r, b = np.asarray(node.operand(1).data), np.asarray(node.operand(2).data), node.input(3)
    gates, hidden, directions = _GATES[node.op], r.shape[2], r.shape[0]
    inside = node.op == "GRU" and bool(attr_int(node, "linear_before_reset", 0))

    def emit(op: str, inputs: Sequence[Value | None]) -> Value:
        return graph.emit(op, inputs, before=node, loc=node.loc).output

    columns = np.moveaxis(pack_gates(w, gates), 2, 0).reshape(w.shape[2], -1)
    z = emit("MatMul", [node.operand(0), graph.constant(np.ascontiguousarray(columns), node.operand(1).name)])
    recurrence_bias = None
    if b is not None:
        bias, apart = _biases(np.asarray(b.data).reshape(directions, 2, gates, hidden), inside)
        packed = pack_gates(bias.reshape(directions, gates * hidden, 1), gates)
        z = emit("Add", [z, graph.constant(packed.reshape(-1), "bias")])
        recurrence_bias = graph.constant(apart, "recurrence_bias") if inside else None
    attrs: dict[str, Attr] = {"hidden_size": hidden, "direction": attr_str(node, "direction", "forward")}
    attrs["layout"] = attr_int(node, "layout", 0)
    if node.op == "GRU":
        attrs["linear_before_reset"] = int(inside)
    if node.op == "RNN":
        attrs["activation"] = activation
    packed_r = graph.constant(pack_gates(r, gates), node.operand(2).name)
    states = [node.input(i) for i in (4, 5, 6)]
    new = graph.emit(
        f"optc.{node.op}",
        [z, packed_r, recurrence_bias, *(states if node.op == "LSTM" else states[:2])],
        attrs,
        names=[v.name for v in node.outputs],
        num_outputs=len(node.outputs),
        before=node,
        loc=node.loc,
    )
    graph.replace(node, new.outputs)
    return True


def _is_common(node: Node) -> bool:
    """float32, constant weights that fit each other, no peepholes, no clip, no coupled gates."""
    x, (w, r, b) = node.operand(0), (node.input(i) for i in (1, 2, 3))
    if x.type.shape is None or x.type.dtype is not DType.F32 or node.input(7) is not None:
        return False
    if "clip" in node.attrs or attr_int(node, "input_forget", 0):
        return False
    if w is None or w.data is None or r is None or r.data is None or (b is not None and b.data is None):
        return False
    directions, rows, size = w.data.shape
    hidden = r.data.shape[2]
    if not size * hidden or rows != _GATES[node.op] * hidden or r.data.shape[:2] != (directions, rows):
        return False  # the C op for any form says what does not fit
    return b is None or b.type.dims == (directions, 2 * rows)


def _activation(node: Node) -> str | None:
    """Tanh, or Relu for an RNN that asks for it; None if the activations are others."""
    found = node.attrs.get("activations")
    names = tuple(str(n).lower() for n in found) if isinstance(found, tuple) else ()
    directions = 2 if attr_str(node, "direction", "forward") == "bidirectional" else 1
    if node.op == "RNN" and names == ("relu",) * directions:
        return "Relu"
    return "Tanh" if not names or names == _DEFAULTS[node.op] * directions else None


def _biases(b: np.ndarray, inside: bool) -> tuple[np.ndarray, np.ndarray]:
    """What is added to Z, (directions, gates, hidden), and what stays with the recurrence of the GRU's hidden gate.

    `b` holds W's biases, then R's: (directions, 2, gates, hidden).
    """
    joint = b[:, 0] + b[:, 1]
    if inside:
        joint[:, 2] = b[:, 0, 2]
    return joint, np.ascontiguousarray(b[:, 1, -1])
