"""optc's own float ops: what several ONNX nodes mean together. ../onnx/fused.py says each in ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import Dim, DType, Shape, TensorType, same_dim
from .base import Op, attr_int, attr_str, broadcast_shapes, fail, register

BHSD, BSHD = "BHSD", "BSHD"
FUSED = ("optc.Attention", "optc.MatMul")


def attention_dims(node: Node, index: int) -> tuple[Dim, Dim, Dim, Dim]:
    """(batch, heads, length, head size) of operand 0, 1 or 2 of an optc.Attention, whatever its layout."""
    shape = node.operand(index).type.shape
    if shape is None or len(shape) != 4:
        fail(node, f"operand {'qkv'[index]} must have rank 4", found=node.operand(index).type)
    batch, second, third, size = shape
    if attr_str(node, f"{'qkv'[index]}_layout", BHSD) == BHSD:
        return batch, second, third, size
    return batch, third, second, size


def is_regular_attention(node: Node) -> bool:
    """Whether an optc.Attention has the form that kernels are written for: float32, heads and head sizes known, all
    other dims provably equal where they must be."""
    types = [value.type for value in node.inputs if value is not None]
    if any(t.shape is None for t in types) or any(t.dtype is not DType.F32 for t in types[:3]):
        return False
    q, k, v = (attention_dims(node, index) for index in range(3))
    if not all(isinstance(d, int) for dims in (q, k, v) for d in (dims[1], dims[3])):
        return False
    pairs = [(q[0], k[0]), (q[0], v[0]), (k[1], v[1]), (k[2], v[2]), (q[3], k[3])]
    mask = node.input(3)
    if mask is not None:
        if mask.type.dtype not in (DType.F32, DType.BOOL) or mask.type.rank > 4:
            return False
        full = (q[0], q[1], q[2], k[2])
        pairs += [(a, b) for a, b in zip(mask.type.dims[::-1], full[::-1], strict=False) if a != 1]
    return all(same_dim(a, b) for a, b in pairs)


@register
class Attention(Op):
    """y = softmax(scale * q k^T + mask, over keys) v, for each batch and head (Vaswani et al. 2017).

    Operands: q, k, v, each of rank 4 and laid out [B, H, S, D] or [B, S, H, D] as the attributes `q_layout`,
    `k_layout`, `v_layout` say ("BHSD" or "BSHD"; default "BHSD"); `y_layout` says the same of the output. Query
    head h reads key head h // (H_q / H_kv), H_kv being the heads of k and v (grouped-query attention). Optional mask,
    broadcastable to [B, H, S_q, S_k]: of q's dtype it is added to the scores; of bool, scores where it is false
    become `mask_value` (default: the lowest float32), which need not be minus infinity. `scale` is required.
    `causal` (default 0): 1 hides key j from query i where j > i + S_k - S_q.
    """

    name = "optc.Attention"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        if "scale" not in node.attrs:
            fail(node, "attribute scale is missing")
        batch, heads, length, size = attention_dims(node, 0)
        _, key_heads, _, key_size = attention_dims(node, 1)
        if isinstance(size, int) and isinstance(key_size, int) and size != key_size:
            fail(node, "head sizes of q and k differ", expected=size, found=key_size)
        if isinstance(heads, int) and isinstance(key_heads, int) and heads % key_heads:
            fail(node, "heads of q must be a multiple of heads of k", expected=f"k * {key_heads}", found=heads)
        out = attention_dims(node, 2)[3]
        shape = (batch, heads, length, out)
        if attr_str(node, "y_layout", BHSD) == BSHD:
            shape = (batch, length, heads, out)
        return [TensorType(node.operand(0).type.dtype, shape)]


@register
class FusedMatMul(Op):
    """y = alpha * op(a) op(b), op swapping the last two dims where `transA` / `transB` is 1; otherwise as MatMul."""

    name = "optc.MatMul"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = node.operand(0).type.dtype
        shapes: list[Shape] = []
        for index, flag in enumerate(("transA", "transB")):
            shape = node.operand(index).type.shape
            if shape is None:
                return [TensorType(dtype, None)]
            if len(shape) < 2:
                fail(node, "operands must have rank 2 or more", found=node.operand(index).type)
            shapes.append((*shape[:-2], shape[-1], shape[-2]) if attr_int(node, flag, 0) else shape)
        a, b = shapes
        if isinstance(a[-1], int) and isinstance(b[-2], int) and a[-1] != b[-2]:
            fail(node, "inner dims differ", expected=a[-1], found=b[-2])
        return [TensorType(dtype, (*broadcast_shapes(node, [a[:-2], b[:-2]]), a[-2], b[-1]))]
