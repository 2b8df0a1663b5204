"""Floating-point bins: exact extremes, counts by any order, masks apart, zero a point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from optc.compiler.errors import CalibrationError
from optc.passes.quantization.histogram import HUGE, Histogram


def histogram_of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.update(np.asarray(part, np.float32))
    return histogram


def assert_equal(a: Histogram, b: Histogram) -> None:
    for x, y in zip(a.bins(), b.bins(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert (a.minimum, a.maximum, a.huge, a.updates) == (b.minimum, b.maximum, b.huge, b.updates)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_every_value_lies_in_a_bin_that_counts_it(values: np.ndarray) -> None:
    lower, upper, counts = histogram_of(values).bins()
    assert counts.sum() == values.size
    assert (lower <= upper).all()
    assert (lower[1:] >= upper[:-1]).all()
    wide = np.where(np.abs(values) < 2.0**-64, 0, values).astype(np.float64)
    for low, high, count in zip(lower, upper, counts, strict=True):
        inside = (wide >= low) & (wide <= high)
        assert inside.sum() >= count
        assert (wide[(wide > low) & (wide < high)]).size <= count


def test_extremes_are_exact_where_the_bins_see_a_part() -> None:
    values = np.zeros(1 << 20, np.float32)
    values[123457], values[654321] = -3.7, 11.3
    histogram = histogram_of(values)
    assert (histogram.minimum, histogram.maximum) == (np.float32(-3.7), np.float32(11.3))
    assert histogram.count <= 1 << 13


@pytest.mark.parametrize("shape", [(64, 112, 112), (1, 3, 48, 320), (197, 768), (1024, 1024)])
def test_a_strided_part_sees_every_channel(shape: tuple[int, ...]) -> None:
    """The stride shares no divisor with the size, so it does not keep to some channels."""
    channel = np.arange(shape[-1], dtype=np.float32) + 1
    lower, _, counts = histogram_of(np.broadcast_to(channel, shape).copy()).bins(512)
    assert lower.size >= min(shape[-1], 1000) * 0.9
    assert counts.max() < counts.sum() * 0.02


def test_parts_in_any_order_and_merged_give_the_same() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(5000) * 10.0**k for k in (0, -3, 4, 2)]
    forward, backward = histogram_of(*parts), histogram_of(*parts[::-1])
    assert_equal(forward, backward)
    assert_equal(histogram_of(parts[0]).merge([histogram_of(p) for p in parts[1:]]), forward)


def test_a_saved_state_goes_on_where_it_was() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(20_000), rng.standard_normal(20_000) * 100
    resumed = Histogram()
    resumed.load(histogram_of(a).state())
    resumed.update(b.astype(np.float32))
    assert_equal(resumed, histogram_of(a, b))
    assert resumed.average_maximum == histogram_of(a, b).average_maximum


@pytest.mark.parametrize("mask", [-3.4028235e38, -np.inf, HUGE])
def test_mask_constants_are_counted_apart(mask: float) -> None:
    values = np.linspace(-1, 2, 1000, dtype=np.float32)
    histogram = histogram_of(np.concatenate([values, np.full(500, mask, np.float32)]))
    assert histogram.huge == 500
    assert_equal(histogram, _with_huge(histogram_of(values), 500))


def _with_huge(histogram: Histogram, count: int) -> Histogram:
    histogram.huge = count
    return histogram


def test_nothing_but_masks() -> None:
    histogram = histogram_of(np.full(10, -np.inf))
    assert (histogram.updates, histogram.huge, histogram.count) == (0, 10, 0)


def test_an_outlier_costs_the_rest_no_resolution() -> None:
    values = np.random.default_rng(0).standard_normal(10_000)
    fine = histogram_of(values).bins()[0]
    with_outlier = histogram_of(values, [-10_000.0]).bins()[0]
    assert with_outlier.size == fine.size + 1


def test_zeros_are_a_point_and_constants_too() -> None:
    lower, upper, counts = histogram_of(np.array([0, 0, 5, 0, 5])).bins()
    np.testing.assert_array_equal((lower[0], upper[0], counts[0]), (0, 0, 3))
    assert counts.tolist() == [3, 2]
    assert lower[1] == upper[1] == 5


def test_negative_zero_and_denormals_count_as_zero() -> None:
    assert histogram_of(np.array([-0.0, 1e-40, -1e-42])).zeros == 0  # still in the buffer
    assert histogram_of(np.array([-0.0, 1e-40, -1e-42])).bins()[2].tolist() == [3]


def test_averages_are_of_the_arrays_extremes() -> None:
    histogram = histogram_of([0, 1], [-2, 3], [-4, 8])
    assert (histogram.average_minimum, histogram.average_maximum) == (-2, 4)


def test_nan_is_an_error_and_changes_nothing() -> None:
    histogram = histogram_of([1.0, 2.0])
    with pytest.raises(CalibrationError, match="NaN"):
        histogram.update(np.array([3.0, np.nan], np.float32))
    assert_equal(histogram, histogram_of([1.0, 2.0]))


def test_other_dtypes_and_empty_arrays() -> None:
    histogram = Histogram()
    histogram.update(np.zeros((0, 4), np.float32))
    assert histogram.updates == 0
    histogram.update(np.array([[1, -2]], np.int64))
    histogram.update(np.array([0.5], np.float16))
    assert (histogram.minimum, histogram.maximum, histogram.count) == (-2, 1, 3)


def test_size_does_not_grow_with_the_number_of_values() -> None:
    rng = np.random.default_rng(0)
    histogram = Histogram()
    for _ in range(200):
        histogram.update(rng.standard_normal(20_000).astype(np.float32))
    first = sum(a.nbytes for a in histogram.state().values())
    for _ in range(200):
        histogram.update(rng.standard_normal(20_000).astype(np.float32))
    assert sum(a.nbytes for a in histogram.state().values()) <= first * 1.2
    assert first < 1 << 20
