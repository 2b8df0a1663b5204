"""From a value's distribution to the range that 8 bits span.

`range_of(histogram, method)` is the one entry. Every range holds zero, and `Range.affine` gives the scale and zero
point of a grid on which zero is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

from ...compiler.errors import UsageError
from ...compiler.types import DType
from .histogram import Histogram

Method = Literal["minmax", "average", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

_LIMITS = {DType.U8: (0, 255), DType.I8: (-127, 127)}
_SMALLEST = float(np.finfo(np.float32).tiny)


class Range(NamedTuple):
    """What is kept of a value; beyond, it is clipped. Zero is inside."""

    low: float
    high: float

    def affine(self, dtype: DType = DType.U8) -> tuple[np.float32, int]:
        """(scale, zero point) of the grid `scale * (q - zero_point)`: asymmetric for u8, symmetric for s8.

        Zero is on the grid. The scale of an empty range is 1.
        """
        lowest, highest = _LIMITS[dtype]
        if dtype is DType.I8:
            span, steps = max(-self.low, self.high), highest
        else:
            span, steps = self.high - self.low, highest - lowest
        if span <= 0:
            return np.float32(1), 0
        scale = np.float32(max(span / steps, _SMALLEST))
        zero = 0 if dtype is DType.I8 else int(np.clip(np.rint(-self.low / float(scale)), lowest, highest))
        return scale, zero


def range_of(histogram: Histogram, method: Method = "mse", dtype: DType = DType.U8) -> Range:
    """The range by one of METHODS; that of a value never seen is empty.

    Raises UsageError for an unknown method or a dtype other than u8 and s8.
    """
    if method not in _CHOICES or dtype not in _LIMITS:
        raise UsageError("no such range", expected=f"{', '.join(METHODS)} of u8 or i8", found=f"{method} of {dtype}")
    if not histogram.updates:
        return Range(0.0, 0.0)
    low, high = _CHOICES[method](histogram, dtype)
    return Range(min(0.0, low), max(0.0, high))


def minmax(histogram: Histogram, dtype: DType) -> Range:
    """All that was seen, but for mask constants."""
    return Range(histogram.minimum, histogram.maximum)


def average(histogram: Histogram, dtype: DType) -> Range:
    """The means of the samples' least and greatest values."""
    return Range(histogram.average_minimum, histogram.average_maximum)


_CHOICES: dict[str, Callable[[Histogram, DType], Range]] = {"minmax": minmax, "average": average}
