"""Pruning specs as text."""

from __future__ import annotations

import pytest
from optc.compiler.errors import UsageError
from optc.passes.pruning import CutChannels, ZeroWeights, parse_spec


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("weights<1e-3", (ZeroWeights(1e-3),)),
        ("weights < 0.5", (ZeroWeights(0.5),)),
        ("channels=50%", (CutChannels(0.5),)),
        ("channels=0.25", (CutChannels(0.25),)),
        ("channels=10%,criterion=l1,schedule=balanced,align=1", (CutChannels(0.1, "l1", "balanced", 1),)),
        ("channels=50% , align=16 ; weights<2", (CutChannels(0.5, align=16), ZeroWeights(2.0))),
    ],
)
def test_what_a_spec_means(text: str, parts: tuple[object, ...]) -> None:
    assert parse_spec(text) == parts


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ("", "channels=RATIO", None),
        ("heads=50%", "channels=RATIO", "heads=50%"),
        ("channels<3", "channels=RATIO", "channels<3"),
        ("channels=50%;", "channels=RATIO", None),
        ("channels=half", "between 0 and 1", "half"),
        ("channels=0%", "between 0 and 1", "0%"),
        ("channels=100%", "between 0 and 1", "100%"),
        ("channels=nan", "between 0 and 1", "nan"),
        ("channels=50%,criterion=l3", "l1 or l2", "l3"),
        ("channels=50%,schedule=global", "uniform or balanced", "global"),
        ("channels=50%,align=0", "at least 1", "0"),
        ("channels=50%,align=8,align=4", "at most once", "align=4"),
        ("channels=50%,speed=2", "criterion, schedule or align", "speed=2"),
        ("weights=3", "weights<NUMBER", "weights=3"),
        ("weights<-1", "above 0", "-1"),
        ("weights<few", "above 0", "few"),
    ],
)
def test_a_spec_that_cannot_be_read_says_what_was_expected(text: str, expected: str, found: str | None) -> None:
    with pytest.raises(UsageError, match=expected) as error:
        parse_spec(text)
    assert found is None or f"found {found}" in str(error.value)
