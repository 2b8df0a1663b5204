"""Ranges: one grid a group, chosen where the value is read."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of
from optc.compiler.ir import Graph
from optc.passes.quantization.histogram import Histogram
from optc.passes.quantization.judge import Judge
from optc.passes.quantization.placement import Placement, place
from optc.passes.quantization.quantize import Recipe, observe
from optc.passes.quantization.ranges import CANDIDATES, best_grids, grids_of
from optc.passes.quantization.record import Recorded

JOINED = """
graph main(%x: f32[1,4,6,6]) {
  %w1: f32[4,4,1,1] = const random(1)
  %w2: f32[4,8,1,1] = const random(2)
  %a = Conv(%x, %w1)
  %b = Relu(%a)
  %c = Tanh(%a)
  %d = Concat(%b, %c) {axis=1}
  %y = Conv(%d, %w2)
  return %y
}
"""
Samples = list[dict[str, np.ndarray]]


def samples(spike: float = 0.0) -> Samples:
    """Normal values; with a spike, a value far off in one place of one sample."""
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((1, 4, 6, 6)).astype(np.float32)} for _ in range(8)]
    if spike:
        data[0]["x"][0, 0, 0, 0] = spike
    return data


def seen(graph: Graph, placement: Placement, data: Samples) -> dict[str, Histogram]:
    found = observe(graph, placement.values, data, Recipe()).statistics
    return {name: h for name, each in found.items() for h in each if isinstance(h, Histogram)}


@pytest.mark.parametrize("method", CANDIDATES)
def test_what_is_joined_shares_a_grid_that_holds_all(method: str) -> None:
    graph = graph_of(JOINED)
    placement = place(graph)
    grids = grids_of(placement, seen(graph, placement, samples()), method)
    group = next(g for g in placement.groups if len(g) > 1)
    assert len({grids[v] for v in group}) == 1
    assert set(grids) == set(placement.values)


def test_minmax_spans_the_extremes_of_the_group() -> None:
    graph = graph_of(JOINED)
    placement = place(graph)
    histograms = seen(graph, placement, samples())
    grids = grids_of(placement, histograms, "minmax")
    for group in placement.groups:
        grid = grids[group[0]]
        low = min(0.0, *(histograms[v.name].minimum for v in group))
        high = max(0.0, *(histograms[v.name].maximum for v in group))
        assert grid.scale * 255 == pytest.approx(high - low, rel=1e-5)


def test_a_spike_is_clipped_where_that_serves_the_readers() -> None:
    graph = graph_of(JOINED)
    placement, data = place(graph), samples(spike=60.0)
    histograms = seen(graph, placement, data)
    judge = Judge(graph, placement, data[1:])
    grids, _ = best_grids(placement, histograms, Recorded(graph, placement.layers, data[1:]), judge)
    widest = grids_of(placement, histograms, "minmax")
    x = graph.inputs[0]
    assert grids[x].scale < widest[x].scale / 2


def test_without_samples_the_first_method() -> None:
    graph = graph_of(JOINED)
    placement = place(graph)
    histograms = seen(graph, placement, samples())
    grids, method = best_grids(placement, histograms, None, Judge(graph, placement, []))
    assert method == CANDIDATES[0]
    assert grids == grids_of(placement, histograms, CANDIDATES[0])
