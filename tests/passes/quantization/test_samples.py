"""Samples that do not fit are refused by number and input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers import graph_of
from optc.compiler.errors import CalibrationError
from optc.passes.quantization.samples import checked

IMAGES = graph_of("graph g(%x: f32[N, 3, 4]) {\n  %y = Relu(%x)\n  return %y\n}").inputs
TOKENS = graph_of("graph g(%ids: i64[N, S], %mask: f32[N, S]) {\n  %y = Relu(%mask)\n  return %y\n}").inputs
GOOD = np.ones((2, 3, 4), np.float32)


def ids(rows: int = 1, length: int = 5) -> np.ndarray:
    return np.zeros((rows, length), np.int64)


def mask(rows: int = 1, length: int = 5) -> np.ndarray:
    return np.ones((rows, length), np.float32)


def test_good_samples_pass_as_they_are() -> None:
    samples = [{"ids": ids(2, 7), "mask": mask(2, 7)}, {"mask": mask(1, 3), "ids": ids(1, 3)}]
    for given, sample in zip(samples, checked(samples, TOKENS), strict=True):
        assert list(sample) == ["ids", "mask"]
        assert sample["ids"] is given["ids"]


@pytest.mark.parametrize("bare", [GOOD, GOOD.tolist(), np.ma.masked_array(GOOD)])
def test_one_input_takes_bare_arrays(bare: object) -> None:
    (sample,) = checked([bare], IMAGES)
    assert sample["x"].shape == (2, 3, 4)


def test_double_becomes_single() -> None:
    (sample,) = checked([GOOD.astype(np.float64)], IMAGES)
    assert sample["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"y": GOOD}, r"sample 1: no array for x; no input is called y \(expected x, found y\)"),
        ({}, "sample 1: no array for x"),
        ({"x": GOOD, "label": 3}, "sample 1: no input is called label"),
        (GOOD.astype(np.uint8), r"input x is of another type \(expected f32, found u8\)"),
        (GOOD.astype(np.float16), r"expected f32, found f16"),
        (GOOD[0], r"input x is of another shape \(expected f32\[N, 3, 4\], found \[3, 4\]\)"),
        (GOOD[:, :2], r"found \[2, 2, 4\]"),
        (GOOD * np.nan, r"input x holds values that are not finite \(found 24 NaN, 0 infinite\)"),
        (GOOD.astype(np.float64) * 1e300, "0 NaN, 24 infinite"),
        ({"x": "cat.jpg"}, "input x is of another type"),
        ({"x": [[1.0], [1.0, 2.0]]}, "input x is no array"),
        ("cat.jpg", r"not a sample \(expected {x: f32\[N, 3, 4\]}, found a str\)"),
        (None, "found a NoneType"),
    ],
)
def test_the_sample_and_the_input_are_named(sample: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as error:
        list(checked([GOOD, sample, GOOD], IMAGES))
    assert error.value.node == "sample 1"


def test_a_bare_array_for_two_inputs() -> None:
    with pytest.raises(CalibrationError, match="not a sample"):
        list(checked([ids()], TOKENS))


def test_inputs_must_agree_on_a_symbolic_dim() -> None:
    with pytest.raises(CalibrationError, match=r"input mask is of another shape .* where N is 1 here, S is 5 here"):
        list(checked([{"ids": ids(), "mask": mask(1, 6)}], TOKENS))


def test_integers_of_another_width_are_not_converted() -> None:
    with pytest.raises(CalibrationError, match="expected i64, found i32"):
        list(checked([{"ids": ids().astype(np.int32), "mask": mask()}], TOKENS))


@pytest.mark.parametrize("nothing", [[], iter(()), {}])
def test_no_samples(nothing: object) -> None:
    with pytest.raises(CalibrationError):
        list(checked(nothing, IMAGES))


@pytest.mark.parametrize("series", [{"x": GOOD}, 3, None])
def test_no_series(series: object) -> None:
    with pytest.raises(CalibrationError, match="not a series of samples"):
        list(checked(series, IMAGES))


def test_data_that_raises_is_named_after_what_it_gave() -> None:
    def data() -> Iterator[np.ndarray]:
        yield GOOD
        yield GOOD
        raise OSError("disk on fire")

    samples = checked(data(), IMAGES)
    assert len([next(samples), next(samples)]) == 2
    with pytest.raises(CalibrationError, match="sample 2: the data failed: OSError: disk on fire"):
        next(samples)


class Files:
    """Data whose samples have names, as tools/data.py gives it."""

    def __init__(self, *samples: object) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[object]:
        return iter(self.samples)

    def origin(self, index: int) -> str:
        return f"{index}.npz"


def test_the_file_is_named_where_the_data_can_tell() -> None:
    with pytest.raises(CalibrationError, match=r"sample 1 \(1.npz\): input x is of another shape"):
        list(checked(Files(GOOD, GOOD[0]), IMAGES))


def test_an_error_of_a_reader_stays_as_it_is() -> None:
    def data() -> Iterator[np.ndarray]:
        yield GOOD
        raise CalibrationError("ends too soon", node="d.npz")

    with pytest.raises(CalibrationError, match=r"^d.npz: ends too soon$"):
        list(checked(data(), IMAGES))


def test_samples_already_seen_are_passed_over() -> None:
    assert [int(s["x"][0, 0, 0]) for s in checked([GOOD * k for k in range(5)], IMAGES, first=3)] == [3, 4]


def test_empty_arrays_pass() -> None:
    assert len(list(checked([GOOD[:0]], IMAGES))) == 1
