"""What a graph costs: multiply-adds of convolutions and matrix products."""

from __future__ import annotations

from .ir import Graph, Node
from .types import Dim


def total_macs(graph: Graph) -> Dim:
    """Multiply-adds of all convolutions and matrix products, an expression where dims are symbolic."""
    total: Dim = 0
    for node in graph.all_nodes():
        total = total + macs(node)
    return total


def macs(node: Node) -> Dim:
    """Multiply-adds of one node; 0 for all but convolutions and matrix products."""
    kind = node.op.removeprefix("optc.").removesuffix("Integer").removesuffix("Packed")
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
