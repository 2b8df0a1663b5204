"""Concat without copies: values that lie within the tensor they become a part of.

The parts of a Concat along the last axis are written where the whole needs them, rows as far apart as the whole's
(their `pitch`); along an axis with nothing but dims of 1 before it they lie one after the other. Where all parts of a
Concat lie side by side in another whole, as in a dense block, it is a slice of that one, and nothing is left to do.

A value can be a slice if what makes it stores rows at a pitch and what reads it reads them so; the caller says which
regions do. What cannot is copied to its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..compiler.ir import Node, Value
from ..compiler.ops.base import attr_int
from ..compiler.types import Dim, DType, same_dim
from ..passes.regions import Region

FEWEST_BYTES = 16
"""Shorter rows are stored and read faster side by side."""
SMALL_WHOLE = 1024
"""Concats of fewer bytes (unknown dims taken for 1) are copied by one kernel: less than the start of a few."""
_NOT_DATA = frozenset((DType.STRING, DType.I64))
"""Strings hold no bytes of theirs, and int64 is what shapes are made of."""


@dataclass(frozen=True)
class Slice:
    """Where a value lies: from element `offset` of `whole` on, rows `pitch` elements apart (None: without gaps)."""

    whole: Value
    offset: Dim = 0
    pitch: int | None = None

    def is_same(self, other: Slice) -> bool:
        return self.whole is other.whole and self.pitch == other.pitch and same_dim(self.offset, other.offset)


@dataclass(frozen=True)
class Part:
    """A part of a Concat and where the Concat wants it."""

    value: Value
    place: Slice


class Slices:
    """Which values of a graph, given as its regions, lie within others (`places`).

    `stores(region, value, pitch)`: the region can write its output `value` at any place, its rows `pitch` apart unless
    that is None; `reads(region, value)`: it can read its input at a pitch.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        stores: Callable[[Region, Value, int | None], bool],
        reads: Callable[[Region, Value], bool],
    ) -> None:
        self.places: dict[Value, Slice] = {}
        self._stores, self._reads = stores, reads
        self._makers = {v: region for region in regions for v in region.outputs}
        self._readers: dict[Value, list[Region]] = {}
        for region in regions:
            for value in region.inputs:
                self._readers.setdefault(value, []).append(region)
        for region in reversed(regions):
            if is_concat(region):
                self._settle(region.last)

    @property
    def pitches(self) -> dict[Value, int]:
        """Of the values whose rows do not follow each other."""
        return {value: place.pitch for value, place in self.places.items() if place.pitch is not None}

    def parts(self, node: Node) -> list[Part]:
        """The parts of a Concat where the Concat is made of them; none if it is better copied."""
        if node.outputs[0] not in self.places and not any(p.place.is_same(self._place(p)) for p in self._wanted(node)):
            return []
        return self._wanted(node)

    def is_in_place(self, part: Part) -> bool:
        return part.place.is_same(self._place(part))

    def _place(self, part: Part) -> Slice:
        return self.places.get(part.value, Slice(part.value))

    def _wanted(self, node: Node) -> list[Part]:
        """Where the parts of a Concat belong, if it is of a kind whose parts can be slices."""
        whole = node.outputs[0]
        dims = whole.type.dims
        axis = attr_int(node, "axis", 0) % len(dims)
        home = self.places.get(whole, Slice(whole))
        pitch: int | None
        if home.pitch is None and all(isinstance(d, int) and d == 1 for d in dims[:axis]):
            pitch = None
        elif axis == len(dims) - 1 and isinstance(dims[-1], int):
            pitch = home.pitch or dims[-1]
        else:
            return []
        parts, offset = [], home.offset
        for value in node.inputs:
            if value is not None:
                parts.append(Part(value, Slice(home.whole, offset, pitch)))
                offset = offset + (value.type.numel if pitch is None else value.type.dims[axis])
        return parts

    def _settle(self, node: Node) -> None:
        """Finds places for the parts of a Concat, or for the Concat where its parts lie."""
        whole, first = node.outputs[0], node.operand(0)
        if whole.type.dtype in _NOT_DATA or _least_bytes(whole) < SMALL_WHOLE:
            return
        if not self._stores(self._makers[whole], whole, None):
            return
        if whole not in self.places and first in self.places and self._is_free(whole, self.places[first].pitch):
            self.places[whole] = self.places[first]
            if not all(map(self.is_in_place, self._wanted(node))):
                del self.places[whole]
        for part in self._wanted(node):
            if self._can_lie(part):
                self.places[part.value] = part.place

    def _can_lie(self, part: Part) -> bool:
        """Whether a value that lies by itself so far can lie where it is wanted."""
        maker = self._makers.get(part.value)
        if maker is None or part.value in self.places or not self._is_free(part.value, part.place.pitch):
            return False
        return self._stores(maker, part.value, part.place.pitch)

    def _is_free(self, value: Value, pitch: int | None) -> bool:
        """Whether a value may lie anywhere: only regions of this graph use it, and they can read it."""
        readers = self._readers.get(value, [])
        nodes = {node for region in (*readers, self._makers[value]) for node in region.nodes}
        if any(use.user not in nodes for use in value.uses):
            return False  # the graph returns it, or a subgraph reads it
        if pitch is None:
            return True
        last = value.type.dims[-1] if value.type.rank else 1
        if not isinstance(last, int) or last * value.type.dtype.itemsize < FEWEST_BYTES:
            return False
        return all(is_concat(region) or self._reads(region, value) for region in readers)


def is_concat(region: Region) -> bool:
    return len(region.nodes) == 1 and region.last.op == "Concat"


def _least_bytes(value: Value) -> int:
    """Bytes of a value whose unknown dims are 1."""
    count = value.type.dtype.itemsize
    for dim in value.type.dims:
        count *= dim if isinstance(dim, int) else 1
    return count
