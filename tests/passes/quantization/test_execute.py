"""Graphs of ours on ONNX Runtime: any value as a result, parts only, constants swapped, errors by name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import assert_same, graph_of, random_inputs, run_reference
from optc.compiler.errors import CalibrationError, UnsupportedError, UsageError
from optc.compiler.ir import Graph
from optc.passes.quantization.execute import Runner

TWO_LAYERS = """graph g(%x: f32[N, 8], %b: f32[4]) {
  %w: f32[8, 4] = const random(1)
  %h = MatMul(%x, %w)
  %a = Add(%h, %b)
  %r = Relu(%a)
  %s = Sigmoid(%r)
  return %s as "out", %r as "relu"
}"""

BRANCH = """graph g(%x: f32[4], %c: bool[]) {
  %n = Neg(%x)
  %i = If(%c) {then_branch=graph t() { %d = Exp(%n) return %d }, else_branch=graph e() { %k = Abs(%n) return %k }}
  %y = Relu(%i)
  return %y
}"""


def everything(graph: Graph) -> list[str]:
    return [v.name for n in graph.nodes for v in n.outputs]


def test_the_graphs_outputs_by_their_names() -> None:
    graph = graph_of(TWO_LAYERS)
    inputs = random_inputs(graph)
    found = Runner(graph).run(inputs)
    assert list(found) == ["out", "relu"]
    for name, expected in run_reference(graph, inputs).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


def test_any_value_and_inputs_and_constants() -> None:
    graph = graph_of(TWO_LAYERS)
    inputs = random_inputs(graph)
    names = ["a", "x", "w", "h", "s"]
    found = Runner(graph, names).run(inputs)
    assert list(found) == names
    np.testing.assert_allclose(found["h"], inputs["x"] @ found["w"], rtol=1e-5)
    np.testing.assert_allclose(found["a"], found["h"] + inputs["b"], rtol=1e-6)
    assert found["x"] is inputs["x"]


def test_values_around_control_flow() -> None:
    graph = graph_of(BRANCH)
    x = np.array([1, -2, 3, -4], np.float32)
    found = Runner(graph, ["n", "i", "y"]).run({"x": x, "c": np.array(True)})
    np.testing.assert_allclose(found["i"], np.exp(-x), rtol=1e-6)
    with pytest.raises(UsageError, match="no such values") as error:
        Runner(graph, ["n", "d", "k"])
    assert error.value.found == "d, k"


def test_only_what_is_needed_runs_and_is_fed() -> None:
    found = Runner(graph_of(TWO_LAYERS), ["h"]).run({"x": np.ones((2, 8), np.float32)})
    assert found["h"].shape == (2, 4)


def test_the_graph_is_not_changed() -> None:
    graph = graph_of(TWO_LAYERS)
    Runner(graph, everything(graph), free=["w"])
    assert_same(graph, TWO_LAYERS)


def test_free_constants_are_replaced_by_the_run() -> None:
    graph = graph_of(TWO_LAYERS)
    inputs = random_inputs(graph)
    runner = Runner(graph, ["h"], free=["w"])
    np.testing.assert_allclose(runner.run(inputs)["h"], Runner(graph, ["h"]).run(inputs)["h"], rtol=1e-6)
    assert not runner.run(inputs, {"w": np.zeros((8, 4), np.float32)})["h"].any()


def test_large_constants_are_shared_and_outlive_the_graph() -> None:
    graph = graph_of(TWO_LAYERS.replace("f32[8, 4] = const", "f32[8, 400] = const").replace("f32[4]", "f32[400]"))
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)
    runner = Runner(graph)
    del graph
    np.testing.assert_allclose(runner.run(inputs)["out"], expected["out"], rtol=1e-6)


def test_runs_overlap_in_threads() -> None:
    graph = graph_of(TWO_LAYERS)
    runner = Runner(graph, everything(graph))
    samples = [random_inputs(graph, {"N": 3 + i % 5}, seed=i) for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(runner.run, samples))
    for sample, result in zip(samples, results, strict=True):
        np.testing.assert_array_equal(result["s"], runner.run(sample)["s"])


def test_optcs_own_ops_run_as_what_they_stand_for() -> None:
    pool = "optc.MaxPool(%x) {kernel_shape=[2,2], strides=[2,2]}"
    graph = graph_of(f"graph g(%x: f32[1, 4, 4, 3]) {{\n  %p = {pool}\n  %y = Neg(%p)\n  return %y\n}}")
    x = np.arange(48, dtype=np.float32).reshape(1, 4, 4, 3)
    expected = x.reshape(1, 2, 2, 2, 2, 3).max((2, 4))
    np.testing.assert_array_equal(Runner(graph, ["p"]).run({"x": x})["p"], expected)


def test_a_sample_that_does_not_fit_is_a_calibration_error() -> None:
    with pytest.raises(CalibrationError, match="cannot run"):
        Runner(graph_of(TWO_LAYERS)).run({"x": np.ones((2, 7), np.float32), "b": np.ones(4, np.float32)})


def test_what_onnx_runtime_lacks_is_named() -> None:
    graph = graph_of("graph g(%x: f32[2]) {\n  %y: f32[2] = some.Unheard(%x)\n  return %y\n}")
    with pytest.raises(UnsupportedError, match="Unheard"):
        Runner(graph)


def test_float_weights_beside_rounded_activations_stay_as_they_are() -> None:
    graph = graph_of("""
    graph g(%x: f32[1,2,8,8]) {
      %s: f32[] = const 0.05
      %z: u8[] = const 128
      %w: f32[2,1,3,3] = const random(1)
      %q = QuantizeLinear(%x, %s, %z)
      %d = DequantizeLinear(%q, %s, %z)
      %c = Conv(%d, %w) {group=2}
      %p = QuantizeLinear(%c, %s, %z)
      %y = DequantizeLinear(%p, %s, %z)
      return %y
    }
    """)
    (conv,) = (n for n in graph.nodes if n.op == "Conv")
    weights = np.random.default_rng(1).standard_normal((2, 1, 3, 3)).astype(np.float32)
    weights[0] *= 1000  # 8 bits for both channels would leave nothing of the other
    graph.set_input(conv, 1, graph.constant(weights, "spread"))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 2, 8, 8)).astype(np.float32)
    rounded = np.rint(x / np.float32(0.05)) * np.float32(0.05)
    views = np.lib.stride_tricks.sliding_window_view(rounded, (3, 3), (2, 3))
    exact = np.einsum("ncyxij,cij->ncyx", views, weights[:, 0])[:, 1]
    found = Runner(graph, ["y"]).run({"x": x})["y"][:, 1]
    np.testing.assert_allclose(found, np.clip(exact, -6.4, 6.35), atol=0.026)
