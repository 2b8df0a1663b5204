"""Intervals against published or hand-computed values; paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from optc.models.metrics import MeanMetric, MetricResult, Pair, Sample, SpearmanMetric, Tensors, mean_interval, spearman
from optc.models.metrics import paired_interval as paired


def test_wilson_interval_of_a_proportion() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert mean_interval(np.repeat([1.0, 0.0], [81, 182])) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_interval_of_a_perfect_score_is_not_a_point() -> None:
    low, high = mean_interval(np.ones(60))
    assert low == pytest.approx(0.9398, abs=1e-4)
    assert high == pytest.approx(1)


def test_interval_of_real_scores_is_normal() -> None:
    assert mean_interval(np.array([0.0, 0.5, 1.0, 0.5])) == pytest.approx((0.1, 0.9), abs=1e-3)


def test_paired_interval_of_models_that_agree_is_not_a_point() -> None:
    low, high = paired(np.ones(98), np.ones(98))
    assert (low, high) == pytest.approx((-0.0196, 0.0196), abs=1e-4)


def test_paired_interval_is_narrower_than_the_two_intervals() -> None:
    a = np.repeat([1.0, 0.0], [900, 100])
    b = a.copy()
    b[:5] = 0
    low, high = paired(a, b)
    assert low < -0.005 < high
    assert high - low < 0.02 < np.diff(mean_interval(a))[0]


def test_spearman_gives_ties_their_mean_rank() -> None:
    a, b = np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert spearman(a, b) == pytest.approx(0.9486833)


def identity(inputs: Tensors) -> Tensors:
    return {"y": inputs["x"]}


def constant(inputs: Tensors) -> Tensors:
    return {"y": np.zeros_like(inputs["x"])}


def parity() -> MeanMetric:
    def samples(n: int | None) -> list[Sample]:
        return [Sample({"x": np.array([i % 2])}, i % 2) for i in range(40 if n is None else n)]

    return MeanMetric("parity", samples, lambda run, s: float(run(s.inputs)["y"][0] == s.target))


def test_mean_metric_evaluates_and_compares() -> None:
    metric = parity()
    assert metric.evaluate(identity) == MetricResult(1.0, 40, pytest.approx((0.912, 1.0), abs=1e-3))
    assert metric.evaluate(constant, 10).value == 0.5
    difference = metric.compare(identity, constant)
    assert difference.value == -0.5
    assert difference.ci95[0] < -0.5 < difference.ci95[1] < 0


def test_spearman_metric_compares_two_models_pair_by_pair() -> None:
    def pairs(n: int | None) -> list[Pair]:
        rng = np.random.default_rng(0)
        numbers = rng.standard_normal(50 if n is None else n)
        return [Pair({"x": np.array([v])}, float(v), {"x": np.array([0.0])}) for v in numbers]

    metric = SpearmanMetric("order", pairs, lambda run, pair: float(run(pair.inputs)["y"][0]))
    assert metric.evaluate(identity).value == pytest.approx(1)
    noise = np.random.default_rng(1)
    worse = metric.compare(identity, lambda inputs: {"y": inputs["x"] + 3 * noise.standard_normal(1)})
    assert worse.value < 0
    assert worse.ci95[1] < 0


def test_results_print_with_their_interval() -> None:
    assert str(MetricResult(0.5, 10, (0.25, 0.75))) == "0.5000 (n = 10, 95% interval 0.2500 to 0.7500)"
