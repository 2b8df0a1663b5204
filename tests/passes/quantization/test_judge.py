"""One session judges every choice, and as the quantized graph itself would be judged."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, run_reference
from optc.compiler.ir import Graph
from optc.passes.quantization.insert import Affine, Choice, applied
from optc.passes.quantization.judge import Judge, deciders
from optc.passes.quantization.placement import Placement, place

NET = """
graph main(%x: f32[200,8]) {
  %w1: f32[8,6] = const random(1)
  %b1: f32[6] = const random(2)
  %w2: f32[6,4] = const random(3)
  %a = Gemm(%x, %w1, %b1)
  %r = Relu(%a)
  %l = MatMul(%r, %w2)
  %y = Softmax(%l) {axis=-1}
  return %y
}
"""


def data(count: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((200, 8)).astype(np.float32)} for _ in range(count)]


def choice(placement: Placement, scale: float) -> Choice:
    return Choice(dict.fromkeys(placement.values, Affine(scale, 128)))


def logits_snr(graph: Graph, quantized: Graph, samples: list[dict[str, np.ndarray]]) -> float:
    """As in the definition, by the reference interpreter."""
    found = []
    for sample in samples:
        a, b = (run_reference(logits_of(g), sample)["l"].astype(np.float64) for g in (graph, quantized))
        found.append(10 * np.log10(np.square(a).sum() / np.square(a - b).sum()))
    return float(np.mean(found))


def logits_of(graph: Graph) -> Graph:
    mapping: dict[object, object] = {}
    copy = graph.clone(mapping)  # type: ignore[arg-type]
    copy.set_outputs([n.operand(0) for n in copy.nodes if n.op == "Softmax"], ["l"])
    return copy


def test_what_decides_is_compared() -> None:
    graph = graph_of(NET)
    assert [v.name for v in deciders(graph)] == ["l"]


def test_an_argmax_is_judged_by_its_operand() -> None:
    source = NET.replace("Softmax(%l) {axis=-1}", "ArgMax(%l) {axis=-1}")
    assert [v.name for v in deciders(graph_of(source))] == ["l"]


@pytest.mark.parametrize("scale", [0.05, 0.2])
def test_as_the_quantized_graph_itself(scale: float) -> None:
    graph = graph_of(NET)
    placement = place(graph)
    tried = choice(placement, scale)
    judged = Judge(graph, placement, data()).snr(tried)
    assert judged == pytest.approx(logits_snr(graph, applied(graph, placement, tried), data()), abs=0.1)


def test_one_session_tells_choices_apart() -> None:
    graph = graph_of(NET)
    placement = place(graph)
    judge = Judge(graph, placement, data())
    fine, coarse = (judge.snr(choice(placement, s)) for s in (0.1, 1.0))
    assert fine > coarse + 10
    assert judge.snr(choice(placement, 0.1)) == fine


def test_shifts_of_biases_are_seen() -> None:
    graph = graph_of(NET)
    placement = place(graph)
    plain = choice(placement, 0.1)
    shifted = Choice(plain.grids, shifts={placement.layers[0]: np.full(6, 3.0)})
    judge = Judge(graph, placement, data())
    assert judge.snr(shifted) < judge.snr(plain) - 5


def test_an_equal_judge_lends_what_the_float_graph_gives() -> None:
    graph = graph_of(NET)
    placement = place(graph)
    tried, first = choice(placement, 0.1), Judge(graph, placement, data())
    assert Judge(graph, placement, data(), first).snr(tried) == first.snr(tried)


def test_a_clear_difference_takes_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(NET)
    placement = place(graph)
    judge = Judge(graph, placement, data(40))
    asked: list[int] = []
    scores = Judge.scores

    def noted(self: Judge, tried: Choice, start: int, stop: int) -> list[float]:
        asked.append(stop)
        return scores(self, tried, start, stop)

    monkeypatch.setattr(Judge, "scores", noted)
    fine, coarse = (judge.on(choice(placement, s)) for s in (0.05, 1.0))
    assert fine.gain_over(coarse) > 0
    assert coarse.gain_over(fine) < 0
    assert max(asked) == 8


def test_what_is_no_better_does_not_replace_the_first() -> None:
    graph = graph_of(NET)
    placement = place(graph)
    judge = Judge(graph, placement, data(12))
    same, again, coarse = (choice(placement, s) for s in (0.05, 0.05, 1.0))
    assert judge.on(again).gain_over(judge.on(same)) == 0
    assert judge.best({"first": same, "again": again, "coarse": coarse}) == "first"
    assert judge.best({"coarse": coarse, "fine": same}) == "fine"


def test_without_samples_nothing_is_better() -> None:
    graph = graph_of(NET)
    placement = place(graph)
    judge = Judge(graph, placement, [])
    assert judge.best({"a": choice(placement, 1.0), "b": choice(placement, 0.1)}) == "a"
