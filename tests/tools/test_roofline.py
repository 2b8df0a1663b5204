"""Rooflines: what binds a step, shares of the ceiling, and pages of them. Ceilings here are given, not measured."""

from __future__ import annotations

import numpy as np
import pytest
from optc.backends.target import LEVELS, Target
from optc.tools.ceilings import Ceilings, medians
from optc.tools.roofline import Line, Part, Profile, Step, _ideal, costs_of, goals, markdown, table

BURSTS = [{"f32": 100e9, "int8": 1000e9, "L2": 50e9, "L3": 20e9, "memory": 5e9}] * 3


class Fixed(Ceilings):
    """Ceilings of a machine with an L2 of 1 MiB."""

    def __init__(self) -> None:
        self.l2 = 1 << 20


def step(name: str, ms: float, share: float, bound: str, op: str = "Conv") -> Step:
    return Step(name, "conv plan", "f32", op, 1000, 100, ms, ms * share, share, bound)


@pytest.mark.parametrize(
    ("work", "ms", "bound"),
    [
        (("f32", "Conv", 50_000_000, 1000), 1.0, "f32"),
        (("int8", "Conv", 50_000_000, 1000), 0.1, "int8"),
        (("f32", "MatMul", 50_000, 1_000_000), 0.02, "L2"),
        (("", "", 0, 2_000_000), 0.1, "L3"),
        (("", "", 0, 50_000_000), 10.0, "memory"),
        (("", "", 0, 0), 0.0, ""),
    ],
)
def test_the_slower_of_products_and_bytes_binds(work: tuple[str, str, int, int], ms: float, bound: str) -> None:
    ideal, found = _ideal(work, BURSTS, Fixed())
    assert found == bound
    np.testing.assert_allclose(ideal, ms)


def test_shares_are_weighted_by_time() -> None:
    part = Part((step("a", 3.0, 0.9, "f32"), step("b", 1.0, 0.5, "f32")))
    assert part.milliseconds == 4.0
    assert part.share == pytest.approx(0.8)
    assert part.lowest.name == "b"


PROFILE = Profile(
    1,
    BURSTS[0],
    (
        step("a", 3.0, 0.9, "f32"),
        step("b", 1.0, 0.3, "f32", "Depthwise"),
        step("c", 4.0, 0.5, "L2", ""),
        step("d", 0.5, 0.0, "", ""),
    ),
)


def test_the_slowest_step_comes_first_and_totals_last() -> None:
    lines = table(PROFILE).splitlines()
    assert [line.split("  ")[-2] for line in lines[1:4]] == ["c", "a", "b"]
    assert lines[-2].startswith("   8.5000 ms in 4 steps, 1 thread(s): 47% f32 (at 75% of the ceiling), 47% L2")
    assert "6% unknown" in lines[-2]
    assert lines[-1].startswith("ceilings: f32 100 GFLOP/s, int8 1e+03 GOP/s, L2 50 GB/s")


def test_goals_are_about_convolutions_and_products_not_about_depthwise() -> None:
    (goal,) = goals([Line("m", "fp32", PROFILE)])
    assert goal.startswith("f32: 90% of the ceiling")
    assert goal.endswith("below it: none")
    page = markdown([Line("m", "fp32", PROFILE)], "command")
    assert "| m | fp32 | 8.500 | 35% | 1 | **90%** | 90% a |" in page


def test_symbolic_costs_are_evaluated_at_the_inputs_shapes() -> None:
    manifest = {
        "inputs": [{"name": "x", "shape": ["N", 16]}],
        "steps": ["a", "b", "c", "d"],
        "costs": [["f32", "MatMul", "128*N", "4*N+8"], None, ["", "", 0, "_d0*4"], ["", "", 0, 12]],
    }
    found = costs_of(manifest, {"x": (3, 16)})
    assert found == [("f32", "MatMul", 384, 20), ("", "", 0, 0), ("", "", 0, 0), ("", "", 0, 12)]


def test_artifacts_without_costs_have_unknown_bounds() -> None:
    assert costs_of({"inputs": [], "steps": ["a"]}, {}) == [("", "", 0, 0)]


@pytest.mark.parametrize("target", [Target.host(), LEVELS["x86-64-v2"]], ids=lambda t: t.name)
def test_every_ceiling_that_the_target_has_is_above_zero(target: Target) -> None:
    found = Ceilings(target, 2, 1 << 20).measure()
    assert {"f32", "L2", "L3", "memory"} <= found.keys()
    assert min(found.values()) > 0
    assert ("bf16" in found) == (target.has("amx-bf16") or target.has("avx512bf16"))
    assert medians([found]) == found
