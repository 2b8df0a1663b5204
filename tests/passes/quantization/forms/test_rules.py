"""What becomes of each quantized form, and what does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph
from optc.passes.base import PassContext, run_passes
from optc.passes.quantization.forms.normalize import NormalizeQuantized

NORMALIZE = [NormalizeQuantized()]
Rewrites = Callable[..., Graph]


def test_qlinear_conv(assert_rewrites: Rewrites) -> None:
    """The bias is in units of both scales."""
    assert_rewrites(
        NORMALIZE,
        """
graph main(%x: u8[N,2,5,5]) {
  %xs: f32[] = const 0.5
  %xz: u8[] = const 8
  %w: i8[3,2,3,3] = const random(1)
  %ws: f32[3] = const [0.25,0.5,0.125]
  %wz: i8[3] = const zeros
  %ys: f32[1] = const [16.0]
  %yz: u8[1] = const [100]
  %b: i32[3] = const [5,-300,7]
  %y = QLinearConv(%x, %xs, %xz, %w, %ws, %wz, %ys, %yz, %b) {pads=[1,1,1,1]}
  return %y
}
""",
        """
graph main(%x: u8[N,2,5,5]) {
  %xs: f32[] = const 0.5
  %xz: u8[] = const 8
  %w: i8[3,2,3,3] = const random(1)
  %ws: f32[3] = const [0.25,0.5,0.125]
  %bs: f32[3] = const [0.125,0.25,0.0625]
  %ys: f32[] = const 16.0
  %yz: u8[] = const 100
  %b: i32[3] = const [5,-300,7]
  %dx = DequantizeLinear(%x, %xs, %xz)
  %dw = DequantizeLinear(%w, %ws) {axis=0}
  %db = DequantizeLinear(%b, %bs) {axis=0}
  %c = Conv(%dx, %dw, %db) {pads=[1,1,1,1]}
  %y = QuantizeLinear(%c, %ys, %yz)
  return %y
}
""",
    )


def test_qlinear_matmul_of_columns(assert_rewrites: Rewrites) -> None:
    assert_rewrites(
        NORMALIZE,
        """
graph main(%a: u8[N,4,3]) {
  %s: f32[] = const 0.5
  %z: u8[] = const 8
  %b: u8[3,2] = const [[0,255],[128,127],[130,7]]
  %bs: f32[2] = const [0.25,0.5]
  %bz: u8[2] = const [128,128]
  %y = QLinearMatMul(%a, %s, %z, %b, %bs, %bz, %s, %z)
  return %y
}
""",
        """
graph main(%a: u8[N,4,3]) {
  %s: f32[] = const 0.5
  %z: u8[] = const 8
  %b: i8[3,2] = const [[-128,127],[0,-1],[2,-121]]
  %bs: f32[2] = const [0.25,0.5]
  %da = DequantizeLinear(%a, %s, %z)
  %db = DequantizeLinear(%b, %bs) {axis=-1}
  %p = MatMul(%da, %db)
  %y = QuantizeLinear(%p, %s, %z)
  return %y
}
""",
    )


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_qlinear_binary(op: str, assert_rewrites: Rewrites) -> None:
    """No result lies half way between two steps, where ONNX Runtime rounds either way."""
    parameters = """
  %s: f32[] = const 0.5
  %u: f32[] = const 0.3
  %t: f32[] = const 0.25
  %z: u8[] = const 3
"""
    assert_rewrites(
        NORMALIZE,
        f"""
graph main(%a: u8[N,4], %b: u8[4]) {{{parameters}
  %y = com.microsoft.QLinear{op}(%a, %s, %z, %b, %t, %z, %u, %z)
  return %y
}}
""",
        f"""
graph main(%a: u8[N,4], %b: u8[4]) {{{parameters}
  %da = DequantizeLinear(%a, %s, %z)
  %db = DequantizeLinear(%b, %t, %z)
  %r = {op}(%da, %db)
  %y = QuantizeLinear(%r, %u, %z)
  return %y
}}
""",
    )


def test_qlinear_where(assert_rewrites: Rewrites) -> None:
    parameters = """
  %s: f32[] = const 0.5
  %t: f32[] = const 0.25
  %z: u8[] = const 3
"""
    assert_rewrites(
        NORMALIZE,
        f"""
