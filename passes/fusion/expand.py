"""Fused ops back into the ONNX nodes they stand for, for a backend that has no kernel for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...compiler.ir import Graph, Node
from ...compiler.ops.fused import FUSED, is_regular_attention
from ..base import PassContext, register_pass
from ..rewrite import adopt_type, apply_rules
from ..simplify.identities import NoOp
from ..simplify.views import TransposeOfTranspose
from .matmul import MatMulScale, MatMulTranspose


@register_pass
@dataclass(frozen=True)
class ExpandFused:
    """Expands every fused op but those in `keep`, and with `keep_regular` attentions of the form that kernels take.

    Where optc.MatMul is kept, it takes in the transposes and scales that an expanded attention leaves.
    """

    name: ClassVar[str] = "expand-fused"
    keep: tuple[str, ...] = ()
    keep_regular: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        from ...compiler.onnx import fused  # noqa: F401  (registers the expansions)
        from ...compiler.onnx.expand import EXPANSIONS

        nodes = [n for n in graph.all_nodes() if n.op in FUSED and not self._keeps(n)]
        for node in nodes:
            if node.graph is not None:
                values = EXPANSIONS[node.op](node.graph, node)
                for old, new in zip(node.outputs, values, strict=True):
                    adopt_type(old, new, [] if new.producer is None else [new.producer])
                node.graph.replace(node, values)
        ctx.count(self.name, len(nodes))
        if nodes and "optc.MatMul" in self.keep:
            apply_rules(graph, [MatMulTranspose(), MatMulScale()], ctx)  # before transposes merge with others
            apply_rules(graph, [TransposeOfTranspose(), NoOp()], ctx)
        return bool(nodes)

    def _keeps(self, node: Node) -> bool:
        return node.op in self.keep or (
            self.keep_regular and node.op == "optc.Attention" and is_regular_attention(node)
        )
