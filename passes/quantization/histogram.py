"""A streaming histogram of float32 values whose bins are the floats' own leading bits.

A bin is a sign, an exponent and the first 9 bits of the fraction: 512 equal bins an octave. So bins never move as the
range grows, zero lies on an edge, an outlier or an attention mask of -10000 costs the values around 1 no resolution,
histograms merge exactly and in any order, and the bin of a value is one shift of its bits. (Log-linear histograms are
known from HdrHistogram, G. Tene 2012.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from .statistics import State, floats, not_a_number

HUGE = 1e30
"""Values of at least this magnitude are mask constants (-3.4e38, -inf): counted apart, in no range."""

_BITS = 9
_SHIFT = 23 - _BITS
_OCTAVE = 1 << _BITS
_FLOOR = (127 - 64) << _BITS
"""Bin of 2^-64: what is smaller counts as zero."""
_PER_UPDATE = 1 << 13
_BUFFER = 1 << 16


class Histogram:
    """Distribution of a value, with exact extremes.

    An array adds at most 8,192 of its values to the bins, taken at a fixed stride; `minimum` and `maximum` see all.
    `average_minimum` and `average_maximum` are the means of the arrays' own extremes. `huge` counts values beyond
    HUGE, which nothing else sees.
    """

    def __init__(self) -> None:
        self.minimum, self.maximum = math.inf, -math.inf
        self.updates = self.huge = self.zeros = 0
        self._sums = np.zeros(2)  # of the arrays' minima and maxima
        self._first = 0  # the bin in column 0, a multiple of an octave
        self._counts = np.zeros((2, 0), np.int64)  # by sign and bin of the magnitude
        self._buffer = np.empty(0, np.float32)
        self._used = 0

    @property
    def kind(self) -> str:
        return "Histogram"

    def update(self, array: np.ndarray) -> None:
        """Takes an array in. Raises CalibrationError if it holds NaN."""
        values = floats(array)
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if math.isnan(low):
            raise not_a_number()
        if low <= -HUGE or high >= HUGE:
            kept = values[np.abs(values) < HUGE]
            self.huge += values.size - kept.size
            if not kept.size:
                return
            values, low, high = kept, float(kept.min()), float(kept.max())
        self.updates += 1
        self._sums += (low, high)
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._take(values[:: _stride(values.size)])

    def _take(self, values: np.ndarray) -> None:
        """Piles values up: binning many at once costs less."""
        if self._used + values.size > self._buffer.size:
            self._flush()
        if not self._buffer.size:
            self._buffer = np.empty(_BUFFER, np.float32)
        self._buffer[self._used : self._used + values.size] = values
        self._used += values.size

    def _flush(self) -> None:
        values, self._used = self._buffer[: self._used], 0
        bins = (values.view(np.uint32) & 0x7FFFFFFF) >> _SHIFT
        present = bins >= _FLOOR
        self.zeros += values.size - int(np.count_nonzero(present))
        if self.zeros:
            values, bins = values[present], bins[present]
        if not bins.size:
            return
        self._cover(int(bins.min()), int(bins.max()))
        width = self._counts.shape[1]
        index = bins - np.uint32(self._first) + np.signbit(values) * np.uint32(width)
        self._counts += np.bincount(index, minlength=2 * width).reshape(2, width)

    def _cover(self, low: int, high: int) -> None:
        """Widens the table, by whole octaves, to hold these bins."""
        first, last = low // _OCTAVE * _OCTAVE, (high // _OCTAVE + 1) * _OCTAVE
        width = self._counts.shape[1]
        if width:
            first, last = min(first, self._first), max(last, self._first + width)
        if last - first != width:
            wider = np.zeros((2, last - first), np.int64)
            if width:
                wider[:, self._first - first : self._first - first + width] = self._counts
            self._first, self._counts = first, wider

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many values the bins hold."""
        return self.zeros + int(self._counts.sum()) + self._used

    @property
    def average_minimum(self) -> float:
        return float(self._sums[0]) / self.updates if self.updates else math.inf

    @property
    def average_maximum(self) -> float:
        return float(self._sums[1]) / self.updates if self.updates else -math.inf

    def bins(self, per_octave: int = _OCTAVE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(lower edge, upper edge, count) of the bins that hold something, ascending; all f64 [bins].

        Zeros are a bin of no width. `per_octave`, a power of two up to 512, says how fine the others are.
        """
        self._flush()
        group = _OCTAVE // per_octave
        counts = self._counts.reshape(2, -1, group).sum(2)
        edges = np.arange(self._first, self._first + self._counts.shape[1] + 1, group).astype(np.uint32)
        edges = (edges << _SHIFT).view(np.float32).astype(np.float64)
        low, high, zero = edges[:-1], edges[1:], np.zeros(1)
        ends = self.minimum, self.maximum
        lower = np.concatenate([(-high[::-1]).clip(*ends), zero, low.clip(*ends)])
        upper = np.concatenate([(-low[::-1]).clip(*ends), zero, high.clip(*ends)])
        found = np.concatenate([counts[1, ::-1], [self.zeros], counts[0]])
        held = found > 0
        return lower[held], upper[held], found[held].astype(np.float64)

    def merge(self, others: Iterable[Histogram]) -> Histogram:
        """A new histogram of all that this one and the others saw."""
        merged = Histogram()
        for each in (self, *others):
            each._flush()
            merged.minimum, merged.maximum = min(merged.minimum, each.minimum), max(merged.maximum, each.maximum)
            merged.updates, merged.huge = merged.updates + each.updates, merged.huge + each.huge
            merged.zeros, merged._sums = merged.zeros + each.zeros, merged._sums + each._sums
            if width := each._counts.shape[1]:
                merged._cover(each._first, each._first + width - 1)
                at = each._first - merged._first
                merged._counts[:, at : at + width] += each._counts
        return merged

    # --- saving --------------------------------------------------------------------------------------------------

    def state(self) -> State:
        self._flush()
        return {
            "extremes": np.array([self.minimum, self.maximum]),
            "numbers": np.array([self.updates, self.huge, self.zeros, self._first]),
            "sums": self._sums,
            "counts": self._counts,
        }

    def load(self, state: State) -> None:
        self.minimum, self.maximum = (float(x) for x in state["extremes"])
        self.updates, self.huge, self.zeros, self._first = (int(x) for x in state["numbers"])
        self._sums, self._counts = np.array(state["sums"]), np.array(state["counts"])
        self._used = 0


def _stride(size: int) -> int:
    """Coprime to the size, so that it visits every place along every axis."""
    stride = -(-size // _PER_UPDATE)
    while stride > 1 and math.gcd(stride, size) != 1:
        stride += 1
    return stride
