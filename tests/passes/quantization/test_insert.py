"""A quantization as standard QDQ form: what the integers are, and the traps on the way."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph, Node
from optc.compiler.verify import verify
from optc.passes.quantization.insert import Affine, Choice, applied, insert, nearest, rounded_weights
from optc.passes.quantization.placement import place

GRID = Affine(float(np.float32(4 / 255)), 128)
GEMM = """
graph main(%x: f32[m,3]) {
  %w: f32[3,4] = const [1.0, 0.0, 0.5, 1e-9, -1.0, 0.0, 0.25, 1e-9, 0.5, 0.0, -0.5, -1e-9]
  %b: f32[4] = const [0.5, 0.25, 0.0, BIAS]
  %y = Gemm(%x, %w, %b)
  return %y
}
"""


def quantized(source: str) -> Graph:
    graph = graph_of(source)
    placement = place(graph)
    insert(graph, placement, Choice(dict.fromkeys(placement.values, GRID)))
    verify(graph)
    return graph


def layer(graph: Graph, op: str = "Gemm") -> Node:
    return next(n for n in graph.nodes if n.op == op)


def test_the_form() -> None:
    graph = quantized(GEMM.replace("BIAS", "0.0"))
    assert [n.op for n in graph.nodes].count("QuantizeLinear") == 1
    gemm = layer(graph)
    kinds = []
    for slot in range(3):
        producer = gemm.operand(slot).producer
        assert producer is not None
        assert producer.op == "DequantizeLinear"
        kinds.append(producer.operand(0).type.dtype.text)
    assert kinds == ["u8", "i8", "i32"]


def test_a_channel_of_zeros_has_a_scale() -> None:
    weights = nearest(np.array([[0.0, 0.0], [1.0, -0.5]], np.float32), 0)
    np.testing.assert_array_equal(weights.data, [[0, 0], [127, -64]])
    assert (weights.scale > 0).all()
    assert np.isfinite(
        run_reference(quantized(GEMM.replace("BIAS", "0.0")), {"x": np.ones((2, 3), np.float32)})["y"]
    ).all()


def test_a_bias_that_would_saturate_int32_widens_the_scale() -> None:
    graph = graph_of(GEMM.replace("BIAS", "100.0"))
    weights = rounded_weights(layer(graph), GRID.scale)
    assert 100.0 / (weights.scale[3] * GRID.scale) <= 2**30 * (1 + 1e-6)
    x = np.full((1, 3), 1.0, np.float32)
    np.testing.assert_allclose(
        run_reference(quantized(GEMM.replace("BIAS", "100.0")), {"x": x})["y"][0, 3], 100, rtol=1e-5
    )


def test_weights_that_two_layers_share() -> None:
    source = """
    graph main(%x: f32[2,4]) {
      %w: f32[4,4] = const random(1)
      %big: f32[4] = const [1e9, 0.0, 0.0, 0.0]
      %y = Gemm(%x, %w)
      %z = Gemm(%x, %w, %big)
      return %y, %z
    }
    """
    graph = graph_of(source)
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)
    got = run_reference(quantized(source), inputs)
    np.testing.assert_allclose(got["y"], expected["y"], atol=0.2)
    np.testing.assert_allclose(got["z"], expected["z"], atol=0.2, rtol=1e-6)


def test_a_copy_leaves_the_float_graph_alone() -> None:
    graph = graph_of(GEMM.replace("BIAS", "0.0"))
    placement = place(graph)
    copy = applied(graph, placement, Choice(dict.fromkeys(placement.values, GRID)))
    verify(copy)
    assert [n.op for n in graph.nodes] == ["Gemm"]
    inputs = random_inputs(graph)
    same = quantized(GEMM.replace("BIAS", "0.0"))
    np.testing.assert_array_equal(run_reference(copy, inputs)["y"], run_reference(same, inputs)["y"])


@pytest.mark.parametrize(("op", "axis"), [("Gemm(%x, %w) {transB=1}", 0), ("Gemm(%x, %w)", 1), ("MatMul(%x, %w)", 1)])
def test_scales_lie_along_the_output_channels(op: str, axis: int) -> None:
    shape = "5,3" if axis == 0 else "3,5"
    source = f"graph main(%x: f32[m,3]) {{\n  %w: f32[{shape}] = const random(1)\n  %y = {op}\n  return %y\n}}"
    graph = quantized(source)
    producer = layer(graph, op[: op.index("(")]).operand(1).producer
    assert producer is not None
    assert producer.attrs["axis"] == axis
    assert producer.operand(1).type.dims == (5,)
