"""Which elements of a graph's tensors are one channel.

Channels are born where a constant makes an axis: the outputs of a Conv or a matrix product, the columns of a table.
Such an axis is a `Source`; its elements are numbered through the whole graph, and these numbers are the labels. Rules
(rules.py says where) carry labels from axis to axis through the graph: an axis of a value has an array with a label
for each of its elements, or None if its size is fixed. Where two labelled axes meet (a residual Add) their labels are
joined element by element; where a block of elements can only go as a whole (a head, a group), they are tied. So

    unit   = the labels that are connected by joins and ties: what is kept or cut as a whole
    group  = the units whose labels lie in the same sources: these compete with each other

A constant read along a labelled axis is a `Cut`: it loses the slices whose labels go. What a channel is multiplied
into is cut with it, so removing a unit is setting it to zero where its last readers read it: nothing is assumed about
what f(0) is in between. Whatever a rule cannot carry is pinned, with the reason: a unit with a pinned label stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import networkx as nx
import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.types import Dim

Labels = np.ndarray  # int64, one for each element of an axis
Axes = tuple["Labels | None", ...]  # of a value, by axis; None: the axis keeps its size


class Source(NamedTuple):
    """An axis of a constant that makes channels; its labels are [start, start + size)."""

    node: Node
    start: int
    size: int


class Cut(NamedTuple):
    """Operand `slot` of `node`, a constant, loses slices along `axis` as `labels` go.

    `role` is "makes" where the slices compute the channels, "reads" where the channels are summed into something else,
    "follows" elsewhere (biases and the like).
    """

    node: Node
    slot: int
    axis: int
    labels: Labels
    role: str


class Pin(NamedTuple):
    """Labels that must stay, and why."""

    labels: Labels
    reason: str


@dataclass(frozen=True)
class Kept:
    """What a selection keeps: a bool for each label."""

    mask: np.ndarray

    def where(self, labels: Labels) -> np.ndarray:
        """A bool for each element of an axis."""
        kept: np.ndarray = self.mask[labels]
        return kept

    def count(self, labels: Labels) -> int:
        """How long an axis is afterwards."""
        return int(self.mask[labels].sum())


Fix = Callable[[Kept], None]


@dataclass
class Channels:
    """The channels of a graph, filled by the rules node by node, read by selection and shrinking."""

    graph: Graph
    axes: dict[Value, Axes] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    joins: list[tuple[Labels, Labels]] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    fixes: list[Fix] = field(default_factory=list)
    """What to change in attributes and shape operands once it is known what stays; run before types are inferred."""
    left: dict[Node, str] = field(default_factory=dict)
    """Nodes with weights that make no channels here, and why."""
    size: int = 0

    # --- what rules ask and say ----------------------------------------------------------------------------------

    def of(self, value: Value | None) -> Axes:
        """The labels of a value's axes; all None for constants, graph inputs and unknown ranks."""
        if value is None:
            return ()
        return self.axes.get(value) or (None,) * len(value.type.shape or ())

    def source(self, node: Node, slot: int, axis: int) -> Labels | None:
        """New channels, made by `axis` of a constant operand; None if there is just one, which nothing can cut."""
        size = int(node.operand(slot).type.static_shape[axis])
        if size < 2:
            return None
        labels = np.arange(self.size, self.size + size)
        self.sources.append(Source(node, self.size, size))
        self.size += size
        self.cut(node, slot, axis, labels, "makes")
        return labels

    def cut(self, node: Node, slot: int, axis: int, labels: Labels, role: str = "follows") -> None:
        """A constant operand follows labels."""
        self.cuts.append(Cut(node, slot, axis, labels, role))

    def match(self, node: Node, slot: int, axis: int, labels: Labels | None, role: str = "follows") -> None:
        """Axis `axis` of an operand (None, or of size 1: nothing to do) is the axis these labels are of.

        Either side may be fixed (None); then the other side is pinned.
        """
        value = node.input(slot)
        if value is None or value.type.shape is None or not value.type.shape or value.type.shape[axis] == 1:
            return
        if value.is_constant:
            if labels is not None:
                self.cut(node, slot, axis, labels, role)
            return
        other = self.of(value)[axis]
        reason = f"{self.title(node)} joins them with an axis that cannot shrink"
        if labels is None or other is None:
            self.pin(labels, reason)
            self.pin(other, reason)
        else:
            self.join(labels, other)

    def match_trailing(self, node: Node, slot: int, axes: Axes) -> None:
        """An operand (or None) that broadcasts to a result of these axes."""
        value = node.input(slot)
        rank = value.type.rank if value is not None else 0
        for axis in range(rank):
            self.match(node, slot, axis, axes[len(axes) - rank + axis])

    def together(self, node: Node, places: Sequence[tuple[int, int]], role: str = "follows") -> Labels | None:
        """Operands' axes, as (slot, axis), that become one axis: the labels of that, None if it is fixed."""
        found = [self.of(node.input(slot))[axis] for slot, axis in places]
        labels = next((a for a in found if a is not None), None)
        if labels is not None:
            for slot, axis in places:
                self.match(node, slot, axis, labels, role)
        return labels

    def join(self, a: Labels, b: Labels) -> None:
        """Element by element, these go together."""
        if a is not b:
            self.joins.append((a, b))

    def tie(self, rows: np.ndarray) -> Labels:
        """The labels of each row of a matrix go together; returns one for each row."""
        first: Labels = rows[:, 0]
        if rows.shape[1] > 1:
            self.join(np.repeat(first, rows.shape[1] - 1), rows[:, 1:].reshape(-1))
        return first

    def pin(self, labels: Labels | None, reason: str) -> None:
        if labels is not None:
            self.pins.append(Pin(labels, reason))

    def pin_value(self, value: Value | None, reason: str, but: Sequence[int] = ()) -> None:
        """Pins the labels of all axes of a value but some."""
        for axis, labels in enumerate(self.of(value)):
            if axis not in but:
                self.pin(labels, reason)

    def fix(self, change: Fix) -> None:
        self.fixes.append(change)

    @staticmethod
    def title(node: Node) -> str:
        """How reasons name a node."""
        return f"{node.op} ({node.name})"

    # --- what is known in the end --------------------------------------------------------------------------------

    def shape_after(self, value: Value, kept: Kept) -> tuple[Dim, ...]:
        """The shape of a value when only `kept` is left."""
        sizes = zip(value.type.dims, self.of(value), strict=True)
        return tuple(dim if labels is None else kept.count(labels) for dim, labels in sizes)

    def roots(self) -> np.ndarray:
        """For each label the least label of its unit: the connected components of all joins."""
        root = np.arange(self.size)
        graph = nx.Graph()
        for a, b in self.joins:
            graph.add_edges_from(zip(a.tolist(), b.tolist(), strict=True))
        for unit in nx.connected_components(graph):
            root[list(unit)] = min(unit)
        return root
