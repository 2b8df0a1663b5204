"""Control flow known at compile time.

If(constant)                                         -> the branch taken
c inside the branches of If(c)                       -> true and false
Loop(constant trip count n, condition always true)   -> n copies of the body
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.ops.base import infer_node
from ...compiler.types import Dim, DType
from ..base import PassContext, register_pass
from ..facts import bind_symbols, splat_of, symbol_binding
from ..rewrite import adopt_type


@register_pass
@dataclass(frozen=True)
class InlineControl:
    """Inlines Ifs of constant condition, and unrolls Loops of at most `max_nodes` nodes when unrolled."""

    name: ClassVar[str] = "inline-control"
    max_nodes: int = 64

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        binding: dict[object, Dim] = {}
        inlined = self._inline(graph, ctx, binding)
        bind_symbols(graph, binding)
        if inlined:
            _infer_ranks(graph)
        return inlined

    def _inline(self, graph: Graph, ctx: PassContext, binding: dict[object, Dim]) -> bool:
        changed = False
        for node in graph.nodes:
            if node.op == "If":
                changed |= _imply(node, ctx)
            for sub in node.subgraphs.values():
                changed |= self._inline(sub, ctx, binding)
            if node.op == "If":
                results = _take_branch(graph, node)
            elif node.op == "Loop":
                results = self._unroll(graph, node)
            else:
                continue
            if results is None:
                continue
            for old, new in zip(node.outputs, results, strict=True):
                binding.update(symbol_binding(old.type, new.type))
            ctx.count("if-constant" if node.op == "If" else "loop-unrolled")
            graph.replace(node, results)
            changed = True
        return changed

    def _unroll(self, graph: Graph, node: Node) -> list[Value] | None:
        """The Loop's outputs after its body was copied in front of it; None if it must stay."""
        body = node.attrs["body"]
        assert isinstance(body, Graph)
        trips = splat_of(node.input(0))
        if trips is None or trips < 1 or trips * len(body) > self.max_nodes or not _goes_on(node, body):
            return None
        states = [v for v in node.inputs[2:] if v is not None]
        count = len(states)
        scans: list[list[Value]] = [[] for _ in range(len(body.outputs) - 1 - count)]
        condition = graph.constant(np.array(True))
        for trip in range(int(trips)):
            mapping = {c: c for c in body.constants()}
            mapping |= dict(
                zip(body.inputs, [graph.constant(np.array(trip, np.int64)), condition, *states], strict=True)
            )
            results = splice(graph, body.clone(mapping), node)[1:]
            states = results[:count]
            for scan, value in zip(scans, results[count:], strict=True):
                axes = graph.constant(np.array([0], np.int64))
                scan.append(graph.emit("Unsqueeze", [value, axes], before=node, loc=node.loc).output)
        stacked = [
            scan[0] if len(scan) == 1 else graph.emit("Concat", scan, {"axis": 0}, before=node, loc=node.loc).output
            for scan in scans
        ]
        for old, new in zip(node.outputs[count:], stacked, strict=True):
            adopt_type(old, new, [] if new.producer is None else [new.producer])
        return [*states, *stacked]


def _infer_ranks(graph: Graph) -> None:
    """Types again what had no rank because the branches of an If differed in theirs."""
    for node in graph.nodes:
        if any(value.type.shape is None for value in node.outputs):
            infer_node(node)


def _imply(node: Node, ctx: PassContext) -> bool:
    """Makes the condition of an If a constant for those who read it inside the branches."""
    condition = node.operand(0)
    if condition.is_constant or condition.type.shape != ():
        return False
    readers = 0
    for key, truth in (("then_branch", True), ("else_branch", False)):
        branch = node.attrs[key]
        assert isinstance(branch, Graph)
        inside = set(branch.all_nodes())
        uses = [u for u in condition.uses if u.user in inside]
        if uses:
            constant = branch.constant(np.array(truth))
            for use in uses:
                assert isinstance(use.user, Node)
                branch.set_input(use.user, use.slot, constant)
        readers += len(uses)
    ctx.count("if-implied", readers)
    return readers > 0


def _goes_on(node: Node, body: Graph) -> bool:
    """True if neither the condition given nor the body's own ends the loop early."""
    given = node.input(1)
    following = body.outputs[0]
    while following.producer is not None and following.producer.op == "Identity":
        following = following.producer.operand(0)
    return (given is None or splat_of(given) == 1) and (following is body.inputs[1] or splat_of(following) == 1)


def _take_branch(graph: Graph, node: Node) -> list[Value] | None:
    chosen = splat_of(node.operand(0))
    if chosen is None or node.operand(0).type.dtype is not DType.BOOL:
        return None
    branch = node.attrs["then_branch" if chosen else "else_branch"]
    assert isinstance(branch, Graph)
    return splice(graph, branch, node)


def splice(graph: Graph, inner: Graph, before: Node | None) -> list[Value]:
    """Moves the nodes of `inner`, whose inputs are mapped already, in front of `before` (None: to the end); returns
    its outputs."""
    results = list(inner.outputs)
    inner.set_outputs([], [])
    for node in list(inner.nodes):
        inner.detach(node)
        _rename(node, graph)
        if before is not None:
            node.loc = before.loc.merged(node.loc)
        graph.insert(node, before)
    return results


def _rename(node: Node, graph: Graph) -> None:
    """Names unique in `graph` for what a node, and all within it, computes."""
    for value in node.outputs:
        value.name = graph.fresh_name(value.name)
    for sub in node.subgraphs.values():
        for value in sub.inputs:
            value.name = graph.fresh_name(value.name)
        for inner in sub.nodes:
            _rename(inner, graph)
