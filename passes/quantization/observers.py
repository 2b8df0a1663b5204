"""From a value's distribution to the range that 8 bits span.

`range_of(histogram, method)` is the one entry. Every range holds zero, and `Range.affine` gives the scale and zero
point of a grid on which zero is exact. Mask constants (histogram.HUGE) are in no range.
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
        scale, zero = _grids(np.array([self.low]), np.array([self.high]), dtype)
        return np.float32(scale[0]), int(zero[0])


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
    """All that was seen."""
    return Range(histogram.minimum, histogram.maximum)


def average(histogram: Histogram, dtype: DType) -> Range:
    """The moving averages over the samples of their least and of their greatest value: one odd sample counts little.

    All samples count alike, as in ONNX Runtime's CalibMovingAverage, so that their order does not matter.
    """
    return Range(histogram.average_minimum, histogram.average_maximum)


def percentile(histogram: Histogram, dtype: DType, share: float = 99.99) -> Range:
    """`share` percent of the values: half of the rest is clipped at each end."""
    lower, upper, counts = histogram.bins()
    total = counts.cumsum()
    ends = np.array([1 - share / 100, 1 + share / 100]) / 2 * total[-1]
    at = np.searchsorted(total, ends).clip(0, counts.size - 1)
    part = 1 - (total[at] - ends) / counts[at]
    low, high = lower[at] + part * (upper[at] - lower[at])
    return Range(float(low), float(high))


# --- entropy -----------------------------------------------------------------------------------------------------

_LINEAR_BINS = 2048
_ENTROPY_STEP = 8
_NEARLY_EMPTY = 1e-4  # of one value


def entropy(histogram: Histogram, dtype: DType) -> Range:
    """The clip at which the quantized distribution diverges least from the float one (Kullback-Leibler).

    As S. Migacz defines it (8-bit inference with TensorRT, GTC 2017): |x| in 2048 bins, what is clipped counts as
    the last bin kept, each level spreads its count over the bins under it that hold something. A value without
    negatives has 256 levels of u8, others 128 a side.
    """
    limit = max(-histogram.minimum, histogram.maximum)
    if limit <= 0:
        return Range(0.0, 0.0)
    counts = _linear(histogram, limit)
    counts[0] = counts[1]  # a spike at zero says nothing on where to clip
    levels = 256 if dtype is DType.U8 and histogram.minimum >= 0 else 128
    kept = np.arange(_LINEAR_BINS, levels - 1, -_ENTROPY_STEP)  # of equals, the widest
    divergence = [_divergence(counts, int(n), levels) for n in kept]
    clip = float(kept[int(np.argmin(divergence))]) / _LINEAR_BINS * limit
    return Range(max(histogram.minimum, -clip), min(histogram.maximum, clip))


def _linear(histogram: Histogram, limit: float) -> np.ndarray:
    """How many |x| lie in each of 2048 equal bins from 0 to `limit`, by the middles of the histogram's bins."""
    lower, upper, counts = histogram.bins()
    place = np.abs(lower + upper) / 2 * (_LINEAR_BINS / limit)
    return np.bincount(place.astype(np.int64).clip(0, _LINEAR_BINS - 1), counts, _LINEAR_BINS)


def _divergence(counts: np.ndarray, kept: int, levels: int) -> float:
    """KL of the first `kept` bins, the tail added to the last, from the same in `levels` levels.

    A bin that only the first holds counts as nearly empty in the second, as in ONNX Runtime.
    """
    reference = counts[:kept].copy()
    level = np.arange(kept) * levels // kept
    held = reference > 0
    sums = np.bincount(level, reference, levels)
    spread = sums / np.maximum(np.bincount(level, held, levels), 1)
    quantized = np.where(held, spread[level], 0.0)
    if not held.any():
        return np.inf
    reference[-1] += counts[kept:].sum()
    p, q = reference[reference > 0], np.maximum(quantized[reference > 0], _NEARLY_EMPTY)
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


# --- mean squared error ------------------------------------------------------------------------------------------

_PER_OCTAVE = 32
_NEGLIGIBLE = 2.0**-24
"""Of the largest magnitude: what is smaller counts as zero."""
_COARSE_TO_FINE = (
    np.exp2(-np.arange(17)),
    np.exp2(np.arange(-4, 5) / 4),
    np.exp2(np.arange(-4, 5) / 16),
    np.exp2(np.arange(-3, 4) / 64),
)
"""Factors tried on a limit: down to 2^-16 in octaves, then finer around the best."""
_ENOUGH = 0.999
"""A round that lowers the error to no less than this share of it was the last."""
_ROUNDS = 4