graph main(%c: bool[4], %a: u8[N,4], %b: u8[4]) {{{parameters}
  %y = com.microsoft.QLinearWhere(%c, %a, %s, %z, %b, %t, %z, %t, %z)
  return %y
}}
""",
        f"""
graph main(%c: bool[4], %a: u8[N,4], %b: u8[4]) {{{parameters}
  %da = DequantizeLinear(%a, %s, %z)
  %db = DequantizeLinear(%b, %t, %z)
  %r = Where(%c, %da, %db)
  %y = QuantizeLinear(%r, %t, %z)
  return %y
}}
""",
    )


def test_a_softmax_of_opset_12_is_over_all_later_dims(assert_rewrites: Rewrites) -> None:
    parameters = """
  %s: f32[] = const 0.25
  %t: f32[] = const 0.00390625
  %z: u8[] = const 0
"""
    assert_rewrites(
        NORMALIZE,
        f"""
graph main(%x: u8[N,4,5]) {{{parameters}
  %y = com.microsoft.QLinearSoftmax(%x, %s, %z, %t, %z) {{axis=1, opset=12}}
  return %y
}}
""",
        f"""
graph main(%x: u8[N,4,5]) {{{parameters}
  %d = DequantizeLinear(%x, %s, %z)
  %f = Flatten(%d) {{axis=1}}
  %p = Softmax(%f) {{axis=-1}}
  %shape = Shape(%d)
  %r = Reshape(%p, %shape)
  %y = QuantizeLinear(%r, %t, %z)
  return %y
}}
""",
    )


def test_qgemm_without_an_output_scale(assert_rewrites: Rewrites) -> None:
    assert_rewrites(
        NORMALIZE,
        """
graph main(%a: u8[N,3]) {
  %as: f32[] = const 0.5
  %az: u8[] = const 8
  %b: i8[2,3] = const [[1,2,3],[4,5,6]]
  %bs: f32[2] = const [0.25,0.5]
  %bz: i8[2] = const zeros
  %c: i32[2] = const [100,-100]
  %y = com.microsoft.QGemm(%a, %as, %az, %b, %bs, %bz, %c) {transB=1, alpha=2.0}
  return %y
}
""",
        """
graph main(%a: u8[N,3]) {
  %as: f32[] = const 0.5
  %az: u8[] = const 8
  %b: i8[2,3] = const [[1,2,3],[4,5,6]]
  %bs: f32[2] = const [0.25,0.5]
  %c: i32[2] = const [100,-100]
  %cs: f32[2] = const [0.25,0.5]
  %da = DequantizeLinear(%a, %as, %az)
  %db = DequantizeLinear(%b, %bs) {axis=0}
  %dc = DequantizeLinear(%c, %cs) {axis=-1}
  %y = Gemm(%da, %db, %dc) {transB=1, alpha=2.0}
  return %y
}
""",
    )


def test_missing_zero_points_and_scales_of_one_element(assert_rewrites: Rewrites) -> None:
    assert_rewrites(
        NORMALIZE,
        """
graph main(%x: f32[N,4]) {
  %s: f32[1] = const [0.5]
  %q = QuantizeLinear(%x, %s)
  %y = com.microsoft.DequantizeLinear(%q, %s)
  return %q, %y
}
""",
        """
graph main(%x: f32[N,4]) {
  %s: f32[] = const 0.5
  %z: u8[] = const 0
  %q = QuantizeLinear(%x, %s, %z)
  %y = DequantizeLinear(%q, %s, %z)
  return %q, %y
}
""",
    )


def test_weights_behind_a_transpose(assert_rewrites: Rewrites) -> None:
    """The Transpose and the view are done while compiling; the scales' axis goes along."""
    assert_rewrites(
        NORMALIZE,
        """
graph main(%x: f32[N,3]) {
  %w: i8[2,3] = const [[1,2,3],[4,5,6]]
  %s: f32[2] = const [0.5,0.25]
  %z: i8[2] = const zeros
  %d = DequantizeLinear(%w, %s, %z) {axis=0}
  %t = Transpose(%d) {perm=[1,0]}
  %p = MatMul(%x, %t)
  %shape: i64[3] = const [2,1,3]
  %r = Reshape(%d, %shape)
  return %p, %r
}
""",
        """
graph main(%x: f32[N,3]) {
  %w: i8[3,2] = const [[1,4],[2,5],[3,6]]
  %s: f32[2] = const [0.5,0.25]
  %t = DequantizeLinear(%w, %s) {axis=1}
  %p = MatMul(%x, %t)
  %v: i8[2,1,3] = const [[[1,2,3]],[[4,5,6]]]
  %r = DequantizeLinear(%v, %s) {axis=0}
  return %p, %r
}
""",
    )


