"""Ranges: each method by its definition, zero on every grid, and the error that is minimised is the one that occurs."""

from __future__ import annotations

import numpy as np
import pytest
from optc.compiler.errors import UsageError
from optc.compiler.types import DType
from optc.passes.quantization.histogram import Histogram
from optc.passes.quantization.observers import METHODS, Method, Range, range_of, squared_error

RNG = np.random.default_rng(7)
DISTRIBUTIONS = {
    "normal": RNG.standard_normal(60_000),
    "relu": np.maximum(RNG.standard_normal(60_000), 0),
    "negative": -np.abs(RNG.standard_normal(60_000)) - 1,
    "heavy": RNG.standard_t(3, 60_000),
    "relu6": np.clip(RNG.standard_normal(60_000) * 4 + 3, 0, 6),
    "skewed": np.concatenate([RNG.standard_normal(60_000), RNG.uniform(0, 80, 600)]),
    "constant": np.full(1000, 5.0),
    "zero": np.zeros(1000),
    "tiny": RNG.standard_normal(1000) * 1e-12,
    "single": np.array([-3.0]),
}


def histogram_of(values: np.ndarray, parts: int = 10) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.astype(np.float32), min(parts, values.size)):
        histogram.update(part)
    return histogram


def on_grid(values: np.ndarray, found: Range, dtype: DType) -> np.ndarray:
    """Quantized and back, as QuantizeLinear and DequantizeLinear say."""
    scale, zero = found.affine(dtype)
    least, most = (0, 255) if dtype is DType.U8 else (-127, 127)
    return (np.clip(np.rint(values / float(scale)) + zero, least, most) - zero) * float(scale)


def mean_squared(values: np.ndarray, found: Range, dtype: DType) -> float:
    return float(((values - on_grid(values, found, dtype)) ** 2).mean())


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_ranges_hold_zero_and_zero_is_exact(name: str, method: Method, dtype: DType) -> None:
    values = DISTRIBUTIONS[name]
    found = range_of(histogram_of(values), method, dtype)
    assert min(0.0, values.min()) * (1 + 1e-6) <= found.low <= 0 <= found.high <= max(0.0, values.max()) * (1 + 1e-6)
    scale, zero = found.affine(dtype)
    assert scale.dtype == np.float32
    assert scale > 0
    assert np.isfinite(np.float32(1) / scale)
    assert (0 <= zero <= 255) if dtype is DType.U8 else zero == 0
    assert on_grid(np.zeros(1), found, dtype)[0] == 0


def test_minmax_ends_within_half_a_step() -> None:
    values = DISTRIBUTIONS["normal"]
    found = range_of(histogram_of(values), "minmax")
    assert found == (values.astype(np.float32).min(), values.astype(np.float32).max())
    assert np.abs(values - on_grid(values, found, DType.U8)).max() <= float(found.affine()[0]) * (1 + 1e-6)


def test_symmetric_grids_span_the_larger_side() -> None:
    assert Range(-1.0, 2.54).affine(DType.I8) == (np.float32(0.02), 0)
    assert Range(-1.0, 4.1).affine(DType.U8) == (np.float32(0.02), 50)
    assert Range(0.0, 0.0).affine(DType.U8) == (np.float32(1), 0)


def test_average_is_the_mean_of_the_samples_extremes() -> None:
    histogram = Histogram()
    for sample in ([-1.0, 1.0], [-1.0, 2.0], [-1.0, 99.0]):
        histogram.update(np.array(sample, np.float32))
    assert range_of(histogram, "average") == (-1, 34)


