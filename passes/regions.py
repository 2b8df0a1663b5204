"""Cuts a graph into regions, each to become one kernel: an anchor with what follows it, or a pointwise group.

Nodes are taken from the end. A region starts at a node nobody has taken and absorbs a producer when all readers of the
producer lie in the region (so nothing is computed twice and the region stays convex) and both work on the same
elements. At most one anchor joins, as the producer of what the rest computes. A producer that is free, as converting a
byte to a float is, may be smaller than what it is broadcast to, and may feed a gather: an anchor, or a node in an
anchor's place (Resize...), that reads its operand wherever it likes, so what is computed there must cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..compiler.ir import Graph, Node, Value
from ..compiler.types import Shape, same_dim

Absorbs = Callable[[Node], bool]


@dataclass(frozen=True)
class Region:
    """Nodes in graph order. `anchor` is the one that others follow, or None for a pointwise group; only free nodes
    that it reads stand before it."""

    nodes: tuple[Node, ...]
    anchor: Node | None

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    @property
    def before(self) -> tuple[Node, ...]:
        """What the anchor reads through."""
        return () if self.anchor is None else self.nodes[: self.nodes.index(self.anchor)]

    @property
    def after(self) -> tuple[Node, ...]:
        """What follows the anchor; everything if there is none."""
        return self.nodes if self.anchor is None else self.nodes[self.nodes.index(self.anchor) + 1 :]

    @property
    def name(self) -> str:
        """What profiles and messages call it: its ops and where it comes from."""
        ops = "+".join(n.op.removeprefix("optc.") for n in self.nodes[:4]) + ("+..." if len(self.nodes) > 4 else "")
        return f"{ops} {self.last.outputs[0].name}"

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What is read outside, in order."""
        own = set(self.nodes)
        return tuple(
            v for n in self.nodes for v in n.outputs if any(u.user not in own for u in v.uses) or (n is self.last)
        )

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What it reads of others, each once, constants included."""
        made = {v for n in self.nodes for v in n.outputs}
        return tuple(dict.fromkeys(v for n in self.nodes for v in n.inputs if v is not None and v not in made))


def _nothing(_: Node) -> bool:
    return False


@dataclass(frozen=True)
class _Kinds:
    pointwise: Absorbs
    anchor: Absorbs
    free: Absorbs
    gather: Absorbs


def partition(
    graph: Graph, pointwise: Absorbs, anchor: Absorbs, *, free: Absorbs = _nothing, gather: Absorbs = _nothing
) -> list[Region]:
    """The regions of a graph, in an order in which they can run.

    What a backend makes of a node: `pointwise`: it may be computed element by element inside a region. `anchor`: it has
    a template that lets pointwise nodes follow in registers. `free`: it is pointwise and costs nothing wherever it is
    read. `gather`: it reads operand 0 at indices of its own, through a free node if there is one, and pointwise nodes
    may follow.
    """
    kinds = _Kinds(pointwise, anchor, free, gather)
    order = {node: position for position, node in enumerate(graph.nodes)}
    taken: set[Node] = set()
    regions: list[Region] = []
    for node in reversed(list(order)):
        if node in taken:
            continue
        own = {node}
        head = node if anchor(node) or gather(node) else None
        if pointwise(node) and len(node.outputs) == 1:
            head = _grow(node, own, taken, order, kinds)
        if head is not None and gather(head):
            own |= {p for p in _producers([head], order) - taken if free(p) and _only_read_by(p, own, None)}
        taken |= own
        start = head if head is not None and anchor(head) else None
        regions.append(Region(tuple(sorted(own, key=order.__getitem__)), start))
    regions.reverse()
    return regions


def _producers(nodes: Iterable[Node], order: dict[Node, int]) -> set[Node]:
    """What makes the operands of nodes, in the same graph."""
    return {v.producer for n in nodes for v in n.inputs if v is not None and v.producer in order}


def _grow(sink: Node, own: set[Node], taken: set[Node], order: dict[Node, int], kinds: _Kinds) -> Node | None:
    """Adds to `own` what the region that ends in `sink` absorbs; returns the anchor or gather it starts with."""
    shape = sink.output.type.dims
    head: Node | None = None
    found = True
    while found:
        found = False
        fresh = _producers(own - {head}, order) - own - taken
        for producer in sorted(fresh, key=order.__getitem__, reverse=True):
            if not _only_read_by(producer, own, head):
                continue
            made = producer.outputs[0].type.shape
            if not (_fits(made, shape) if kinds.free(producer) else _same_shape(made, shape)):
                continue
            if kinds.pointwise(producer) and len(producer.outputs) == 1:
                if head is None or order[producer] > order[head]:  # the anchor stays first
                    own.add(producer)
                    found = True
            elif head is None and (kinds.anchor(producer) or kinds.gather(producer)) and _follows(producer, own, order):
                own.add(producer)
                head = producer
                found = True
    return head


def _only_read_by(producer: Node, own: set[Node], head: Node | None) -> bool:
    """All uses lie in the region (what its head reads is no part of it); only the first output is used at all."""
    if any(v.uses for v in producer.outputs[1:]):
        return False
    uses = producer.outputs[0].uses
    return bool(uses) and all(u.user in own and u.user is not head for u in uses)


def _follows(head: Node, own: set[Node], order: dict[Node, int]) -> bool:
    """Every node of the region comes after its head, so nothing the head needs waits for the region."""
    return all(order[n] > order[head] for n in own)


def _same_shape(a: Shape | None, b: Sequence[object]) -> bool:
    return a is not None and len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))


def _fits(small: Shape | None, big: Sequence[object]) -> bool:
    """Whether broadcasting makes the one shape of the other."""
    if small is None or len(small) > len(big):
        return False
    return all(d == 1 or same_dim(d, e) for d, e in zip(reversed(small), reversed(big), strict=False))