def test_a_view_that_splits_the_scales_axis_stays(assert_rewrites: Rewrites) -> None:
    text = """
graph main(%x: f32[N,4]) {
  %w: i8[4,3] = const random(1)
  %s: f32[4] = const [0.5,0.25,1.0,2.0]
  %d = DequantizeLinear(%w, %s) {axis=0}
  %shape: i64[3] = const [2,2,3]
  %r = Reshape(%d, %shape)
  return %r
}
"""
    assert_rewrites(NORMALIZE, text, text)


def test_fake_quantized_weights(assert_rewrites: Rewrites) -> None:
    """As PyTorch exports them: float weights behind a Q and a D."""
    assert_rewrites(
        NORMALIZE,
        """
graph main(%x: f32[N,2]) {
  %w: f32[2,2] = const [[0.5,-1.0],[0.25,2.0]]
  %s: f32[2] = const [0.5,0.25]
  %z: i8[2] = const zeros
  %q = QuantizeLinear(%w, %s, %z) {axis=0}
  %d = DequantizeLinear(%q, %s, %z) {axis=0}
  %y = Gemm(%x, %d) {transB=1}
  return %y
}
""",
        """
graph main(%x: f32[N,2]) {
  %w: i8[2,2] = const [[1,-2],[1,8]]
  %s: f32[2] = const [0.5,0.25]
  %d = DequantizeLinear(%w, %s) {axis=0}
  %y = Gemm(%x, %d) {transB=1}
  return %y
}
""",
    )


def test_a_channel_of_zero_scale_is_zero() -> None:
    """A channel whose weights are all 0, as some quantizers write it: its bias counts for nothing either."""
    graph = graph_of("""
graph main(%x: u8[N,2,5,5]) {
  %xs: f32[] = const 0.5
  %z: u8[] = const 8
  %w: i8[2,2,3,3] = const random(1)
  %ws: f32[2] = const [0.25,0.0]
  %wz: i8[2] = const zeros
  %ys: f32[] = const 4.0
  %b: i32[2] = const [5,2147483647]
  %y = QLinearConv(%x, %xs, %z, %w, %ws, %wz, %ys, %z, %b)
  return %y
}
""")
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)["y"]
    run_passes(graph, NORMALIZE)
    found = run_reference(graph, inputs)["y"]
    np.testing.assert_array_equal(found, expected)
    assert np.all(found[:, 1] == 8)


@pytest.mark.parametrize(
    ("text", "node", "reason"),
    [
        (
            """
graph main(%a: u8[4,6], %b: u8[6,2], %s: f32[4,1], %z: u8[4,1]) {
  %t: f32[] = const 0.5
  %u: u8[] = const 8
  %y = QLinearMatMul(%a, %s, %z, %b, %t, %u, %t, %u)
  return %y
}
""",
            "y",
            "a scale has more than one dim",
        ),
        (
            """
graph main(%a: u8[4,6], %b: i8[6,2]) {
  %y = MatMulInteger(%a, %b)
  return %y
}
""",
            "y",
            "%b is not a constant",
        ),
        (
            """
graph main(%a: u8[4,6], %z: i8[2]) {
  %b: i8[6,2] = const random(1)
  %u: u8[] = const 8
  %y = MatMulInteger(%a, %b, %u, %z)
  return %y
}
""",
            "y",
            "the weights' zero point is not constant",
        ),
    ],
)
def test_what_stays_is_noted(text: str, node: str, reason: str) -> None:
    graph, context = graph_of(text), PassContext()
    assert not run_passes(graph, NORMALIZE, context)
    (note,) = context.notes
    assert note.startswith(f"{node} keeps its quantized form")
    assert reason in note


def test_a_float_model_is_left_alone() -> None:
    graph = graph_of("""
graph main(%x: f32[4]) {
  %a: f32[] = const 1.0
  %b: f32[] = const 2.0
  %c = Add(%a, %b)
  %y = Add(%x, %c)
  return %y
}
""")
    assert not run_passes(graph, NORMALIZE)
    assert len(graph) == 2
