"""Trials on recorded inputs: the same figures as in a session, of less work."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of
from optc.compiler.ir import Graph
from optc.passes.quantization.insert import Affine, channel_axis, nearest
from optc.passes.quantization.measure import Scaled, Trial, measure
from optc.passes.quantization.placement import place
from optc.passes.quantization.record import Recorded

GRID = Affine(float(np.float32(6 / 255)), 128)
NET = """
graph main(%x: f32[1,4,6,6]) {
  %w1: f32[6,4,3,3] = const random(1)
  %b1: f32[6] = const random(2)
  %w2: f32[6,1,3,3] = const random(3)
  %w3: f32[6,3,2,2] = const random(4)
  %a = Conv(%x, %w1, %b1) {pads=[1, 1, 1, 1]}
  %d = Conv(%a, %w2) {group=6}
  %u = ConvTranspose(%d, %w3) {strides=[2, 2]}
  %y = GlobalAveragePool(%u)
  return %y
}
"""


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 4, 6, 6)).astype(np.float32)} for _ in range(count)]


def trials(graph: Graph) -> list[Trial]:
    found = []
    for node in place(graph).layers:
        weights = nearest(np.asarray(node.operand(1).data), channel_axis(node))
        by = np.linspace(0.5, 2, node.operand(0).type.static_shape[1]).astype(np.float32).reshape(1, -1, 1, 1)
        found += [Trial(node, {0: GRID}), Trial(node, {1: weights}), Trial(node, {0: Scaled(by, GRID), 1: weights})]
    return [*found, *(Trial(n, {0: GRID}) for n in graph.nodes if n.op == "GlobalAveragePool")]


def test_as_in_a_session() -> None:
    graph = graph_of(NET)
    tried, data = trials(graph), samples()
    recorded = Recorded(graph, place(graph).layers, data)
    for trial, got, expected in zip(tried, recorded.measure(tried), measure(graph, tried, data), strict=True):
        at = f"{trial.node.op} {sorted(trial.operands)}"
        assert got.count == expected.count, at
        assert got.signal == pytest.approx(expected.signal, rel=1e-3), at
        assert got.noise == pytest.approx(expected.noise, rel=0.02), at
        np.testing.assert_allclose(got.error, expected.error, rtol=0.02, atol=0.02, err_msg=at)


def test_layers_that_read_alike_share_rows() -> None:
    graph = graph_of("""graph main(%x: f32[5,8]) {
      %w1: f32[8,4] = const random(1)
      %w2: f32[8,2] = const random(2)
      %y = MatMul(%x, %w1)
      %z = MatMul(%x, %w2)
      return %y, %z
    }""")
    data = [{"x": np.random.default_rng(i).standard_normal((5, 8)).astype(np.float32)} for i in range(2)]
    first, second = graph.nodes
    recorded = Recorded(graph, [first, second], data)
    assert recorded.rows(first) is recorded.rows(second)
    x = np.concatenate([each["x"] for each in data])
    np.testing.assert_array_equal(recorded.rows(first)[:, 0], x)
    np.testing.assert_allclose(recorded.gram(second), x.T @ x / 10, rtol=1e-5)


def test_memory_bounds_the_rows() -> None:
    graph = graph_of(NET)
    layers = place(graph).layers
    assert len(Recorded(graph, layers, samples(), memory=1).rows(layers[0])) == 3 * 16


def test_without_samples_outcomes_are_empty() -> None:
    graph = graph_of(NET)
    layers = place(graph).layers
    (outcome,) = Recorded(graph, layers, []).measure([Trial(layers[0], {0: GRID})])
    assert (outcome.signal, outcome.noise) == (0, 0)
