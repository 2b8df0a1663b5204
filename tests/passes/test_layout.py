"""Channels last: what becomes of spatial ops, and where Transposes go."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same, graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph
from optc.passes.base import PassContext
from optc.passes.layout import ChannelsLast


def channels_last(text: str) -> Graph:
    graph = graph_of(text)
    ChannelsLast().run(graph, PassContext())
    return graph


def count(graph: Graph, op: str) -> int:
    return sum(n.op == op for n in graph.nodes)


def test_conv_works_between_two_transposes() -> None:
    graph = channels_last("""
graph main(%x: f32[N,3,8,8]) {
  %w: f32[4,3,3,3] = const random(1)
  %y = Conv(%x, %w) {pads=[1,1,1,1]}
  return %y
}
""")
    assert_same(
        graph,
        """
graph main(%x: f32[N,3,8,8]) {
  %w: f32[4,3,3,3] = const random(1)
  %a = Transpose(%x) {perm=[0,2,3,1]}
  %b = optc.Conv(%a, %w) {pads=[1,1,1,1]}
  %y = Transpose(%b) {perm=[0,3,1,2]}
  return %y
}
""",
    )


def test_transposes_between_convs_cancel_through_pointwise_and_residual() -> None:
    graph = channels_last("""
graph main(%x: f32[N,4,8,8]) {
  %w: f32[4,4,3,3] = const random(1)
  %s: f32[1,4,1,1] = const random(2)
  %a = Conv(%x, %w) {pads=[1,1,1,1]}
  %b = Relu(%a)
  %c = Mul(%b, %s)
  %d = Conv(%c, %w) {pads=[1,1,1,1]}
  %e = Add(%d, %b)
  return %e
}
""")
    assert count(graph, "Transpose") == 2


@pytest.mark.parametrize(
    "middle",
    [
        "%m = Concat(%a, %a) {axis=1}",
        "%m = Softmax(%a) {axis=1}",
        "%p: i64[8] = const [0,0,1,1,0,0,1,1]\n  %m = Pad(%a, %p)",
        "%o: i64[1] = const [1]\n  %t: i64[1] = const [3]\n  %x2: i64[1] = const [2]\n  %m = Slice(%a, %o, %t, %x2)",
        '%k: f32[4] = const [1.0,1.0,2.0,2.0]\n  %m = Resize(%a, _, %k) {mode="nearest"}',
        "%m = MaxPool(%a) {kernel_shape=[2,2], strides=[2,2]}",
        "%m = GlobalAveragePool(%a)",
        "%q: i64[2] = const [2,3]\n  %m = ReduceMax(%a, %q) {keepdims=0}",
    ],
    ids=["concat", "softmax", "pad", "slice", "resize", "pool", "global-pool", "reduce"],
)
def test_what_a_transpose_passes_keeps_the_result(middle: str) -> None:
    text = f"""
graph main(%x: f32[N,3,6,6]) {{
  %w: f32[4,3,3,3] = const random(1)
  %a = Conv(%x, %w) {{pads=[1,1,1,1]}}
  {middle}
  %y = Relu(%m)
  return %y
}}
"""
    graph = channels_last(text)
    before, after = (run_reference(g, random_inputs(g)) for g in (graph_of(text), graph))
    for name, expected in before.items():
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-5)
    last = [n for n in graph.nodes if n.op == "Relu"][-1]
    assert all(u.op == "Transpose" for u in last.output.users) or last.output.is_output


def test_a_residual_of_another_layout_is_left_alone_where_it_would_not_pay() -> None:
    graph = channels_last("""
graph main(%x: f32[2,3,4,5], %y: f32[2,4,5,3], %z: f32[2,4,5,3]) {
  %t = Transpose(%x) {perm=[0,2,3,1]}
  %s = Sum(%t, %y, %z)
  return %s
}
""")
    assert [n.op for n in graph.nodes] == ["Transpose", "Sum"]


def test_a_flatten_before_a_gemm_takes_the_order_into_the_weights() -> None:
    text = """
graph main(%x: f32[N,3,4,4]) {
  %w: f32[6,3,1,1] = const random(1)
  %v: f32[96,5] = const random(2)
  %a = Conv(%x, %w)
  %f = Flatten(%a)
  %y = Gemm(%f, %v)
  return %y
}
"""
    graph = channels_last(text)
    assert count(graph, "Transpose") == 1
    before, after = (run_reference(g, random_inputs(g)) for g in (graph_of(text), graph))
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "attrs"),
    [
        (2, "strides=[2,2]"),
        (4, "strides=[2,2], pads=[1,1,1,1]"),
        (3, "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]"),
        (3, "strides=[1,1], pads=[0,1,2,1]"),
        (5, "strides=[3,3], pads=[4,0,1,2]"),
        (2, "strides=[3,3]"),
    ],
)
def test_a_transposed_convolution_becomes_a_convolution_spread_over_space(kernel: int, attrs: str) -> None:
    text = f"""
graph main(%x: f32[N,3,H,W]) {{
  %w: f32[3,5,{kernel},{kernel}] = const random(1)
  %b: f32[5] = const random(2)
  %y = ConvTranspose(%x, %w, %b) {{{attrs}}}
  return %y
}}
"""
    graph = channels_last(text)
    assert count(graph, "ConvTranspose") == 0
    inputs = random_inputs(graph, {"H": 4, "W": 5})
    before, after = (run_reference(g, inputs) for g in (graph_of(text), graph))
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-5, atol=1e-5)


def test_a_grouped_transposed_convolution_stays() -> None:
    graph = channels_last("""
graph main(%x: f32[N,4,4,4]) {
  %w: f32[4,1,3,3] = const random(1)
  %y = ConvTranspose(%x, %w) {group=4, strides=[2,2]}
  return %y
}
""")
    assert count(graph, "Conv") + count(graph, "optc.Conv") == 0


def test_max_pool_with_indices_stays() -> None:
    graph = channels_last("""
graph main(%x: f32[2,3,4,4]) {
  %y, %i = MaxPool(%x) {kernel_shape=[2,2]}
  return %y, %i
}
""")
    assert [n.op for n in graph.nodes] == ["MaxPool"]
