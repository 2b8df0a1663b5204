"""Bias correction takes back the mean error of each channel."""

from __future__ import annotations

import numpy as np
from helpers import graph_of
from optc.compiler.ir import Graph
from optc.passes.quantization.bias import shifts_of
from optc.passes.quantization.insert import Affine, Choice, applied
from optc.passes.quantization.measure import Trial, measure, outputs_of
from optc.passes.quantization.placement import place
from optc.passes.quantization.record import Recorded

CONV = """
graph main(%x: f32[1,3,24,24]) {
  %w: f32[4,3,3,3] = const random(1)
  %y = Conv(%x, %w)
  return %y
}
"""
MATMUL = """
graph main(%x: f32[m,8]) {
  %w: f32[8,4] = const random(1)
  %b: f32[4] = const [1.0, 2.0, 3.0, 4.0]
  %p = MatMul(%x, %w)
  %y = Add(%b, %p)
  return %y
}
"""
LOW = Affine(float(np.float32(1 / 255)), 0)
"""What is above 1 is clipped, which shifts means."""


def samples(graph: Graph, count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shape = [d if isinstance(d, int) else 2000 for d in graph.inputs[0].type.dims]
    return [{"x": rng.uniform(0, 1.5, shape).astype(np.float32)} for _ in range(count)]


def mean_errors(source: str) -> tuple[np.ndarray, np.ndarray]:
    """The greatest mean error of a channel without and with correction."""
    graph = graph_of(source)
    data, placement = samples(graph), place(graph)
    choice = Choice(dict.fromkeys(placement.values, LOW))
    fit, judge = (Recorded(graph, placement.layers, part) for part in (data[::2], data[1::2]))
    shifts, steps = shifts_of(placement, choice, fit, judge)
    assert all(s.kept and s.after > s.before for s in steps.values())
    expected = outputs_of(graph, data)
    axis = 1 if "Conv" in source else -1
    errors = []
    for each in (choice, Choice(choice.grids, shifts=shifts)):
        got = outputs_of(applied(graph, placement, each), data)
        difference = np.concatenate([a["y"] - b["y"] for a, b in zip(expected, got, strict=True)])
        errors.append(np.abs(np.moveaxis(difference, axis, 0).reshape(4, -1).mean(1)).max())
    return errors[0], errors[1]


def test_a_convolution_without_a_bias_gets_one() -> None:
    plain, corrected = mean_errors(CONV)
    assert corrected < 0.1 * plain


def test_the_constant_added_to_a_product_is_its_bias() -> None:
    plain, corrected = mean_errors(MATMUL)
    assert corrected < 0.1 * plain


def test_a_product_without_a_place_for_a_bias_is_left_alone() -> None:
    graph = graph_of(MATMUL.replace("Add(%b, %p)", "Relu(%p)"))
    placement = place(graph)
    data = samples(graph)
    recorded = Recorded(graph, placement.layers, data)
    assert shifts_of(placement, Choice(dict.fromkeys(placement.values, LOW)), recorded, recorded) == ({}, {})


def test_an_outcome_is_that_of_the_shifted_trial() -> None:
    graph = graph_of(CONV)
    data, node = samples(graph), next(iter(graph.nodes))
    (plain,) = measure(graph, [Trial(node, {0: LOW})], data)
    by = np.array([0.5, -0.25, 0.0, 1.0])
    expected = outputs_of(graph, data)
    got = outputs_of(applied(graph, place(graph), Choice({graph.inputs[0]: LOW})), data)
    assert plain.count == len(data) * 484
    assert plain.signal > plain.noise > 0
    again = plain.shifted(by).shifted(-by)
    np.testing.assert_allclose([again.noise, *again.error], [plain.noise, *plain.error])
    total = sum(float((a["y"] - b["y"]).sum()) for a, b in zip(expected, got, strict=True))
    np.testing.assert_allclose(plain.error.sum(), total, rtol=0.1)  # the second rounds weights as well
