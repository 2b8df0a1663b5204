"""The int8 speed page: which peer counts, and what is met."""

from __future__ import annotations

import pytest
from optc.tools.bench import Timing
from optc.tools.benchmarks_int8 import OWN_FLOAT, Int8Row, markdown_int8, summary


def timing(name: str, ratio: float) -> Timing:
    return Timing(name, 1 / ratio, 1 / ratio, 1.0, ratio, ratio - 0.1, ratio + 0.1, 10)


def row(model: str, own: float, peers: dict[str, float], holds: dict[str, bool] | None = None) -> Int8Row:
    timings = [timing("optc", 1.0), timing(OWN_FLOAT, own), *(timing(n, r) for n, r in peers.items())]
    return Int8Row(model, 1, tuple(timings), holds or {}, {"openvino-int8-mixed": "no such layer"})


PEERS = {"onnxruntime-int8": 0.9, "openvino-int8": 0.6}


def test_the_best_peer_is_the_fastest_that_is_accurate() -> None:
    free, strict = row("a", 0.5, PEERS), row("a", 0.5, PEERS, {"onnxruntime-int8": False})
    assert free.best is not None
    assert strict.best is not None
    assert (free.best.name, strict.best.name) == ("onnxruntime-int8", "openvino-int8")
    assert row("a", 0.5, PEERS, dict.fromkeys(PEERS, False)).best is None


def test_goals_are_said_to_be_met_or_not() -> None:
    mean, none_above, own = summary([row("a", 0.5, {"openvino-int8": 0.4}), row("b", 1.2, {"openvino-int8": 1.1})])
    assert "**0.663**" in mean
    assert mean.endswith(": met")
    assert none_above.endswith("not met: b 1.10")
    assert own.endswith("not met: b 1.20")


def test_variants_of_a_model_can_count_as_one() -> None:
    variants = [row(f"silero-vad-{i}", 0.5, {"openvino-int8": 0.5}) for i in range(3)]
    mean = summary([*variants, row("b", 0.5, {"openvino-int8": 1.0})])[0]
    assert f"{0.5**0.75:.3f}" in mean
    assert f"{0.5**0.5:.3f} with the silero-vad exports as one" in mean


@pytest.mark.parametrize("holds", [{}, {"onnxruntime-int8": False}])
def test_the_page_has_a_cell_a_peer(holds: dict[str, bool]) -> None:
    page = markdown_int8([row("a", 0.5, PEERS, holds)], "command")
    head, _, line = (text for text in page.splitlines() if text.startswith("|"))
    assert head.count("|") == line.count("|")
    assert ("(0.90)" in line) == bool(holds)
    assert "fails" in line
    assert "a, NNCF, mixed: no such layer" in page
