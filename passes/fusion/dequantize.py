"""Every reader of dequantized bytes gets a DequantizeLinear of its own, right before it.

    d = D(x); a = f(d); b = g(d)   ->   a = f(D(x)); b = g(D(x))

Reading a byte as a float costs what reading it costs, so a kernel that does it itself saves a tensor of floats; but a
kernel can take in only what no other kernel reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...compiler.ir import Graph, Node, Use
from ...compiler.ops.base import op_of
from ..base import PassContext, register_pass

READS_BYTES = frozenset({"ReduceMean", "Resize", "optc.AveragePool"})
"""Ops with kernels that read operand 0 through a DequantizeLinear."""


@register_pass
@dataclass(frozen=True)
class DequantizeAtReaders:
    """Readers that take no DequantizeLinear in (a float product) share one, as do nested graphs."""

    name: ClassVar[str] = "dequantize-at-readers"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        changed = 0
        for node in list(graph.nodes):
            for sub in node.subgraphs.values():
                changed += self.run(sub, ctx)
            if node.op == "DequantizeLinear" and not node.operand(0).is_constant:
                changed += _spread(graph, node)
        ctx.count(self.name, changed)
        return changed > 0


def _spread(graph: Graph, node: Node) -> int:
    """Returns the number of nodes made; one that is only moved is the same graph."""
    taking = [u for u in node.output.uses if _takes_in(graph, u)]
    users = list(dict.fromkeys(u.user for u in taking if isinstance(u.user, Node)))
    if len(taking) == len(node.output.uses) and len(users) == 1:
        if not _stands_before(node, users[0]):
            graph.move_before(node, users[0])
        return 0
    for user in users:
        copy = graph.emit(node.op, node.inputs, node.attrs, names=[node.output.name], before=user, loc=node.loc).output
        copy.type = node.output.type
        for slot in [u.slot for u in taking if u.user is user]:
            graph.set_input(user, slot, copy)
    if users and not node.output.uses:
        graph.erase(node)
    return len(users)


def _stands_before(node: Node, user: Node) -> bool:
    """Whether only other DequantizeLinears lie between."""
    after = node._next
    while after is not None and after.op == "DequantizeLinear":
        after = after._next
    return after is user


def _takes_in(graph: Graph, use: Use) -> bool:
    user = use.user
    return isinstance(user, Node) and user.graph is graph and _converts(user)


def _converts(node: Node) -> bool:
    return op_of(node).pointwise or node.op in READS_BYTES
