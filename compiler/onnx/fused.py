"""What optc's fused float ops mean in ONNX nodes.

optc.MatMul(a, b; alpha)    = alpha * MatMul(a, b), operands transposed as flagged
optc.Attention(q, k, v, m)  = MatMul(Softmax(scale * MatMul(q, k^T) + m), v), layouts brought to BHSD and back
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Attr, Graph, Node, Value
from ..ops.fused import BHSD, attention_dims
from ..types import DType
from .expand import expands

_LOWEST = float(np.finfo(np.float32).min)


class _Emitter:
    """Emits the nodes a fused node stands for, in front of it."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node

    def __call__(self, op: str, *inputs: Value, **attrs: Attr) -> Value:
        return self.graph.emit(op, inputs, attrs, before=self.node, loc=self.node.loc).output

    def scalar(self, number: float) -> Value:
        return self.graph.constant(number, dtype=self.node.operand(0).type.dtype)

    def ints(self, *numbers: int) -> Value:
        return self.graph.constant(np.array(numbers, np.int64))

    def swapped(self, value: Value, *perm: int) -> Value:
        return self("Transpose", value, perm=perm)


@expands("optc.MatMul")
def _matmul(graph: Graph, node: Node) -> Sequence[Value]:
    emit = _Emitter(graph, node)
    operands = []
    for index, flag in enumerate(("transA", "transB")):
        value = node.operand(index)
        if node.attrs.get(flag, 0):
            rank = value.type.rank
            value = emit.swapped(value, *range(rank - 2), rank - 1, rank - 2)
        operands.append(value)
    product = emit("MatMul", *operands)
    alpha = node.attrs.get("alpha", 1.0)
    return [product if alpha == 1.0 else emit("Mul", product, emit.scalar(float(alpha)))]  # type: ignore[arg-type]


@expands("optc.Attention")
def _attention(graph: Graph, node: Node) -> Sequence[Value]:
    emit = _Emitter(graph, node)
    q, k, v = (_heads_first(node, emit, index) for index in range(3))
    heads, key_heads = attention_dims(node, 0)[1], attention_dims(node, 1)[1]
    if heads != key_heads:
        k, v = (_repeat_heads(emit, x, int(heads) // int(key_heads)) for x in (k, v))
    scale = float(node.attrs["scale"])  # type: ignore[arg-type]
    scores = emit("MatMul", q, emit.swapped(k, 0, 1, 3, 2))
    if scale != 1.0:
        scores = emit("Mul", scores, emit.scalar(scale))
    mask = node.input(3)
    if mask is not None and mask.type.dtype is DType.BOOL:
        scores = emit("Where", mask, scores, emit.scalar(float(node.attrs.get("mask_value", _LOWEST))))  # type: ignore[arg-type]
    elif mask is not None:
        scores = emit("Add", scores, mask)
    if node.attrs.get("causal", 0):
        scores = emit("Where", _causal(emit, scores), scores, emit.scalar(-np.inf))
    y = emit("MatMul", emit("Softmax", scores, axis=-1), v)
    return [y if node.attrs.get("y_layout", BHSD) == BHSD else emit.swapped(y, 0, 2, 1, 3)]


def _heads_first(node: Node, emit: _Emitter, index: int) -> Value:
    value = node.operand(index)
    return value if node.attrs.get(f"{'qkv'[index]}_layout", BHSD) == BHSD else emit.swapped(value, 0, 2, 1, 3)


def _repeat_heads(emit: _Emitter, x: Value, times: int) -> Value:
    """[B, H, S, D] to [B, H * times, S, D], each head `times` times in a row."""
    wide = emit("Concat", *[emit("Unsqueeze", x, emit.ints(2))] * times, axis=2)
    heads = x.type.dims[1]
    return emit("Reshape", wide, emit.ints(0, int(heads) * times, -1, int(x.type.dims[3])))


def _causal(emit: _Emitter, scores: Value) -> Value:
    """bool [S_q, S_k]: true where key j <= query i + S_k - S_q."""
    rows, columns = (emit("Shape", scores, start=axis, end=axis + 1) for axis in (2, 3))
    shape = emit("Concat", rows, columns, axis=0)
    ones = emit("ConstantOfShape", shape, value=np.ones(1, np.int64))
    behind = emit("Squeeze", emit("Sub", columns, rows), emit.ints(0))
    return emit("Cast", emit("Trilu", ones, behind, upper=0), to=DType.BOOL)
