"""Scales that makers and readers absorb: the function stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph, Value
from optc.passes.quantization.equalize import absorb, input_axis, scale_input, weight_range

CHAIN = """
graph main(%x: f32[2,3,6,5]) {
  %w1: f32[4,3,3,3] = const random(1)
  %b1: f32[4] = const [0.5, -0.25, 0.125, 1.0]
  %w2: f32[4,1,3,3] = const random(2)
  %a = Conv(%x, %w1, %b1) {pads=[1, 1, 1, 1]}
  %v = ACTIVATION
  %y = Conv(%v, %w2) {group=4}
  return %y
}
"""
BY = np.array([0.5, 2.0, 4.0, 0.125])


def value(graph: Graph, name: str) -> Value:
    return next(v for v in graph.values() if v.name == name)


def moved(graph: Graph, name: str, by: np.ndarray) -> bool:
    """Divides the value by `by` and multiplies its readers' weights, if that can be absorbed."""
    target = value(graph, name)
    readers = target.users
    if not absorb(graph, target, 1 / by, input_axis(readers[0])):
        return False
    for node in readers:
        scale_input(graph, node, by)
    return True


@pytest.mark.parametrize("activation", ["Relu(%a)", "LeakyRelu(%a) {alpha=0.5}", "MaxPool(%a) {kernel_shape=[1, 1]}"])
def test_through_a_homogeneous_activation(activation: str) -> None:
    graph = graph_of(CHAIN.replace("ACTIVATION", activation))
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)["y"]
    size = len(graph)
    assert moved(graph, "v", BY)
    assert len(graph) == size
    np.testing.assert_allclose(run_reference(graph, inputs)["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["HardSwish(%a)", "Sigmoid(%a)", "Clip(%a, %b1low, %b1high)"])
def test_an_activation_that_is_not_homogeneous_blocks(activation: str) -> None:
    bounds = "  %b1low: f32[] = const 0.0\n  %b1high: f32[] = const 6.0\n  %a ="
    graph = graph_of(CHAIN.replace("  %a =", bounds).replace("ACTIVATION", activation))
    assert not moved(graph, "v", BY)


def test_a_maker_that_others_read_too_is_left_alone() -> None:
    source = CHAIN.replace("ACTIVATION", "Relu(%a)").replace("return %y", "return %y, %a")
    assert not moved(graph_of(source), "v", BY)


def test_constant_factor_and_summand() -> None:
    source = """
    graph main(%x: f32[m,4]) {
      %c: f32[] = const 3.0
      %d: f32[] = const -0.5
      %w1: f32[4,4] = const random(1)
      %w2: f32[4,2] = const random(2)
      %h = MatMul(%x, %w1)
      %p = Mul(%h, %c)
      %v = Add(%p, %d)
      %y = MatMul(%v, %w2)
      return %y
    }
    """
    graph = graph_of(source)
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)["y"]
    assert moved(graph, "v", BY)
    np.testing.assert_allclose(run_reference(graph, inputs)["y"], expected, rtol=1e-5, atol=1e-5)


def test_a_norm_read_by_two_products() -> None:
    source = """
    graph main(%x: f32[2,m,4]) {
      %g: f32[4] = const [1.0, 2.0, 0.5, 1.5]
      %b: f32[4] = const [0.0, 0.5, -0.5, 0.25]
      %w1: f32[4,3] = const random(1)
      %w2: f32[4,3] = const random(2)
      %v = LayerNormalization(%x, %g, %b) {axis=-1}
      %p = MatMul(%v, %w1)
      %q = MatMul(%v, %w2)
      %y = Add(%p, %q)
      return %y
    }
    """
    graph = graph_of(source)
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)["y"]
    assert moved(graph, "v", BY)
    np.testing.assert_allclose(run_reference(graph, inputs)["y"], expected, rtol=1e-5, atol=1e-5)


def test_the_range_of_weights_by_input_channel() -> None:
    source = """
    graph main(%x: f32[1,4,2,2]) {
      %w: f32[2,2,1,1] = const [1.0, -2.0, 3.0, 0.5]
      %y = Conv(%x, %w) {group=2}
      return %y
    }
    """
    (node,) = graph_of(source).nodes
    np.testing.assert_array_equal(weight_range(node), [1.0, 2.0, 3.0, 0.5])
