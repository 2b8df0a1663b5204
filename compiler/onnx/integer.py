"""What optc's integer products mean in ONNX nodes.

optc.MatMulInteger(a, b, bias)     = MatMulInteger(a, b) + bias
optc.Lookup(x, table)              = Gather(table, x)
optc.ConvInteger(x, w, bias, pad)  = ConvInteger(x, w, x_zero_point=pad) + pad * sum(w) + bias, channels brought last

ONNX's ConvInteger pads with the zero point and takes it off every element, so the sum of the weights comes back. The
weights are written as uint8 around a zero point of 128, as ONNX Runtime has no ConvInteger of int8 weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Attr, Graph, Node, Value
from ..ops.nhwc import to_nchw, to_nhwc
from ..types import DType
from .expand import expands


@expands("optc.MatMulInteger")
def _matmul(graph: Graph, node: Node) -> Sequence[Value]:
    total = _emit(graph, node, "MatMulInteger", [node.operand(0), node.operand(1)])
    bias = node.input(2)
    return [total if bias is None else _emit(graph, node, "Add", [total, bias])]


@expands("optc.ConvInteger")
def _conv(graph: Graph, node: Node) -> Sequence[Value]:
    x, rank, pad = node.operand(0), node.operand(0).type.rank, node.input(3)
    first = _emit(graph, node, "Transpose", [x], perm=to_nchw(rank))
    weights, middle = _unsigned(graph, node), graph.constant(np.uint8(128), "zero_point")
    total = _emit(graph, node, "ConvInteger", [first, weights, pad, middle], **node.attrs)
    total = _emit(graph, node, "Transpose", [total], perm=to_nhwc(rank))
    for addend in (node.input(2), None if pad is None else _padding(graph, node, pad)):
        if addend is not None:
            total = _emit(graph, node, "Add", [total, addend])
    return [total]


@expands("optc.Lookup")
def _lookup(graph: Graph, node: Node) -> Sequence[Value]:
    places = _emit(graph, node, "Cast", [node.operand(0)], to=DType.I32)
    return [_emit(graph, node, "Gather", [node.operand(1), places])]


def _unsigned(graph: Graph, node: Node) -> Value:
    """The weights + 128."""
    w = node.operand(1)
    if w.data is not None:
        return graph.constant((w.data.astype(np.int16) + 128).astype(np.uint8), w.name)
    byte = _emit(graph, node, "Cast", [w], to=DType.U8)
    return _emit(graph, node, "BitwiseXor", [byte, graph.constant(np.uint8(128), "sign")])


def _padding(graph: Graph, node: Node, pad: Value) -> Value:
    """pad * sum(w), int32 [M]."""
    wide = _emit(graph, node, "Cast", [node.operand(1)], to=DType.I32)
    axes = graph.constant(np.arange(1, node.operand(1).type.rank, dtype=np.int64), "axes")
    sums = _emit(graph, node, "ReduceSum", [wide, axes], keepdims=0)
    return _emit(graph, node, "Mul", [sums, _emit(graph, node, "Cast", [pad], to=DType.I32)])


def _emit(graph: Graph, node: Node, op: str, inputs: Sequence[Value | None], **attrs: Attr) -> Value:
    return graph.emit(op, inputs, attrs, before=node, loc=node.loc).output
