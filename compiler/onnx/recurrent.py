"""What packed recurrent layers mean in ONNX: the ONNX layer, whose W only picks the gates out of Z."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UnsupportedError
from ..ir import Attr, Graph, Node, Value
from ..ops.base import attr_int, attr_str
from ..ops.recurrent import BLOCK, unpack_gates
from .expand import expands


@expands("optc.RNN", "optc.GRU", "optc.LSTM")
def _unpacked(graph: Graph, node: Node) -> Sequence[Value]:
    """Raises UnsupportedError if R or B is not constant."""
    r, b = node.operand(1).data, node.input(2)
    if r is None or (b is not None and b.data is None):
        raise UnsupportedError(f"{node.op} with weights that are not constant", node=node.name)
    hidden = attr_int(node, "hidden_size", 0)
    directions, blocks, _, gates, _ = r.shape
    size = blocks * gates * BLOCK  # columns of Z a direction
    places = np.arange(size).reshape(1, blocks, 1, gates, BLOCK)
    picked = unpack_gates(places, hidden).reshape(-1)
    w = np.zeros((directions, gates * hidden, directions * size), r.dtype)
    for direction in range(directions):
        w[direction, np.arange(gates * hidden), direction * size + picked] = 1
    bias = None
    if b is not None:
        both = np.zeros((directions, 2, gates, hidden), r.dtype)
        both[:, 1, -1] = np.asarray(b.data)
        bias = graph.constant(both.reshape(directions, -1), "bias")
    attrs: dict[str, Attr] = {k: v for k, v in node.attrs.items() if k != "activation"}
    if node.op == "optc.RNN":
        attrs["activations"] = (attr_str(node, "activation", "Tanh"),) * directions
    new = graph.emit(
        node.op.removeprefix("optc."),
        [node.operand(0), graph.constant(w, "gates"), graph.constant(unpack_gates(r, hidden), "r"), bias]
        + [node.input(i) for i in range(3, len(node.inputs))],
        attrs,
        num_outputs=len(node.outputs),
        before=node,
        loc=node.loc,
    )
    return new.outputs