@pytest.mark.parametrize("name", ["normal", "relu", "heavy", "skewed", "negative"])
def test_percentile_clips_its_share(name: str) -> None:
    values = DISTRIBUTIONS[name]
    found = range_of(histogram_of(values), "percentile")
    expected = np.percentile(values, [0.005, 99.995])
    span = np.ptp(np.percentile(values, [1, 99]))
    for end, wanted in zip(found, (min(0, expected[0]), max(0, expected[1])), strict=True):
        assert abs(end - wanted) <= 0.06 * max(span, abs(wanted))


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize("name", ["normal", "relu", "heavy", "relu6", "skewed", "negative"])
def test_the_expected_error_is_the_one_that_occurs(name: str, dtype: DType) -> None:
    values = DISTRIBUTIONS[name].astype(np.float32).astype(np.float64)
    histogram = histogram_of(values)
    for share in (1.0, 0.7, 0.3):
        found = Range(min(0.0, values.min()) * share, max(0.0, values.max()) * share)
        assert squared_error(histogram, *found, dtype) == pytest.approx(mean_squared(values, found, dtype), rel=0.05)


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize("name", ["normal", "relu", "heavy", "relu6", "skewed", "negative", "constant"])
def test_mse_is_as_good_as_any_clip_tried(name: str, dtype: DType) -> None:
    values = DISTRIBUTIONS[name].astype(np.float32).astype(np.float64)
    found = mean_squared(values, range_of(histogram_of(values), "mse", dtype), dtype)
    low, high = min(0.0, values.min()), max(0.0, values.max())
    shares = np.linspace(0.2, 1, 15)
    best = min(mean_squared(values, Range(low * a, high * b), dtype) for a in shares for b in shares)
    assert found <= best * 1.03 + 1e-12


def test_mse_ends_on_a_spike_at_the_limit() -> None:
    assert range_of(histogram_of(DISTRIBUTIONS["relu6"]), "mse").high == pytest.approx(6, rel=0.01)


def test_entropy_clips_a_lone_outlier_and_keeps_a_plain_range() -> None:
    values = np.append(DISTRIBUTIONS["normal"], 400.0)
    clipped = range_of(histogram_of(values), "entropy")
    assert clipped.high < 40
    assert clipped.low == pytest.approx(DISTRIBUTIONS["normal"].min(), rel=1e-6)
    uniform = RNG.uniform(0, 1, 60_000)
    assert range_of(histogram_of(uniform), "entropy").high == pytest.approx(1, abs=0.01)


def test_entropy_agrees_with_its_definition() -> None:
    """The search over all clips, written with loops after the slides, on the same bins."""
    values = np.abs(DISTRIBUTIONS["heavy"])
    limit = float(values.astype(np.float32).max())
    counts = np.histogram(values, 2048, (0, limit))[0].astype(np.float64)
    counts[0] = counts[1]
    best = (np.inf, 0)
    for kept in range(256, 2049, 8):
        p = counts[:kept].copy()
        q = np.zeros(kept)
        for level in range(256):
            members = slice(-(-level * kept // 256), -(-(level + 1) * kept // 256))
            held = p[members] > 0
            q[members] = np.where(held, p[members].sum() / max(held.sum(), 1), 0)
        p[-1] += counts[kept:].sum()
        q, p = np.maximum(q[p > 0], 1e-4), p[p > 0]
        best = min(best, (float((p / p.sum() * np.log(p / p.sum() / (q / q.sum()))).sum()), -kept))
    found = range_of(histogram_of(values), "entropy").high
    assert found == pytest.approx(-best[1] / 2048 * limit, rel=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_masks_widen_no_range(method: Method) -> None:
    values = DISTRIBUTIONS["normal"][:9000]
    masked = np.where(np.arange(9000) % 3 == 0, -3.4028235e38, values)
    found = range_of(histogram_of(masked), method)
    assert found.low > -10
    assert found.high > 1


@pytest.mark.parametrize("method", METHODS)
def test_a_value_never_seen_has_an_empty_range(method: Method) -> None:
    assert range_of(Histogram(), method) == (0, 0)


def test_unknown_methods_and_dtypes() -> None:
    with pytest.raises(UsageError, match="no such range"):
        range_of(histogram_of(np.ones(3)), "middle")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no such range"):
        range_of(histogram_of(np.ones(3)), "minmax", DType.I32)
