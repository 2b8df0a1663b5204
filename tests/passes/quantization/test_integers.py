"""Products of dequantized operands as products of integers: the same numbers, exactly where the bias is whole."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph
from optc.passes.base import PassContext, run_passes
from optc.passes.layout import ChannelsLast
from optc.passes.quantization.integers import IntegerProducts, layer_of
from optc.passes.rewrite import Rewrite
from optc.passes.simplify.dead_code import DeadCode

CONV = """
graph main(%x: u8[n,6,h,w]) {
  %xs: f32[] = const 0.02
  %xz: u8[] = const 7
  %w: i8[4,6,3,3] = const random(1)
  %ws: f32[4] = const [0.01, 0.02, 0.005, 0.01]
  %wz: i8[4] = const [0, 0, 0, 0]
  %b: f32[4] = const [0.1, -0.2, 0.3, 0.0]
  %xd = DequantizeLinear(%x, %xs, %xz)
  %wd = DequantizeLinear(%w, %ws, %wz) {axis=0}
  %y = Conv(%xd, %wd, %b) {pads=[1, 1, 1, 1], strides=[2, 2]}
  return %y
}
"""


def lowered(source: str) -> tuple[Graph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The graph after the pass, inputs, and what it computed before."""
    graph = graph_of(source)
    inputs = random_inputs(graph, {"n": 2, "h": 9, "w": 7, "m": 5})
    expected = run_reference(graph, inputs)
    run_passes(graph, (ChannelsLast(), Rewrite(("sink-dequantize",)), IntegerProducts(), DeadCode()), PassContext())
    return graph, inputs, expected


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_a_padded_strided_convolution() -> None:
    graph, inputs, expected = lowered(CONV)
    assert "optc.ConvInteger" in ops(graph)
    assert "optc.Conv" not in ops(graph)
    got = run_reference(graph, inputs)["y"]
    # the bias moves by at most half a unit of the sum, and float32 rounds the float form
    np.testing.assert_allclose(got, expected["y"], atol=0.5 * 0.02 * 0.02 + 1e-5)


GEMM = """
graph main(%x: u8[m,5]) {
  %xs: f32[] = const 0.5
  %xz: u8[] = const 128
  %w: i8[3,5] = const random(1)
  %ws: f32[3] = const [0.25, 0.5, 0.125]
  %wz: i8[3] = const [0, 0, 0]
  %bq: i32[3] = const [1000, -7, 0]
  %bs: f32[3] = const [0.125, 0.25, 0.0625]
  %xd = DequantizeLinear(%x, %xs, %xz)
  %wd = DequantizeLinear(%w, %ws, %wz) {axis=0}
  %b = DequantizeLinear(%bq, %bs) {axis=0}
  %y = Gemm(%xd, %wd, %b) {transB=1}
  return %y
}
"""


def test_a_gemm_with_an_integer_bias_is_exact() -> None:
    graph, inputs, expected = lowered(GEMM)
    assert "optc.MatMulInteger" in ops(graph)
    np.testing.assert_array_equal(run_reference(graph, inputs)["y"], expected["y"])


def test_a_matmul_of_higher_rank_scaled_per_tensor() -> None:
    source = """
    graph main(%x: u8[2,m,6]) {
      %xs: f32[] = const 0.5
      %xz: u8[] = const 3
      %w: i8[6,4] = const random(1)
      %ws: f32[] = const 0.25
      %xd = DequantizeLinear(%x, %xs, %xz)
      %wd = DequantizeLinear(%w, %ws)
      %y = MatMul(%xd, %wd)
      return %y
    }
    """
    graph, inputs, expected = lowered(source)
    assert "optc.MatMulInteger" in ops(graph)
    np.testing.assert_array_equal(run_reference(graph, inputs)["y"], expected["y"])


def test_a_bias_beyond_int32_is_clipped_not_wrapped() -> None:
    graph = graph_of(GEMM.replace("%b = Deq", "%unused = Deq").replace("%wd, %b)", "%wd, %big)").replace(
        "  %xd =", "  %big: f32[3] = const [1e12, -1e12, 0.0]\n  %xd ="
    ))  # fmt: skip
    node = next(n for n in graph.nodes if n.op == "Gemm")
    layer = layer_of(node)
    assert layer is not None
    own = layer.integer_bias().astype(np.int64) + 128 * layer.sums
    assert own[0] % 2**32 == 2**31 - 1
    assert own[1] % 2**32 == 2**31


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("%wz: i8[3] = const [0, 0, 0]", "%wz: i8[3] = const [0, 1, 0]"), "weights with a zero point"),
        (("{transB=1}", "{transB=1, alpha=2.0}"), "a factor"),
        (("{transB=1}", "{transA=0, transB=1, beta=0.5}"), "a factor of the bias"),
        (("DequantizeLinear(%w, %ws, %wz) {axis=0}", "DequantizeLinear(%w, %ws5, %wz5) {axis=1}"), "scales along k"),
    ],
)
def test_near_misses_stay_float(change: tuple[str, str], why: str) -> None:
    constants = "  %ws5: f32[5] = const [1.0, 1.0, 1.0, 1.0, 1.0]\n  %wz5: i8[5] = const [0, 0, 0, 0, 0]\n  %xd ="
    source = GEMM.replace("  %xd =", constants).replace(*change)
    graph, _, _ = lowered(source)
    assert "Gemm" in ops(graph), why


def test_the_backend_may_decline() -> None:
    graph = graph_of(GEMM)
    assert not IntegerProducts(pays=lambda layer: layer.channels > 3).run(graph, PassContext())


def test_a_transposed_convolution() -> None:
    source = """
    graph main(%x: u8[1,3,4,5]) {
      %xs: f32[] = const 0.02
      %xz: u8[] = const 7
      %w: i8[3,2,4,4] = const random(1)
      %ws: f32[2] = const [0.01, 0.02]
      %xd = DequantizeLinear(%x, %xs, %xz)
      %wd = DequantizeLinear(%w, %ws) {axis=1}
      %y = ConvTranspose(%xd, %wd) {strides=[2, 2], pads=[1, 1, 1, 1]}
      return %y
    }
    """
    graph, inputs, expected = lowered(source)
    assert "optc.ConvInteger" in ops(graph)
    np.testing.assert_allclose(run_reference(graph, inputs)["y"], expected["y"], rtol=1e-5, atol=1e-5)
