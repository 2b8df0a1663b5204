"""Weights in a kernel's order, stored as the model has them where the kernel's order takes more room.

Kernels want sums padded to whole tiles, taps repeated for neighbouring rows, bytes interleaved: a narrow layer grows to
two or three times its size. But a packing function only moves elements. Applied to their numbers it shows where each
one goes, and that map folds into a few nests of loops with constant strides, which the runtime runs once when a model
is loaded (runtime/c/unpack.c). What packing does not make larger is stored packed, and mapped from the file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MOST_AXES = 8
"""Loops of a nest; the C runtime recurses so deep."""
FEWEST_SAVED = 1 / 16
"""Share of its packed size that a weight must save to be unpacked into memory of its own: mapped pages are shared."""
BOX_BYTES, AXIS_BYTES = 28, 12
"""What a description takes in the code (optc_box, optc_axis)."""


class Axis(NamedTuple):
    """A loop of so many steps, each `to` elements on in the packed array and `origin` in the source."""

    steps: int
    to: int
    origin: int


class Box(NamedTuple):
    """A strided copy: from element `origin` of the source to element `to`, through `axes`, the outermost first."""

    to: int
    origin: int
    axes: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Packed:
    """The weight `pack(source)`. `pack` may take any dtype; it moves elements and leaves zeros between them."""

    source: np.ndarray
    pack: Callable[[np.ndarray], np.ndarray]

    @functools.cached_property
    def array(self) -> np.ndarray:
        return np.ascontiguousarray(self.pack(self.source))

    def boxes(self) -> list[Box] | None:
        """How to make `array` from `source`; None where `array` may as well be stored itself."""
        saved = self.array.nbytes - self.source.nbytes
        if saved < self.array.nbytes * FEWEST_SAVED or self.array.size >= 1 << 31:
            return None
        numbers = np.arange(1, self.source.size + 1, dtype=np.int32).reshape(self.source.shape)
        boxes = fold(self.pack(numbers))
        if saved <= sum(BOX_BYTES + AXIS_BYTES * len(box.axes) for box in boxes):
            return None
        moves_only = np.array_equal(unfold(boxes, self.source, self.array.shape), self.array)
        return boxes if moves_only else None


def fold(numbers: np.ndarray) -> list[Box]:
    """The boxes that make a packed array: its element i is the source's element `numbers[i] - 1`, or zero for 0.

    Single elements are boxes to begin with. Of all steps between neighbours of one shape the commonest becomes a loop,
    everywhere it occurs in succession; and so on with what this makes, from the inside out.
    """
    to = np.flatnonzero(numbers)
    origin = numbers.reshape(-1)[to].astype(np.int64) - 1
    kind = np.zeros(len(to), np.int64)
    shapes: list[tuple[Axis, ...]] = [()]
    for _ in range(MOST_AXES):
        alike = kind[1:] == kind[:-1]
        if not alike.any():
            break
        steps = (np.diff(to) << 32) + np.diff(origin)
        values, counts = np.unique(steps[alike], return_counts=True)
        common = values[counts.argmax()]
        first = np.concatenate([[0], np.flatnonzero(~alike | (steps != common)) + 1])
        example = np.flatnonzero(alike & (steps == common))[0]
        stride = int(to[example + 1] - to[example]), int(origin[example + 1] - origin[example])
        lengths = np.diff(np.append(first, len(to)))
        keys, kind = np.unique((kind[first] << 32) + lengths, return_inverse=True)
        old = [(shapes[key >> 32], int(key & 0xFFFFFFFF)) for key in keys]
        shapes = [(Axis(count, *stride), *shape) if count > 1 else shape for shape, count in old]
        order = np.lexsort((to[first], kind))
        to, origin, kind = to[first][order], origin[first][order], kind[order]
    return [Box(int(t), int(o), shapes[k]) for t, o, k in zip(to, origin, kind, strict=True)]


def unfold(boxes: Sequence[Box], source: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The packed array of this shape: what the runtime does, in numpy."""
    out, flat = np.zeros(math.prod(shape), source.dtype), np.ascontiguousarray(source).reshape(-1)
    for box in boxes:
        extents = [axis.steps for axis in box.axes]
        ours, theirs = ([a[i] * source.itemsize for a in box.axes] for i in (1, 2))
        part = np.lib.stride_tricks.as_strided(flat[box.origin :], extents, theirs, writeable=False)
        np.lib.stride_tricks.as_strided(out[box.to :], extents, ours)[...] = part
    return out.reshape(shape)
