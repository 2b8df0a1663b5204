"""The score of outputs where the user gives no metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from optc.compiler.onnx.importer import import_model
from optc.compiler.options import Run
from optc.passes.quantization.agreement import Agreement, Kind, kinds_of
from small_models import make_model


def score(kind: Kind, expected: Any, found: Any) -> float:
    float_model = Agreement({"y": kind}, lambda sample: {"y": np.asarray(expected)}, [{}])
    return float_model(lambda sample: {"y": np.asarray(found)})


ROWS = np.array([[0.6, 0.3, 0.1], [0.5, 0.49, 0.01]], np.float32)


def test_the_float_model_scores_one() -> None:
    assert score("probabilities", ROWS, ROWS) == score("logits", ROWS, ROWS) == score("values", ROWS, ROWS) == 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([[0, 1, 0], [1, 0, 0]], (0.3 + 0.5) / 1.1),
        ([[1, 0, 0], [0, 1, 0]], (0.6 + 0.49) / 1.1),  # nearly as likely: hardly worse
        ([[1, 0, 0], [np.nan, 1, 0]], 0.6 / 1.1),
    ],
)
def test_winners_count_by_the_probability_that_float_gives_them(found: list[list[float]], expected: float) -> None:
    assert score("probabilities", ROWS, np.array(found, np.float32)) == pytest.approx(expected)


def test_many_classes() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(50), 20).astype(np.float32)
    assert score("probabilities", rows, rows * 3) == 1
    assert score("probabilities", rows, -rows) == 0


def test_values_within_two_percent_of_the_range() -> None:
    y = np.linspace(0, 10, 5)
    assert score("values", y, y + np.array([0, 0.19, 0.21, -0.19, -0.3])) == pytest.approx(3 / 5)
    assert score("values", np.array([1.0, np.inf]), np.array([1.0, np.nan])) == 0.5


def test_an_embedding_taken_for_logits_is_compared_by_value() -> None:
    y = np.random.default_rng(0).standard_normal((4, 64)) * 1e-3
    assert score("logits", y, -y) < 0.1


def test_integers_and_other_shapes() -> None:
    assert score("values", np.arange(4), np.array([0, 1, 2, 5])) == 0.75
    assert score("values", np.zeros(4), np.zeros(3)) == 0
    assert score("values", np.zeros(0), np.zeros(0)) == 1


def test_the_output_that_agrees_least_counts() -> None:
    kinds: dict[str, Kind] = {"a": "values", "b": "values"}
    agreement = Agreement(kinds, lambda s: {"a": np.arange(4), "b": np.arange(4)}, [{}])
    assert agreement(lambda s: {"a": np.arange(4), "b": np.zeros(4, int)}) == 0.25


@pytest.mark.parametrize(
    ("last", "columns", "kind"),
    [("Softmax", 3, "probabilities"), (None, 8, "logits"), (None, 4, "values"), ("Sigmoid", 8, "values")],
)
def test_kinds(last: str | None, columns: int, kind: str) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h" if last else "y"])]
    nodes += [helper.make_node(last, ["h"], ["y"])] if last else []
    graph = import_model(make_model(nodes, {"w": np.ones((6, columns), np.float32)}, ["N", 6]))
    assert kinds_of(graph) == {"y": kind}


def test_one_number_a_sample_is_measured_by_what_all_samples_span() -> None:
    samples = [{"x": np.array([[x]], np.float32)} for x in (0.0, 0.5, 1.0)]
    score = Agreement({"y": "values"}, lambda s: {"y": s["x"]}, samples)
    assert score(lambda s: {"y": s["x"] + 0.015}) == 1.0
    assert score(lambda s: {"y": s["x"] + 0.03}) == 0.0


def test_a_state_is_carried_on_as_the_model_made_it() -> None:
    def counter(step: float) -> Run:
        return lambda sample: {"next": sample["state"] + np.float32(step), "y": sample["state"] * 2}

    samples, state = [], np.ones((1, 3), np.float32)
    for _ in range(20):
        samples.append({"state": state})
        state = state + np.float32(1)
    score = Agreement({"next": "values", "y": "values"}, counter(1.0), samples)
    assert score.calls_in_a_row == 19
    assert score(counter(1.0)) == 1
    assert score(counter(1.1)) < 0.5  # each call alone is within 2% of the range
    shuffled = Agreement({"next": "values", "y": "values"}, counter(1.0), samples[::2])
    assert shuffled.calls_in_a_row == 0
    assert shuffled(counter(1.1)) == 1
