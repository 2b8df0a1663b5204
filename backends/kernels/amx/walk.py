"""How a product walks along k in tile-sized steps, and the order in which its packed weights follow.

A row of A is one or several runs of contiguous elements (of a convolution: the taps of a kernel row). A run is cut into
steps of equal width; where they do not fit, the last one starts early and overlaps the one before it, and the weights
of what was covered already are zero. So no load passes the end of a run that is at least one step long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...isa.amx import COLUMNS, TileType


@dataclass(frozen=True)
class Walk:
    """Runs of `lengths` elements, taken `step` (a multiple of `kind.group`) at a time. A run shorter than a step is
    read beyond its end, with weights of zero there: right for integers, of which no value times zero is not zero.
    Floats read there must be zeros or lie in another run (`passes_end`)."""

    kind: TileType
    lengths: tuple[int, ...]
    step: int

    @staticmethod
    def of(kind: TileType, lengths: Sequence[int]) -> Walk:
        """The walk with the fewest steps, and the narrowest such steps: tiles load faster."""

        def steps(width: int) -> int:
            return sum(-(-length // width) for length in lengths)

        widths = range(kind.group, kind.depth + 1, kind.group)
        return Walk(kind, tuple(lengths), min(widths, key=lambda width: (steps(width), width)))

    def starts(self, run: int) -> list[int]:
        """Where the steps of a run start."""
        length = self.lengths[run]
        last = max(0, length - self.step)
        return [min(start, last) for start in range(0, length, self.step)]

    def all_starts(self) -> list[tuple[int, int]]:
        """(run, start in the run) of every step."""
        return [(run, start) for run in range(len(self.lengths)) for start in self.starts(run)]

    def stretches(self, cuts: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
        """The steps as stretches of evenly spaced ones: run, start in the run, steps before, steps. None goes across
        one of `cuts`, numbers of steps."""
        first = 0
        steps = self.all_starts()
        for end in range(1, len(steps) + 1):
            run, start = steps[end - 1]
            if end == len(steps) or end in cuts or steps[end] != (run, start + self.step):
                yield (*steps[first], first, end - first)
                first = end

    @property
    def passes_end(self) -> int:
        """How many elements of a float beyond a run are read: one, where a short run is of odd length."""
        return max(0, self.step - min(self.lengths)) if self.kind.is_float else 0

    @property
    def steps(self) -> int:
        return len(self.all_starts())

    @property
    def tile(self) -> int:
        """Elements of one tile of B."""
        return self.step * COLUMNS

    def packed(self, columns: int) -> int:
        """Elements of a packed B of so many columns."""
        return self.steps * self.tile * -(-columns // COLUMNS)

    def pack(self, b: np.ndarray, width: int) -> np.ndarray:
        """B [k, columns], k in the order of the runs, as [panel][step][tile of the panel][k / group][column][group].

        A panel is `width` tiles wide, the last one as wide as it needs to be; columns that are missing are zero.
        """
        columns = b.shape[1]
        tiles = -(-columns // COLUMNS)
        padded = np.zeros((b.shape[0] + 1, tiles * COLUMNS), b.dtype)  # the last row: weights of nothing
        padded[:-1, :columns] = b
        group = self.kind.group
        by_tile = padded[self._sources()].reshape(self.steps, self.step // group, group, tiles, COLUMNS)
        by_tile = by_tile.transpose(3, 0, 1, 4, 2)  # tile, step, k / group, column, group
        panels = [by_tile[first : first + width] for first in range(0, tiles, width)]
        return np.concatenate([panel.swapaxes(0, 1).reshape(-1) for panel in panels])

    def _sources(self) -> np.ndarray:
        """For each step and element the row of B it multiplies, or -1."""
        out = np.full((self.steps, self.step), -1)
        step = first = 0
        for run, length in enumerate(self.lengths):
            done = 0
            for start in self.starts(run):
                end = min(start + self.step, length)
                out[step, done - start : end - start] = np.arange(first + done, first + end)
                done, step = end, step + 1
            first += length
        return out
