"""Tail duplication: where the branches of an If differ in rank, what depends on the rank moves into both.

y = If(c) {return a} {return b}; z = f(y)   ->   z = If(c) {return f(a)} {return f(b)}

Exporters write If(Equal(dim, 1)) {Squeeze(x)} {x}: only inside a branch does what follows have a rank. There the types
are inferred anew, knowing the outcome of the condition; further Ifs it decides are inlined, and a branch in which some
node does not fit its operands becomes a trap (compiler/ops/control.py). Nodes after the last one that meets an unknown
rank stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from ..compiler.errors import ShapeError, UnsupportedError
from ..compiler.ir import Graph, Node, Value, captures
from ..compiler.ops.base import infer_node
from ..compiler.ops.content import content_of
from ..compiler.ops.control import TRAP, is_trap, make_trap
from ..compiler.types import Dim, DType, as_dim, same_dim
from .base import PassContext, register_pass
from .simplify.control import splice

_BRANCHES = {"then_branch": True, "else_branch": False}
_TRANSPARENT = ("Not", "Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape")
_SMALL = 64  # nodes: growth of small graphs is not bounded by a factor


@register_pass
@dataclass(frozen=True)
class DuplicateTails:
    """Gives every If a rank. Raises UnsupportedError if the graph would grow to more than `max_growth` times its
    nodes."""

    name: ClassVar[str] = "duplicate-tails"
    max_growth: int = 4

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        if not any(n.op == "If" and _has_unknown_rank(n.outputs) for n in graph.all_nodes()):
            return False
        duplicator = _Duplicator(graph, self.max_growth * max(_size(graph), _SMALL), ctx)
        duplicator.settle(graph, _Facts())
        return duplicator.changed


def _size(graph: Graph) -> int:
    return sum(1 for _ in graph.all_nodes())


def _has_unknown_rank(values: Iterable[Value | None]) -> bool:
    return any(v is not None and v.type.shape is None for v in values)


class _Duplicator:
    def __init__(self, root: Graph, limit: int, ctx: PassContext) -> None:
        self.root, self.limit, self.ctx = root, limit, ctx
        self.changed = False

    def settle(self, graph: Graph, facts: _Facts) -> None:
        """Infers the nodes of a graph in order, moving tails on the way. Raises ShapeError if a node does not fit."""
        for node in graph.nodes:
            self.node(graph, node, facts)

    def node(self, graph: Graph, node: Node, facts: _Facts) -> None:
        if node.op != "If":
            infer_node(node)
            if node.subgraphs:
                for body in node.subgraphs.values():
                    self.settle(body, facts)
                infer_node(node)
            return
        truth = facts.decide(node.operand(0))
        if truth is not None:
            self.take(graph, node, truth, facts)
            return
        self.branches(node, facts)
        if _has_unknown_rank(node.outputs):
            tail = _tail(node)
            if tail:
                for passed in self.move(graph, node, tail):
                    self.node(graph, passed, facts)
                if node.graph is graph:  # it may have become part of another If's tail
                    self.branches(node, facts)

    def branches(self, node: Node, facts: _Facts) -> None:
        """Settles both branches; one that does not fit becomes a trap, unless both do not."""
        trapped = 0
        for key, truth in _BRANCHES.items():
            branch = _branch(node, key)
            try:
                self.settle(branch, facts.given(node.operand(0), truth))
            except ShapeError as error:
                make_trap(branch, len(branch.outputs), f"{node.name}: {key} cannot run: {error}")
                self.changed = True
            trapped += is_trap(branch)
        if trapped == len(_BRANCHES):
            raise ShapeError("neither branch fits the shapes", node=node.name)
        infer_node(node)

    def take(self, graph: Graph, node: Node, truth: bool, facts: _Facts) -> None:
        """Puts the branch that is always taken in place of the If."""
        branch = _branch(node, "then_branch" if truth else "else_branch")
        inner = list(branch.nodes)
        graph.replace(node, splice(graph, branch, node))
        self.ctx.count("if-implied")
        self.changed = True
        for each in inner:
            self.node(graph, each, facts)

    def move(self, graph: Graph, node: Node, tail: list[Node]) -> list[Node]:
        """Moves the nodes `tail` into both branches of an If, which comes to stand where the last of them was.

        Returns the nodes that stood behind it and now stand before it.
        """
        inside = {n for each in tail for n in (each, *(i for g in each.subgraphs.values() for i in g.all_nodes()))}
        own = inside | {g for n in inside for g in n.subgraphs.values()}
        live = [v for each in tail for v in each.outputs if any(u.user not in own for u in v.uses)]
        stays = [n for n in _dependents(node, until=tail[-1]) if n not in inside]
        passed = [n for n in _after(node, until=tail[-1]) if n not in inside and n not in stays]
        follower = tail[-1]._next
        moved = graph.subgraph("tail")
        for each in tail:
            graph.detach(each)
            each._next = None
            moved.insert(each)
        moved.set_outputs(live)
        for each in (node, *stays):
            graph.move_before(each, follower)
        _extend(graph, node, moved)
        self.ctx.count(DuplicateTails.name, len(tail))
        self.changed = True
        if _size(self.root) > self.limit:
            raise UnsupportedError(
                "the branches of this If differ in rank, and with what follows copied into both the graph has more "
                f"than {self.limit} nodes",
                node=node.name,
                hint="Give the shapes of the inputs, so that its condition is known.",
            )
        return passed


def _branch(node: Node, key: str) -> Graph:
    branch = node.attrs[key]
    assert isinstance(branch, Graph)
    return branch


def _reads(node: Node) -> set[Value]:
    """What a node reads, its subgraphs included; constants left out."""
    reads = {v for v in node.inputs if v is not None and not v.is_constant}
    return reads.union(*map(captures, node.subgraphs.values()))


def _after(node: Node, until: Node | None = None) -> Iterator[Node]:
    """The nodes of the same graph behind a node, up to `until` (included)."""
    while node is not until and node._next is not None:
        node = node._next
        yield node


def _dependents(node: Node, until: Node | None = None) -> list[Node]:
    """Those of them that depend on the node."""
    made, found = set(node.outputs), []
    for each in _after(node, until):
        if _reads(each) & made:
            found.append(each)
            made.update(each.outputs)
    return found


def _tail(node: Node) -> list[Node]:
    """The dependents of an If up to the last that meets an unknown rank, without those that lead to none."""
    wanted: set[Value] = set()
    tail: list[Node] = []
    for each in reversed(_dependents(node)):
        reads = _reads(each)
        if _has_unknown_rank([*reads, *each.outputs]) or wanted & set(each.outputs):
            tail.append(each)
            wanted |= reads
    tail.reverse()
    return tail


def _extend(graph: Graph, node: Node, tail: Graph) -> None:
    """Appends a copy of `tail` to each branch of an If, whose results become what is read of it and of the tail."""
    old = node.outputs
    for key in _BRANCHES:
        branch = _branch(node, key)
        if is_trap(branch):
            continue
        mapping = {c: c for c in tail.constants()} | dict(zip(old, branch.outputs, strict=True))
        copy = tail.clone(mapping)
        _forget(copy)
        branch.set_outputs([*branch.outputs, *splice(branch, copy, None)])
    made = [Value(graph.fresh_name(v.name), v.type.with_shape(None)) for v in tail.outputs]
    for value, new in zip(tail.outputs, made, strict=True):
        graph.replace_uses(value, new)
    tail.clear()
    kept = [index for index, value in enumerate((*old, *made)) if value.uses]
    node.outputs = tuple(value for value in (*old, *made) if value.uses)
    for index, value in enumerate(node.outputs):
        value.producer, value.index = node, index
    for key in _BRANCHES:
        branch = _branch(node, key)
        if is_trap(branch):
            message = next(str(n.attrs["message"]) for n in branch.nodes if n.op == TRAP)
            make_trap(branch, len(kept), message)
        else:
            results = [branch.outputs[index] for index in kept]
            branch.set_outputs(results, [f"{key}.{index}" for index in range(len(kept))])


def _forget(graph: Graph) -> None:
    """Drops what was known of all values: it may be that of the other branch, or name symbols bound there."""
    for node in graph.all_nodes():
        for value in (*node.outputs, *(v for g in node.subgraphs.values() for v in g.inputs)):
            value.type, value.content = value.type.with_shape(None), None


# --- what conditions imply -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Claim:
    """That two dims are equal, or that a value is true; or the contrary."""

    equal: tuple[Dim, Dim] | None
    value: Value
    holds: bool = True


@dataclass(frozen=True)
class _Facts:
    """The claims known to hold in a branch."""

    claims: tuple[_Claim, ...] = ()

    def given(self, condition: Value, truth: bool) -> _Facts:
        claim = _claim(condition)
        return _Facts((*self.claims, replace(claim, holds=claim.holds is truth)))

    def decide(self, condition: Value) -> bool | None:
        """Whether a condition is true, None if that is not known."""
        content = content_of(condition)
        if content is not None and content.size == 1:
            return bool(content.flat[0])
        asked = _claim(condition)
        for fact in self.claims:
            if fact.value is asked.value:
                return fact.holds is asked.holds
        equal = None if asked.equal is None else self._equal(*asked.equal)
        return None if equal is None else equal is asked.holds

    def _equal(self, a: Dim, b: Dim) -> bool | None:
        known = [(f.equal, f.holds) for f in self.claims if f.equal is not None]
        for (x, y), holds in known:
            for symbol, dim in ((x, y), (y, x)):
                if holds and not isinstance(symbol, int) and symbol.is_Symbol:
                    a, b = (d if isinstance(d, int) else as_dim(d.subs(symbol, dim)) for d in (a, b))
        if same_dim(a, b):
            return True
        if isinstance(a, int) and isinstance(b, int):
            return False
        return next((holds for pair, holds in known if _same_pair(pair, (a, b))), None)


def _same_pair(one: tuple[Dim, Dim], other: tuple[Dim, Dim]) -> bool:
    (a, b), (c, d) = one, other
    return (same_dim(a, c) and same_dim(b, d)) or (same_dim(a, d) and same_dim(b, c))


def _claim(condition: Value) -> _Claim:
    """What a condition says, seen through Not and what only changes its shape."""
    holds = True
    while (node := condition.producer) is not None:
        source = node.inputs[0] if node.inputs else None
        if source is None or source.type.dtype is not DType.BOOL or node.op not in _TRANSPARENT:
            break
        holds = holds is (node.op != "Not")
        condition = source
    if node is not None and node.op == "Equal":
        left, right = (content_of(v) for v in node.inputs)
        if left is not None and right is not None and left.size == right.size == 1:
            return _Claim((left.flat[0], right.flat[0]), condition, holds)
    return _Claim(None, condition, holds)
