"""What optc.Trap means in ONNX, which has no op that fails: an index out of bounds, in a node called as the message.

The index comes from RandomUniform over [1, 2), so that no optimizer computes it before the model runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Graph, Loc, Node, Value
from ..types import DType
from .expand import expands


@expands("optc.Trap")
def _trap(graph: Graph, node: Node) -> Sequence[Value]:
    return [_out_of_bounds(graph, node, value) for value in node.outputs]


def _out_of_bounds(graph: Graph, node: Node, value: Value) -> Value:
    rank = 1 if value.type.shape is None else value.type.rank
    data = graph.constant(np.zeros(1, value.type.dtype.numpy))
    number = graph.emit("RandomUniform", [], {"low": 1.0, "high": 2.0, "shape": (1,) * rank}, before=node, loc=node.loc)
    index = graph.emit("Cast", [number.output], {"to": DType.I64}, before=node, loc=node.loc)
    loc = Loc((str(node.attrs["message"]),))
    return graph.emit("Gather", [data, index.output], names=[value.name], before=node, loc=loc).output
