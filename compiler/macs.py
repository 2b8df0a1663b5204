"""What a graph costs: multiply-adds of convolutions, matrix products, attention and recurrences."""

from __future__ import annotations

from .ir import Graph, Node
from .ops.base import attr_int
from .ops.fused import attention_dims
from .types import Dim

PACKED_RECURRENT = ("optc.LSTM", "optc.GRU", "optc.RNN")


def total_macs(graph: Graph) -> Dim:
    """Multiply-adds of all nodes, an expression where dims are symbolic."""
    total: Dim = 0
    for node in graph.all_nodes():
        total = total + macs(node)
    return total


def macs(node: Node) -> Dim:
    """Multiply-adds of one node; 0 for all that multiplies no matrices."""
    if node.op == "optc.Attention":
        return _attention_macs(node)
    if node.op in PACKED_RECURRENT:  # x W is a product of its own there, and what is read is its result
        return node.operand(0).type.numel * attr_int(node, "hidden_size", 0)
    kind = node.op.removeprefix("optc.").removesuffix("Integer").removesuffix("BF16").removesuffix("Packed")
    if kind not in ("Conv", "ConvTranspose", "MatMul", "Gemm", "FusedConv"):
        return 0
    out, second = node.outputs[0].type, node.operand(1).type
    if out.shape is None or second.shape is None:
        return 0
    if kind == "Conv":
        inner: Dim = 1
        for dim in second.dims[1:]:
            inner = inner * dim
        return out.numel * inner
    if kind == "ConvTranspose":
        inner = 1
        for dim in second.dims[1:]:
            inner = inner * dim
        return node.operand(0).type.numel * inner
    trans = node.attrs.get("transB", 0)
    return out.numel * second.dims[-1 if trans or second.rank == 1 else -2]


def _attention_macs(node: Node) -> Dim:
    """Scores and their product with the values; where it is causal, the half of them that is not hidden."""
    batch, heads, queries, size = attention_dims(node, 0)
    keys, out = attention_dims(node, 1)[2], attention_dims(node, 2)[3]
    total = batch * heads * queries * keys * (size + out)
    return total // 2 if attr_int(node, "causal", 0) else total
