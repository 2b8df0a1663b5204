"""What channels-last ops mean in ONNX: the ONNX op between two Transposes."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Graph, Node, Value
from ..ops.nhwc import to_nchw, to_nhwc
from .expand import expands


@expands("optc.Conv", "optc.ConvTranspose", "optc.MaxPool", "optc.AveragePool", "optc.DepthToSpace")
def _channels_first(graph: Graph, node: Node) -> Sequence[Value]:
    x = node.operand(0)
    rank = x.type.rank
    first = graph.emit("Transpose", [x], {"perm": to_nchw(rank)}, before=node, loc=node.loc).output
    onnx = node.op.removeprefix("optc.")
    new = graph.emit(onnx, [first, *node.inputs[1:]], node.attrs, before=node, loc=node.loc)
    return [graph.emit("Transpose", [new.output], {"perm": to_nhwc(rank)}, before=node, loc=node.loc).output]
