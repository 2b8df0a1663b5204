"""The accuracy page: what is judged, kept, compared and said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from optc.models.metrics import MeanMetric, MetricResult
from optc.tools import accuracy, accuracy_report
from optc.tools.accuracy import FLOAT, OURS, Judged, judge, judge_model, stored
from optc.tools.accuracy_report import Row, holding, markdown, rows, within_bar

SHIPPED = 40
"""Test images of fashion-cnn that need no download."""


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch) -> None:
    """fashion-cnn calibrated on images that the package ships."""
    from optc.models import fashion

    images, labels = fashion.shipped_sample()
    monkeypatch.setattr(fashion, "load", lambda split: ((255 * images[:, 0]).astype(np.uint8), labels))


def result(value: float, half: float = 0.001) -> MetricResult:
    return MetricResult(value, 1000, (value - half, value + half))


def row(
    differences: dict[str, MetricResult], agreement: bool = False, worse: dict[str, MetricResult] | None = None
) -> Row:
    return Row("m", "top-1", agreement, MetricResult(0.9, 1000, (0.88, 0.92)), differences, {}, worse or {})


def test_the_bar_is_a_third_of_a_point_or_half_the_interval() -> None:
    assert within_bar(result(-0.003))
    assert not within_bar(result(-0.0031))
    assert within_bar(result(-0.004, half=0.0041))
    assert within_bar(result(0.1))


def test_a_peer_above_by_chance_is_level_and_by_more_is_a_failure() -> None:
    assert row({OURS: result(-0.001)}).verdict == "PASS"
    near = row({OURS: result(-0.001)}, worse={"openvino-int8": result(-0.001, half=0.002)})
    assert near.verdict == "PASS (level with NNCF, performance)"
    behind = row({OURS: result(-0.001)}, worse={"openvino-int8": result(-0.002)})
    assert behind.verdict == "FAIL: behind NNCF, performance"
    assert row({OURS: result(-0.01)}).verdict == "FAIL: loss"


def test_agreement_has_no_bar_of_its_own() -> None:
    assert row({OURS: result(-0.01)}, agreement=True).passes
    assert not row({OURS: result(-0.01)}, agreement=True, worse={"openvino-int8": result(-0.002)}).passes


def judged(right: int, of: int = 1000, failure: str = "") -> Judged:
    scores = np.repeat([1.0, 0.0], [right, of - right])
    return Judged({} if failure else {"top-1": scores}, 1.0, failure)


def table() -> list[Row]:
    found = {
        FLOAT: judged(934),
        OURS: judged(933),
        "onnxruntime-int8": judged(800),
        "openvino-int8": judged(0, failure="no such layer"),
    }
    return rows({"fashion-cnn": found})


def test_rows_compare_each_system_with_the_float_model() -> None:
    (found,) = table()
    assert found.base.value == 0.934
    assert found.differences[OURS].value == pytest.approx(-0.001)
    assert found.failures == {"openvino-int8": "no such layer"}
    assert found.verdict == "PASS"


def test_a_peer_whose_metric_does_not_hold_is_known() -> None:
    assert holding(table()) == {
        "fashion-cnn": {OURS: True, "onnxruntime-int8": False, "openvino-int8": False},
    }


def test_the_page_has_a_cell_a_system_and_says_what_failed() -> None:
    page = markdown(table(), "python -m optc.tools.accuracy", 300)
    head, _, line = (text for text in page.splitlines() if text.startswith("|"))
    assert head.count("|") == line.count("|")
    assert "| 93.40 | -0.10 ± " in line
    assert "fails" in line
    assert "fashion-cnn, NNCF, performance: no such layer" in page
    assert "1 of 1 rows pass" in page


@pytest.mark.usefixtures("fashion")
def test_scores_are_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = judge_model("fashion-cnn", [FLOAT], SHIPPED, 2, tmp_path)
    assert len(first[FLOAT].scores["top-1"]) == SHIPPED
    monkeypatch.setattr(accuracy, "judge", lambda *_: pytest.fail("judged again"))
    again = judge_model("fashion-cnn", [FLOAT], SHIPPED, 2, tmp_path)
    np.testing.assert_array_equal(again[FLOAT].scores["top-1"], first[FLOAT].scores["top-1"])


@pytest.mark.usefixtures("fashion")
def test_other_calibration_or_items_are_judged_anew(tmp_path: Path) -> None:
    judge_model("fashion-cnn", [FLOAT], SHIPPED, 2, tmp_path)
    file = tmp_path / "fashion-cnn" / f"{FLOAT}.json"
    model = accuracy.models.get("fashion-cnn")
    samples = list(model.samples("calibration", 2))
    assert stored(file, accuracy.key_of(FLOAT, model, samples, SHIPPED)) is not None
    assert stored(file, accuracy.key_of(FLOAT, model, samples[:1], SHIPPED)) is None
    assert stored(file, accuracy.key_of(FLOAT, model, samples, SHIPPED - 1)) is None


def test_a_system_that_breaks_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no such\nlayer")

    monkeypatch.setattr(accuracy, "runner", broken)
    found = judge(OURS, accuracy.models.get("fashion-cnn"), [], 4)
    assert found.failure == "ValueError: no such layer"
    assert not found.scores


def test_answers_that_are_no_numbers_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = MeanMetric("nan", lambda n: [None], lambda run, sample: float("nan"))  # type: ignore[arg-type, list-item]
    monkeypatch.setattr(accuracy, "runner", lambda *_: None)
    monkeypatch.setattr(accuracy, "judges", lambda model: [metric])
    assert judge(OURS, accuracy.models.get("fashion-cnn"), [], 4).failure == "nan: not a number"


def test_what_is_known_grows_system_by_system(tmp_path: Path) -> None:
    assert accuracy.known(tmp_path) == {}
    accuracy.add_known(tmp_path, {"a": {OURS: True}})
    accuracy.add_known(tmp_path, {"a": {"openvino-int8": False}, "b": {}})
    assert accuracy.known(tmp_path) == {"a": {OURS: True, "openvino-int8": False}, "b": {}}


def test_every_judged_system_has_a_title() -> None:
    assert set(accuracy.SYSTEMS) - {FLOAT} == set(accuracy_report.TITLES)
