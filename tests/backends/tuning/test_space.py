"""Plans and shapes as numbers."""

from __future__ import annotations

from optc.backends.tuning.space import distance, features


def test_numbers_of_a_plan_by_place() -> None:
    found = features("amx conv ConvPlan(block=Block(rows=2, columns=3), rows=7, width=None, clip=True)")
    assert {k: v for k, v in found.items() if not k.startswith("kind:")} == {
        "block.rows": 2.0, "block.columns": 3.0, "rows": 7.0, "clip": 1.0,
    }  # fmt: skip
    assert "kind:amx conv" in found


def test_tuples_and_unknown_sizes_are_numbers_too() -> None:
    found = features("ConvSpec(batch=d0, spatial=(56, 28), group=1)")
    assert (found["batch"], found["spatial.0"], found["spatial.1"]) == (128.0, 56.0, 28.0)


def test_distance_counts_doublings() -> None:
    assert distance("conv P(rows=7)", "conv P(rows=7)") == 0
    assert distance("conv P(rows=7)", "conv P(rows=15)") == 1
    assert distance("conv P(rows=7)", "conv P(rows=31)") == 2


def test_other_kinds_are_far() -> None:
    assert distance("conv P(rows=7)", "dot conv P(rows=7)") > distance("conv P(rows=7)", "conv P(rows=200)")


def test_text_that_is_no_expression_still_has_a_kind() -> None:
    assert distance("norm <plan 1>", "norm <plan 1>") == 0
