"""Rounds the weights of one product to a format.

A block of weights w is w = scale * level[code]. Its scale is tried at the largest magnitude, at that magnitude's other
sign (levels are not symmetric), and at some shorter lengths, which clip a few weights and round the others finer; the
one of least squared error is kept. Scales are rounded to bf16 before codes are chosen: that costs no accuracy to speak
of, and no scale under- or overflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....compiler.types import DType
from .formats import WeightFormat

Floats = NDArray[np.float32]

_RATIOS = np.linspace(1.0, 0.72, 8)
"""Of the scale that clips nothing, the lengths tried."""
_CHUNK = 1 << 18
"""Elements rounded at a time."""
_BINS = 4096
_ROUNDS = 60
"""Of k-means at most."""


@dataclass(frozen=True)
class Packed:
    """W[k, n] = (value(codes[k, n]) - zeros[k // block, n]) * scales[k // block, n], as optc.MatMulPacked has it."""

    bits: int
    block: int
    codes: np.ndarray
    scales: np.ndarray
    codebook: Floats | None = None
    zeros: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in an artifact, but for what rounding up to whole panels adds."""
        rest = [a.nbytes for a in (self.scales, self.codebook, self.zeros) if a is not None]
        return -(-self.codes.size * self.bits // 8) + sum(rest)

    def values(self) -> Floats:
        """The weights [k, n] these codes stand for."""
        levels = self.codes if self.codebook is None else self.codebook[self.codes]
        rows = np.arange(len(self.codes)) // self.block
        values = levels.astype(np.float32)
        if self.zeros is not None:
            values -= self.zeros.astype(np.float32)[rows]
        return np.asarray(values * self.scales.astype(np.float32)[rows], np.float32)


def quantize(weights: Floats, format: WeightFormat) -> Packed:
    """Weights [k, n], all finite, in a format."""
    k, n = weights.shape
    exponent = int(np.frexp(np.abs(weights).max(initial=0))[1])
    weights = np.ldexp(weights, -exponent)  # so that no square under- or overflows
    block = min(format.block, -(-k // 32) * 32)
    levels = format.levels if format.kind != "codebook" else _shared(weights, block, 1 << format.bits)
    assert levels is not None
    columns = max(1, _CHUNK // max(1, k))
    parts = [_round(_blocks(weights[:, i : i + columns], block), levels, format) for i in range(0, n, columns)]
    codes, scales, zeros = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    codes, scales = codes.reshape(-1, n)[:k], np.ldexp(scales.astype(np.float32), exponent).astype(scales.dtype)
    if format.kind == "linear":
        codes = (codes.astype(np.int16) + int(levels[0])).astype(np.int8)
    codebook = None if format.kind == "linear" else levels
    return Packed(format.bits, block, codes, scales, codebook, zeros.astype(np.int8) if format.zeros else None)


def signal_to_noise(exact: Floats, rounded: Floats) -> float:
    """Of a tensor and its approximation, in decibel; infinite if they are equal."""
    noise = float(np.square(exact.astype(np.float64) - rounded).sum())
    signal = float(np.square(exact, dtype=np.float64).sum())
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")


def _blocks(weights: Floats, block: int) -> Floats:
    """[k, n] as [blocks, block, n], zeros behind k."""
    k, n = weights.shape
    blocks = -(-k // block)
    padded = np.zeros((blocks * block, n), np.float32)
    padded[:k] = weights
    return padded.reshape(blocks, block, n)


def _round(x: Floats, levels: Floats, format: WeightFormat) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes u8 [blocks, block, n] (places in `levels`), scales bf16 and zero points f32 [blocks, n]."""
    linear, tried = format.kind == "linear", _candidates(x, levels, format)
    scale, zero = next(tried)
    if format.search:
        grid = None if linear else _grid(levels)
        least = _error(x, scale, zero, levels, grid)
        for other, point in tried:
            error = _error(x, other, point, levels, grid)
            better = error < least
            least, scale, zero = (np.where(better, b, a) for a, b in ((least, error), (scale, other), (zero, point)))
    return _nearest(x / _divisor(scale)[:, None] + zero[:, None], levels, linear), scale.astype(DType.BF16.numpy), zero


def _error(x: Floats, scale: Floats, zero: Floats, levels: Floats, grid: Floats | None) -> Floats:
    """The squared error of every block, [blocks, n]."""
    scaled = x / _divisor(scale)[:, None]
    if grid is None:
        rounded = np.rint(scaled)
        np.clip(rounded, (levels[0] - zero)[:, None], (levels[-1] - zero)[:, None], out=rounded)
    else:
        rounded = grid[_bins(scaled)]
    rounded -= scaled
    return np.asarray(np.einsum("bkn,bkn->bn", rounded, rounded) * np.square(scale), np.float32)


def _grid(levels: Floats) -> Floats:
    """The nearest level for the middle of every bin of [-1, 1]: a quick way to round, almost exact."""
    middles = (np.arange(_BINS, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / _BINS) - 1
    return np.asarray(levels[_nearest(middles, levels, False)], np.float32)


def _bins(values: Floats) -> np.ndarray:
    """Which of the bins of [-1, 1] each value lies in; those outside in the first and the last."""
    places: np.ndarray = np.clip((values + 1) * np.float32(_BINS / 2), 0, _BINS - 1).astype(np.int32)
    return places


def _candidates(x: Floats, levels: Floats, format: WeightFormat) -> Iterator[tuple[Floats, Floats]]:
    """Scales (numbers that bf16 has) and zero points to try, f32 [blocks, n]; the ones that clip nothing first."""
    if format.zeros:
        low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
        for ratio in _RATIOS:
            scale = _bf16((high - low) * (ratio / (levels[-1] - levels[0])))
            zero = np.rint(levels[0] - low * np.float32(ratio) / _divisor(scale))
            yield scale, np.clip(zero, levels[0], levels[-1])
        return
    none = np.zeros((x.shape[0], x.shape[2]), np.float32)
    largest = np.abs(x).max(axis=1)
    for ratio in _RATIOS:
        yield _bf16(largest * (ratio / levels[-1])), none
    if levels[-1] != -levels[0]:
        outermost = np.where(x.max(axis=1) == largest, largest, -largest)
        edge = levels[0] if abs(levels[0]) > levels[-1] else levels[-1]
        for ratio in _RATIOS:
            yield _bf16(outermost * (ratio / edge)), none


def _bf16(values: np.ndarray) -> Floats:
    """float32 numbers rounded to bf16."""
    return np.asarray(values.astype(np.float32).astype(DType.BF16.numpy), np.float32)


def _divisor(scale: Floats) -> Floats:
    """The scale, 1 where it is 0: what it scales is then 0 too."""
    return np.where(scale == 0, np.float32(1), scale)


def _nearest(values: Floats, levels: Floats, linear: bool) -> np.ndarray:
    """The place of the nearest level, u8."""
    if linear:
        return np.asarray(np.clip(np.rint(values), levels[0], levels[-1]) - levels[0], np.uint8)
    middles = (levels[1:] + levels[:-1]) / 2
    places: np.ndarray = np.searchsorted(middles, values.reshape(-1)).astype(np.uint8)
    return places.reshape(values.shape)


def _shared(weights: Floats, block: int, count: int) -> Floats:
    """Levels for a whole layer, f32 [count], ascending: k-means over its weights, each block brought to [-1, 1].

    An error counts as much as it matters in the weight itself, by its block's scale squared. The weights are put in
    bins first, so the rounds are cheap whatever their number.
    """
    sums = np.zeros((2, _BINS))
    columns = max(1, _CHUNK // max(1, len(weights)))
    for start in range(0, weights.shape[1], columns):
        x = _blocks(weights[:, start : start + columns], block)
        largest = np.abs(x).max(axis=1, keepdims=True)
        scaled = x / _divisor(largest)
        place = _bins(scaled).reshape(-1)
        weight = np.broadcast_to(np.square(largest), x.shape).reshape(-1).astype(np.float64)
        sums[0] += np.bincount(place, weight, _BINS)
        sums[1] += np.bincount(place, weight * scaled.reshape(-1), _BINS)
    return _lloyd(sums[0], sums[1], count)


def _lloyd(mass: np.ndarray, moment: np.ndarray, count: int) -> Floats:
    """The `count` centres of weighted points (bins of [-1, 1]; their mass, and mass times place) by Lloyd's rounds.

    They start as dense as the cube root of the points, which is where many centres end (Panter and Dite 1951).
    """
    edges = np.linspace(-1, 1, len(mass) + 1)
    total_mass, total_moment = (np.concatenate([[0], np.cumsum(a)]) for a in (mass, moment))
    density = np.cumsum(np.cbrt(mass))
    centres = edges[np.searchsorted(density, (np.arange(count) + 0.5) / count * density[-1])]
    for _ in range(_ROUNDS):
        cuts = np.searchsorted(edges, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], cuts, [len(mass)]])
        inside, moments = np.diff(total_mass[ends]), np.diff(total_moment[ends])
        moved = np.where(inside > 0, moments / np.where(inside > 0, inside, 1), centres)
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = np.sort(moved)
    return np.asarray(centres, np.float32)