class _Bins(NamedTuple):
    """A histogram's bins as the search reads them: `edges` f64 [e] ascending, the places there of each wide bin's
    `lower` and `upper` end with its count a unit of width, and the bins of no width."""

    edges: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    density: np.ndarray
    points: np.ndarray
    point_counts: np.ndarray


def mse(histogram: Histogram, dtype: DType) -> Range:
    """The range of least expected squared error, rounding and clipping taken together.

    Values are taken as uniform within a bin of the histogram; the grid is the one that is used, zero point rounded.
    """
    bins = _weighty(histogram)
    low, high = min(0.0, histogram.minimum), max(0.0, histogram.maximum)
    low, high, least = _search(bins, low, high, (True, True), dtype)
    for _ in range(_ROUNDS if dtype is DType.U8 and low < 0 < high else 0):
        before = least
        low, high, least = _search(bins, low, high, (False, True), dtype)
        low, high, least = _search(bins, low, high, (True, False), dtype)
        if least >= _ENOUGH * before:
            break
    return Range(low, high)


def squared_error(histogram: Histogram, low: float, high: float, dtype: DType = DType.U8) -> float:
    """Expected squared error of one value on the grid of this range."""
    bins = _weighty(histogram)
    return float(_errors(bins, np.array([low]), np.array([high]), dtype)[0] / max(histogram.count, 1))


def _weighty(histogram: Histogram) -> _Bins:
    """Bins as coarse as the search allows, without those too near zero to matter."""
    lower, upper, counts = histogram.bins(_PER_OCTAVE)
    size = np.maximum(np.abs(lower), np.abs(upper))
    held = size > _NEGLIGIBLE * size.max(initial=0.0)
    lower, upper, counts = lower[held], upper[held], counts[held]
    wide = upper > lower
    edges, at = np.unique(np.concatenate([lower[wide], upper[wide]]), return_inverse=True)
    first, last = at[: at.size // 2], at[at.size // 2 :]
    return _Bins(edges, first, last, counts[wide] / (upper - lower)[wide], lower[~wide], counts[~wide])


def _search(bins: _Bins, low: float, high: float, moves: tuple[bool, bool], dtype: DType) -> tuple[float, float, float]:
    """(low, high, error) of the best range that `low`, `high` or both become by one factor of at most 1."""
    factor, least = 1.0, np.inf
    for factors in _COARSE_TO_FINE:
        tried = np.minimum(factor * factors, 1.0)
        still = np.ones_like(tried)
        errors = _errors(bins, low * (tried if moves[0] else still), high * (tried if moves[1] else still), dtype)
        best = int(np.argmin(errors))
        factor, least = float(tried[best]), float(errors[best])
    return low * (factor if moves[0] else 1.0), high * (factor if moves[1] else 1.0), least


def _grids(low: np.ndarray, high: np.ndarray, dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    """(scale, zero point) of ranges that hold zero; both [ranges], the scale rounded to f32."""
    lowest, highest = _LIMITS[dtype]
    symmetric = dtype is DType.I8
    span = np.maximum(-low, high) / highest if symmetric else (high - low) / (highest - lowest)
    scale = np.where(span > 0, np.maximum(span, _SMALLEST), 1.0).astype(np.float32).astype(np.float64)
    zero = np.zeros_like(scale) if symmetric else np.rint(-low / scale).clip(lowest, highest)
    return scale, zero


def _errors(bins: _Bins, low: np.ndarray, high: np.ndarray, dtype: DType) -> np.ndarray:
    """Summed squared error of all binned values for each range [ranges].

    With s the step and L, U the grid's ends, an antiderivative of the squared error is
    s^3 (n/12 + (u-n)^3/3) + (x-c)^3/3 where c = min(max(x, L), U), u = c/s and n = u rounded.
    """
    scale, zero = (a[:, None] for a in _grids(low, high, dtype))
    least, most = (scale * (end - zero) for end in _LIMITS[dtype])

    kept = bins.edges.clip(least, most)
    u = kept / scale
    n = np.rint(u)
    integral = scale**3 * (n / 12 + _cube(u - n) / 3) + _cube(bins.edges - kept) / 3
    off = bins.points - scale * np.rint(bins.points.clip(least, most) / scale)
    errors: np.ndarray = (integral[:, bins.upper] - integral[:, bins.lower]) @ bins.density + off**2 @ bins.point_counts
    return errors


def _cube(x: np.ndarray) -> np.ndarray:
    cube: np.ndarray = x * x * x  # x**3 takes ten times as long
    return cube


_CHOICES: dict[str, Callable[[Histogram, DType], Range]] = {
    "minmax": minmax,
    "average": average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
