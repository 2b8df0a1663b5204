"""Cuts a graph into regions, each to become one kernel: an anchor with what follows it, or a pointwise group.

Nodes are taken from the end. A region starts at a node nobody has taken and absorbs a producer when all readers of the
producer lie in the region (so nothing is computed twice and the region stays convex) and both work on the same
elements. At most one anchor joins, as the producer of what the rest computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..compiler.ir import Graph, Node, Value
from ..compiler.types import Shape, same_dim

Absorbs = Callable[[Node], bool]


@dataclass(frozen=True)
class Region:
    """Nodes in graph order. `anchor` is the first of them, or None for a pointwise group."""

    nodes: tuple[Node, ...]
    anchor: Node | None

    @property
    def last(self) -> Node:
        return self.nodes[-1]

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


def partition(graph: Graph, is_pointwise: Absorbs, takes_epilogue: Absorbs) -> list[Region]:
    """The regions of a graph, in an order in which they can run.

    `is_pointwise(node)`: the node may be computed element by element inside a region. `takes_epilogue(node)`: the
    node has a template that lets pointwise nodes follow in registers.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    taken: set[Node] = set()
    regions: list[Region] = []
    for node in reversed(list(order)):
        if node in taken:
            continue
        own = {node}
        anchor = node if takes_epilogue(node) else None
        if is_pointwise(node) and len(node.outputs) == 1:
            anchor = _grow(node, own, taken, order, is_pointwise, takes_epilogue)
        taken |= own
        regions.append(Region(tuple(sorted(own, key=order.__getitem__)), anchor))
    regions.reverse()
    return regions


def _grow(
    sink: Node,
    own: set[Node],
    taken: set[Node],
    order: dict[Node, int],
    is_pointwise: Absorbs,
    takes_epilogue: Absorbs,
) -> Node | None:
    shape = sink.output.type.dims
    anchor: Node | None = None
    found = True
    while found:
        found = False
        producers = {v.producer for n in own for v in n.inputs if v is not None and v.producer is not None}
        for producer in sorted((p for p in producers if p not in own), key=lambda p: order.get(p, -1), reverse=True):
            if producer not in order or producer in taken or not _only_read_by(producer, own, anchor):
                continue
            if not _same_shape(producer.outputs[0].type.shape, shape):
                continue
            if is_pointwise(producer) and len(producer.outputs) == 1:
                if anchor is None or order[producer] > order[anchor]:  # the anchor stays first
                    own.add(producer)
                    found = True
            elif anchor is None and takes_epilogue(producer) and _follows(producer, own, order):
                own.add(producer)
                anchor = producer
                found = True
    return anchor


def _only_read_by(producer: Node, own: set[Node], anchor: Node | None) -> bool:
    """All uses lie in the region (what the anchor reads is no part of it); only the first output is used at all."""
    if any(v.uses for v in producer.outputs[1:]):
        return False
    uses = producer.outputs[0].uses
    return bool(uses) and all(u.user in own and u.user is not anchor for u in uses)


def _follows(anchor: Node, own: set[Node], order: dict[Node, int]) -> bool:
    """Every node of the region comes after the anchor, so nothing the anchor needs waits for the region."""
    return all(order[n] > order[anchor] for n in own)


def _same_shape(a: Shape | None, b: Sequence[object]) -> bool:
    return a is not None and len(a) == len(b) and all(same_dim(x, y) for x, y in zip(a, b, strict=True))
