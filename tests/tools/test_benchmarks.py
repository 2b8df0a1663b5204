"""The speed pages: which peer counts, what is met, and rows that outlive a killed run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from optc.tools import benchmarks
from optc.tools.bench import Timing
from optc.tools.benchmarks import append_row, read_rows
from optc.tools.benchmarks_page import markdown, summary
from optc.tools.benchmarks_systems import COMPARISONS, OWN_FLOAT, Row, at_shapes


def timing(name: str, ratio: float) -> Timing:
    return Timing(name, 1 / ratio, 1 / ratio, 1.0, ratio, ratio - 0.1, ratio + 0.1, 10, 1 / ratio)


def int8_row(model: str, own: float, peers: dict[str, float], holds: dict[str, bool] | None = None) -> Row:
    timings = [timing("optc int8", 1.0), timing(OWN_FLOAT, own), *(timing(n, r) for n, r in peers.items())]
    return Row("int8", model, 1, tuple(timings), holds or {}, {"openvino-int8-mixed": "no such layer"})


PEERS = {"onnxruntime-int8": 0.9, "openvino-int8": 0.6}


def test_the_best_peer_is_the_fastest_that_is_accurate() -> None:
    free, strict = int8_row("a", 0.5, PEERS), int8_row("a", 0.5, PEERS, {"onnxruntime-int8": False})
    assert free.best is not None
    assert strict.best is not None
    assert (free.best.name, strict.best.name) == ("onnxruntime-int8", "openvino-int8")
    assert int8_row("a", 0.5, PEERS, dict.fromkeys(PEERS, False)).best is None


def test_bf16_is_compared_with_bf16_whatever_else_is_faster() -> None:
    timings = [timing("optc bf16", 1.0), timing("openvino-bf16", 0.5), timing("onnxruntime", 3.0)]
    best = Row("bf16", "a", 1, tuple(timings), {"openvino-bf16": False}).best
    assert best is not None
    assert best.name == "openvino-bf16"


def test_goals_are_said_to_be_met_or_not() -> None:
    rows = [int8_row("a", 0.5, {"openvino-int8": 0.4}), int8_row("b", 1.2, {"openvino-int8": 1.1})]
    mean, none_above, own, *_ = summary(rows)
    assert "**0.663**" in mean
    assert ": not met; 2 models, worst b 1.10" in mean
    assert none_above.endswith("not met, 1 of 2: b 1.10")
    assert "not met, 1 of 2: b 1.20" in own


def test_variants_of_a_model_can_count_as_one() -> None:
    variants = [int8_row(f"silero-vad-{i}", 0.5, {"openvino-int8": 0.5}) for i in range(3)]
    mean = summary([*variants, int8_row("b", 0.5, {"openvino-int8": 1.0})])[0]
    assert f"{0.5**0.75:.3f}" in mean
    assert f"{0.5**0.5:.3f} with the silero-vad exports as one" in mean


@pytest.mark.parametrize("holds", [{}, {"onnxruntime-int8": False}])
def test_the_page_has_a_cell_a_system_with_its_interval(holds: dict[str, bool]) -> None:
    page = markdown([int8_row("a", 0.5, PEERS, holds)], "command")
    head, _, line = (text for text in page.splitlines() if text.startswith("|"))
    assert head.count("|") == line.count("|")
    assert ("[0.90 (0.80-1.00)]" in line) == bool(holds)
    assert "fails" in line
    assert "a, NNCF, mixed: no such layer" in page


def test_a_model_that_failed_is_named_and_no_row() -> None:
    failed = Row("fp32", "b", 1, (), {}, {OWN_FLOAT: "killed by signal 9"})
    page = markdown([Row("fp32", "a", 1, (timing(OWN_FLOAT, 1.0), timing("openvino", 0.5))), failed], "command")
    assert "- b, optc fp32: killed by signal 9" in page
    assert "| b |" not in page
    assert "1 models, worst a" in page


def test_rows_are_read_back_and_a_line_cut_short_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = int8_row("a", 0.5, PEERS, {"openvino-int8": True})
    append_row(file, row)
    with file.open("a") as out:
        out.write('{"precision": "int8", "mo')
    append_row(file, int8_row("b", 0.5, PEERS))
    assert list(read_rows(file)) == [("int8", "a", 1), ("int8", "b", 1)]
    assert read_rows(file)["int8", "a", 1] == row


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asked = tmp_path / "rows.jsonl", []
    append_row(file, Row("fp32", "a", 1, (timing(OWN_FLOAT, 1.0), timing("openvino", 0.5))))

    def spawn(name: str, *_: object) -> tuple[int, str]:
        asked.append(name)
        return 5, "no such model"

    monkeypatch.setattr(benchmarks, "_spawn", spawn)
    page = tmp_path / "page.md"
    code = benchmarks.main(["a", "b", "--threads", "1", "--resume", str(file), "--markdown", str(page)])
    assert (code, asked) == (5, ["b"])
    assert "- b, optc fp32: no such model" in page.read_text()


def test_inputs_are_repeated_or_cut_to_the_static_shapes() -> None:
    found = at_shapes({"x": np.arange(3), "s": np.float32(1)[()]}, {"x": (5,)})
    assert found["x"].tolist() == [0, 1, 2, 0, 1]
    assert found["s"].shape == ()


def test_every_page_has_optc_first_and_peers_that_count() -> None:
    for page in COMPARISONS.values():
        assert page.systems[0] == f"optc {page.precision}"
        assert page.rivals
