"""Specs of compressed weights."""

from __future__ import annotations

import numpy as np
import optc
import pytest
from optc.passes.quantization.weights.formats import COLUMN, WeightFormat, parse_spec


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("int8", WeightFormat("linear", 8, COLUMN, search=False)),
        ("int4", WeightFormat("linear", 4, 32)),
        ("int4:block=128:zeros", WeightFormat("linear", 4, 128, zeros=True)),
        ("int4:block=column", WeightFormat("linear", 4)),
        ("linear3:plain", WeightFormat("linear", 3, 32, search=False)),
        ("log4", WeightFormat("log", 4, 32)),
        ("codebook4", WeightFormat("codebook", 4, 32)),
        ("nf4", WeightFormat("nf", 4, 32)),
    ],
)
def test_formats_by_name(text: str, format: WeightFormat) -> None:
    assert parse_spec(text).format == format


def test_what_is_compressed() -> None:
    spec = parse_spec("int8:min=100:tables=float")
    assert (spec.smallest, spec.tables) == (100, None)
    assert parse_spec("int8").smallest == 4096
    assert parse_spec("int4").tables == parse_spec("int8").format
    assert parse_spec("int8:tables=int4").tables == parse_spec("int4").format


@pytest.mark.parametrize("text", ["int4", "int8", "int4:block=64:zeros", "log4:block=32", "nf4"])
def test_a_format_names_itself(text: str) -> None:
    assert parse_spec(parse_spec(text).format.text).format == parse_spec(text).format


@pytest.mark.parametrize(
    "text",
    [
        "",
        "int",
        "int1",
        "int9",
        "nf8",
        "float4",
        "int4:block=33",
        "int4:block=x",
        "int4:min=0",
        "log4:zeros",
        "int4:no",
    ],
)
def test_a_bad_spec_says_what_is_expected(text: str) -> None:
    with pytest.raises(optc.UsageError, match=r"expected|linear"):
        parse_spec(text)


@pytest.mark.parametrize("text", ["int4", "linear2", "log2", "log4", "nf4"])
def test_levels_ascend_and_hold_zero(text: str) -> None:
    format = parse_spec(text).format
    levels = format.levels
    assert levels is not None
    assert len(levels) == 1 << format.bits
    assert (np.diff(levels) > 0).all()
    assert 0 in levels


def test_logarithmic_levels_are_powers_of_two() -> None:
    levels = parse_spec("log3").format.levels
    assert levels is not None
    assert levels.tolist() == [-1, -0.5, -0.25, 0, 0.125, 0.25, 0.5, 1]
