"""Interleaved timing: what it reports of systems whose speed is known, without looking at the clock's figures."""

from __future__ import annotations

import math

from optc.tools.bench import MIN_ROUNDS, compare, geometric_mean


def test_every_system_is_compared_with_the_first() -> None:
    calls = {"a": 0, "b": 0}

    def system(name: str) -> None:
        calls[name] += 1

    first, second = compare([("a", lambda: system("a")), ("b", lambda: system("b"))], rounds=4)
    assert (first.name, second.name) == ("a", "b")
    assert first.ratio == first.low == first.high == 1.0
    assert second.low <= second.ratio <= second.high
    assert first.median_ms <= first.p90_ms
    assert first.cpu_ms >= 0
    assert min(calls.values()) > 4


def test_rounds_end_when_the_time_is_over_but_not_before_the_least_number() -> None:
    (timing,) = compare([("a", lambda: None)], rounds=1000, seconds=0.0)
    assert timing.rounds <= MIN_ROUNDS
    assert timing.rounds > MIN_ROUNDS / 3


def test_geometric_mean() -> None:
    assert math.isclose(geometric_mean([0.5, 2.0, 1.0]), 1.0)
