"""Statistics by channel: right over arrays of different sizes, saved and loaded, NaN refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from optc.compiler.errors import CalibrationError
from optc.passes.quantization.histogram import Histogram
from optc.passes.quantization.statistics import ChannelMean, ChannelRange, Gram, Statistic

RNG = np.random.default_rng(0)
IMAGES = [RNG.standard_normal((n, 5, 3, 4)).astype(np.float32) for n in (1, 4, 2)]
ALL = np.concatenate(IMAGES).astype(np.float64)

KINDS: list[Callable[[], Statistic]] = [Histogram, ChannelRange, lambda: ChannelRange(1), lambda: ChannelMean(1), Gram]


def fed(statistic: Statistic, arrays: list[np.ndarray]) -> Statistic:
    for array in arrays:
        statistic.update(array)
    return statistic


def test_ranges_along_an_axis() -> None:
    ranges = ChannelRange(1)
    fed(ranges, IMAGES)
    np.testing.assert_array_equal(ranges.minimum, ALL.min((0, 2, 3)))
    np.testing.assert_array_equal(ranges.maximum, ALL.max((0, 2, 3)))
    np.testing.assert_array_equal(ranges.absolute_maximum, np.abs(ALL).max((0, 2, 3)))
    np.testing.assert_allclose(ranges.absolute_mean, np.abs(ALL).mean((0, 2, 3)))


def test_mean_along_an_axis() -> None:
    mean = ChannelMean(1)
    fed(mean, IMAGES)
    np.testing.assert_allclose(mean.mean, ALL.mean((0, 2, 3)))


def test_gram_of_the_last_axis() -> None:
    gram = Gram()
    fed(gram, IMAGES)
    rows = ALL.reshape(-1, 4)
    assert gram.count == len(rows)
    np.testing.assert_allclose(gram.mean, rows.T @ rows / len(rows), rtol=1e-5)


@pytest.mark.parametrize("make", KINDS)
def test_a_loaded_state_goes_on(make: Callable[[], Statistic]) -> None:
    resumed = make()
    resumed.load({name: array.copy() for name, array in fed(make(), IMAGES[:2]).state().items()})
    fed(resumed, IMAGES[2:])
    whole = fed(make(), IMAGES).state()
    for name, array in resumed.state().items():
        np.testing.assert_array_equal(array, whole[name])


@pytest.mark.parametrize("make", KINDS)
def test_a_saved_state_does_not_change_with_later_arrays(make: Callable[[], Statistic]) -> None:
    statistic = fed(make(), IMAGES[:1])
    resumed = make()
    resumed.load(statistic.state())
    before = {name: array.copy() for name, array in resumed.state().items()}
    fed(statistic, IMAGES[1:])
    for name, array in resumed.state().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("make", KINDS)
def test_nan_is_refused_and_empty_arrays_change_nothing(make: Callable[[], Statistic]) -> None:
    statistic = fed(make(), IMAGES)
    before = {name: array.copy() for name, array in statistic.state().items()}
    statistic.update(IMAGES[0][:0])
    with pytest.raises(CalibrationError, match="NaN"):
        statistic.update(np.where(IMAGES[0] > 1, np.nan, IMAGES[0]))
    for name, array in statistic.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_kinds_tell_options_apart() -> None:
    assert len({make().kind for make in KINDS}) == len(KINDS)
