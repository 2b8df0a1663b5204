"""The accuracy budget: what stays float, and what a walk that was stopped leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import graph_of
from onnx import helper
from optc.compiler.errors import CalibrationError
from optc.compiler.onnx.importer import import_model
from optc.compiler.options import Calibration, Run
from optc.passes.quantization import budget
from optc.passes.quantization.budget import Walk, walk
from optc.passes.quantization.execute import Runner
from optc.passes.quantization.quantize import Recipe, Study, quantize, study
from small_models import make_model

Samples = list[dict[str, np.ndarray]]
RAW = Recipe(smooth=False)
"""Equalization would heal the bad layer."""


def one_bad_layer() -> onnx.ModelProto:
    """Five dense layers; `bad` reads a channel a thousand times as large as the others, which tell the classes."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": (rng.standard_normal((16, 16)) / 4).astype(np.float32) for i in range(5)}
    weights["w1"][:, 3] *= 1000
    weights["w2"][3] /= 1000
    names = ["first", "second", "bad", "fourth", "last"]
    nodes = []
    for i, name in enumerate(names):
        source = "x" if i == 0 else f"r{i - 1}"
        out = "y" if i == 4 else f"h{i}"
        nodes.append(helper.make_node("Gemm", [source, f"w{i}"], [out], name=name))
        if i < 4:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"], name=f"act{i}"))
    return make_model(nodes, weights, ["N", 16])


@pytest.fixture(scope="module")
def samples() -> Samples:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((32, 16)).astype(np.float32)} for _ in range(16)]


@pytest.fixture(scope="module")
def found(samples: Samples) -> Study:
    return study(import_model(one_bad_layer()), Calibration(samples), RAW)


def counted(score: Callable[[Run], float], at: int, calls: list[int]) -> Callable[[Run], float]:
    """The metric, interrupted at its call number `at`."""

    def metric(run: Run) -> float:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return score(run)

    return metric


def winners_agree(study: Study, samples: Samples) -> Callable[[Run], float]:
    expected = [Runner(study.graph).run(s)["y"].argmax(-1) for s in samples]

    def score(run: Run) -> float:
        pairs = zip(samples, expected, strict=True)
        return float(np.mean([(run(s)["y"].argmax(-1) == e).mean() for s, e in pairs]))

    return score


def test_exactly_the_bad_layer_stays_float(found: Study, samples: Samples) -> None:
    result = walk(found, 0.05, samples=samples)
    assert result.best.float_layers == ("bad",)
    assert result.holds(result.best)
    assert not result.holds(result.steps[0])
    assert max(result.harm, key=lambda name: result.harm[name]) == "bad"
    assert 0 < result.best.int8_share < 1
    assert "float stay bad" in "\n".join(result.lines())


def test_a_wide_budget_takes_one_step(found: Study, samples: Samples) -> None:
    result = walk(found, 0.9, samples=samples)
    assert [s.float_layers for s in result.steps] == [()]
    assert result.best.int8_share == 1


def test_no_budget_at_all_ends_with_the_float_model(found: Study) -> None:
    x = {"x": np.ones((2, 16), np.float32)}
    expected = Runner(found.graph).run(x)["y"]
    result = walk(found, 0.0, lambda run: float(np.allclose(run(x)["y"], expected, rtol=1e-5)))
    assert result.holds(result.best)
    assert set(result.best.float_layers) == {n.name for n in found.placement.layers}
    assert "int8 brings nothing" in "\n".join(result.lines())


def test_the_users_metric_decides(found: Study, samples: Samples) -> None:
    assert walk(found, 0.05, winners_agree(found, samples)).best.float_layers == ("bad",)


def test_an_interrupted_walk_yields_the_best_so_far_and_goes_on(found: Study, samples: Samples, tmp_path: Path) -> None:
    state, score = tmp_path / "steps.json", winners_agree(found, samples)
    calls: list[int] = []
    stopped = walk(found, 0.002, counted(score, 4, calls), state=state)
    assert stopped.interrupted
    assert len(stopped.steps) == 2  # the float model was the first call
    assert stopped.best == max(stopped.steps, key=lambda s: s.score)
    assert "interrupted" in "\n".join(stopped.lines())
    assert json.loads(state.read_text())["best"]["float_layers"] == list(stopped.best.float_layers)
    calls.clear()
    whole = walk(found, 0.002, counted(score, -1, calls), state=state)
    assert whole.holds(whole.best)
    assert len(calls) == 1 + len(whole.steps) - 2  # the float model, and the steps that were not known


def test_steps_of_other_data_are_not_believed(found: Study, samples: Samples, tmp_path: Path) -> None:
    state = tmp_path / "steps.json"
    before = walk(found, 0.05, samples=samples[:2], state=state)
    after = walk(found, 0.05, samples=samples, state=state)
    assert after.decisions == 8 * (before.decisions or 0)
    assert before.steps[0].score != after.steps[0].score


def test_a_budget_of_zero_allows_values_no_tolerance() -> None:
    text = "graph g(%x: f32[4, 8]) {\n  %w: f32[8, 3] = const random(1)\n  %y = MatMul(%x, %w)\n  return %y\n}"
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((4, 8)).astype(np.float32)} for _ in range(8)]
    subject = study(graph_of(text), Calibration(data))
    assert not walk(subject, 0.01, samples=data).best.float_layers
    assert walk(subject, 0.0, samples=data).best.int8_share == 0


def test_steps_of_other_code_are_not_believed(
    found: Study, samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "steps.json"
    keys = []
    for code in ("one", "other", "other"):
        monkeypatch.setattr(budget, "_code", lambda code=code: code)
        walk(found, 0.05, samples=samples[:2], state=state)
        keys.append(json.loads(state.read_text())["key"])
    assert keys[0] != keys[1] == keys[2]


def fails(run: Run) -> float:
    raise ZeroDivisionError("no labels")


@pytest.mark.parametrize(("metric", "words"), [(fails, "no labels"), (lambda run: float("nan"), "no number")])
def test_a_metric_that_fails_says_so(found: Study, metric: Callable[[Run], float], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        walk(found, 0.01, metric)


def test_too_few_places_to_tell(found: Study, samples: Samples) -> None:
    few = [{"x": samples[0]["x"][:3]}]
    result: Walk = walk(found, 0.01, samples=few)
    assert "one may decide" in "\n".join(result.lines())


def test_quantize_leaves_what_the_walk_chose(samples: Samples) -> None:
    graph = import_model(one_bad_layer())
    report = quantize(graph, Calibration(samples), Recipe(smooth=False, budget=0.05))
    assert report.float_layers == {"bad"}
    assert "bad" not in report.layers
    assert len(report.layers) == 4
    assert sum(n.op == "QuantizeLinear" for n in graph.nodes) == 4
