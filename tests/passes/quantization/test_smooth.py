"""Channels brought to like ranges: kept where a layer gains, and never at the price of another function."""

from __future__ import annotations

import numpy as np
from helpers import graph_of, run_reference
from optc.compiler.ir import Graph
from optc.compiler.printing import print_graph
from optc.passes.quantization.placement import place
from optc.passes.quantization.record import Recorded
from optc.passes.quantization.report import Kept
from optc.passes.quantization.smooth import Scaling, apply_scalings, scalable, scaled_copy, scalings

Samples = list[dict[str, np.ndarray]]

NORM = """
graph main(%x: f32[m,8]) {
  %g: f32[8] = const [100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
  %b: f32[8] = const [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
  %w: f32[8,16] = const random(1)
  %v = LayerNormalization(%x, %g, %b) {axis=-1}
  %y = MatMul(%v, %w)
  return %y
}
"""
DEPTHWISE = """
graph main(%x: f32[1,3,8,8]) {
  %w1: f32[4,3,1,1] = const random(1)
  %c: f32[1,4,1,1] = const [50.0, 1.0, 2.0, 1.0]
  %w2: f32[4,1,1,1] = const [0.001, 1.0, -1.0, 0.5]
  %a = Conv(%x, %w1)
  %s = Mul(%a, %c)
  %v = Sigmoid(%s)
  %u = Mul(%v, %s)
  %y = Conv(%u, %w2) {group=4}
  return %y
}
"""


def samples(graph: Graph, count: int = 4) -> Samples:
    rng = np.random.default_rng(0)
    shape = [d if isinstance(d, int) else 12 for d in graph.inputs[0].type.dims]
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def found(graph: Graph, data: Samples) -> list[Scaling]:
    """What gains by the first half of the samples on the other."""
    placement = place(graph)
    channels = scalable(placement)
    beside = {value.name: [statistic] for value, statistic in channels.items()}
    fit = Recorded(graph, placement.layers, data[::2], beside=beside)
    return scalings(graph, fit, Recorded(graph, placement.layers, data[1::2]), channels)


def smoothed(source: str, **options: bool) -> tuple[Graph, dict[str, Kept], float]:
    """The graph after smoothing, what was done by output name, and the change of its output."""
    graph = graph_of(source)
    data = samples(graph)
    expected = run_reference(graph, data[0])["y"]
    steps = apply_scalings(graph, found(graph, data), **options)
    change = np.abs(run_reference(graph, data[0])["y"] - expected).max() / np.abs(expected).max()
    return graph, {n.output.name: step for n, step in steps.items()}, float(change)


def test_a_norm_takes_the_outlier_channel_back() -> None:
    graph, steps, change = smoothed(NORM)
    assert steps["y"].kept
    assert steps["y"].after > steps["y"].before
    assert [n.op for n in graph.nodes] == ["LayerNormalization", "MatMul"]
    assert change < 1e-5


def test_a_multiplication_is_inserted_where_nothing_absorbs() -> None:
    graph, steps, change = smoothed(DEPTHWISE)
    assert steps["y"].kept
    assert sum(n.op == "Mul" for n in graph.nodes) == 3
    assert change < 1e-5


def test_no_multiplication_if_not_allowed() -> None:
    graph, steps, _ = smoothed(DEPTHWISE, insert=False)
    assert not steps["y"].kept
    assert sum(n.op == "Mul" for n in graph.nodes) == 2


def test_like_channels_are_left_alone() -> None:
    source = NORM.replace("100.0", "1.0")
    graph, steps, change = smoothed(source)
    assert not any(s.kept for s in steps.values()) or change < 1e-5
    assert len(graph) == 2


def test_a_value_that_a_float_op_reads_is_left_alone() -> None:
    _, steps, change = smoothed(NORM.replace("return %y", "return %y, %v"))
    assert not steps
    assert change == 0


def test_a_channel_of_zeros() -> None:
    _, steps, change = smoothed(NORM.replace("[100.0, 1.0,", "[100.0, 0.0,"))
    assert np.isfinite(steps["y"].after)
    assert change < 1e-5


def test_a_copy_is_scaled_and_the_graph_is_not() -> None:
    graph = graph_of(NORM)
    before, data = print_graph(graph, consts="full"), samples(graph)
    copy = scaled_copy(graph, found(graph, data))
    assert print_graph(graph, consts="full") == before
    assert print_graph(copy, consts="full") != before
    np.testing.assert_allclose(run_reference(copy, data[0])["y"], run_reference(graph, data[0])["y"], rtol=1e-4)
