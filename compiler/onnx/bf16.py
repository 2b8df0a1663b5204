"""What optc's bfloat16 products mean in ONNX nodes: their operands in float32, where products of bfloat16 are exact.

optc.ConvBF16(x, w, b)            = Conv(Cast(x), Cast(w), b), channels brought last
optc.MatMulBF16(a, b, c; alpha)   = alpha * MatMul(Cast(a), Cast(b)) + c, operands transposed as flagged
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Attr, Graph, Node, Value
from ..ops.base import attr_float, attr_int
from ..ops.nhwc import to_nchw, to_nhwc
from ..types import DType
from .expand import expands


@expands("optc.ConvBF16")
def _conv(graph: Graph, node: Node) -> Sequence[Value]:
    x, w = (_wide(graph, node, i) for i in range(2))
    rank = x.type.rank
    first = _emit(graph, node, "Transpose", [x], perm=to_nchw(rank))
    total = _emit(graph, node, "Conv", [first, w, node.input(2)], **node.attrs)
    return [_emit(graph, node, "Transpose", [total], perm=to_nhwc(rank))]


@expands("optc.MatMulBF16")
def _matmul(graph: Graph, node: Node) -> Sequence[Value]:
    operands = []
    for index, flag in enumerate(("transA", "transB")):
        value = _wide(graph, node, index)
        if attr_int(node, flag, 0):
            rank = value.type.rank
            value = _emit(graph, node, "Transpose", [value], perm=(*range(rank - 2), rank - 1, rank - 2))
        operands.append(value)
    total = _emit(graph, node, "MatMul", operands)
    alpha, bias = attr_float(node, "alpha", 1.0), node.input(2)
    if alpha != 1.0:
        total = _emit(graph, node, "Mul", [total, graph.constant(alpha, dtype=DType.F32)])
    return [total if bias is None else _emit(graph, node, "Add", [total, bias])]


def _wide(graph: Graph, node: Node, index: int) -> Value:
    return _emit(graph, node, "Cast", [node.operand(index)], to=DType.F32)


def _emit(graph: Graph, node: Node, op: str, inputs: Sequence[Value | None], **attrs: Attr) -> Value:
    return graph.emit(op, inputs, attrs, before=node, loc=node.loc).output
