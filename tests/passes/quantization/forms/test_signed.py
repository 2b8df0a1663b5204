"""Signed activations become unsigned: graph inputs and outputs keep their type, the bytes between are 128 higher."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from helpers import graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph
from optc.passes.base import run_passes
from optc.passes.quantization.forms.normalize import NormalizeQuantized

NORMALIZE = [NormalizeQuantized()]
Rewrites = Callable[..., Graph]


def test_a_quantizer_and_its_reader(assert_rewrites: Rewrites) -> None:
    """Bytes that are moved in between, and what pads them, are 128 higher too."""
    assert_rewrites(
        NORMALIZE,
        """
graph main(%x: f32[N,4,4,4]) {
  %s: f32[] = const 0.5
  %z: i8[] = const -3
  %pads: i64[8] = const [0,0,1,1,0,0,1,1]
  %q = QuantizeLinear(%x, %s, %z)
  %p = Pad(%q, %pads)
  %m = MaxPool(%p) {kernel_shape=[2,2]}
  %c = Concat(%q, %q) {axis=1}
  %y = DequantizeLinear(%m, %s, %z)
  %t = DequantizeLinear(%c, %s, %z)
  return %y, %t
}
""",
        """
graph main(%x: f32[N,4,4,4]) {
  %s: f32[] = const 0.5
  %z: u8[] = const 125
  %zero: u8[] = const 128
  %pads: i64[8] = const [0,0,1,1,0,0,1,1]
  %q = QuantizeLinear(%x, %s, %z)
  %p = Pad(%q, %pads, %zero)
  %m = MaxPool(%p) {kernel_shape=[2,2]}
  %c = Concat(%q, %q) {axis=1}
  %y = DequantizeLinear(%m, %s, %z)
  %t = DequantizeLinear(%c, %s, %z)
  return %y, %t
}
""",
        {"N": 2},
    )


def test_inputs_and_outputs_keep_their_type(assert_rewrites: Rewrites) -> None:
    """An input is moved before its reader, an output back from the bytes that are computed anyway."""
    assert_rewrites(
        NORMALIZE,
        """
graph main(%x: i8[N,4]) {
  %s: f32[] = const 0.5
  %z: i8[] = const 5
  %d = DequantizeLinear(%x, %s, %z)
  %r = Relu(%d)
  %q = QuantizeLinear(%r, %s, %z)
  %y = DequantizeLinear(%q, %s, %z)
  return %q, %y
}
""",
        """
graph main(%x: i8[N,4]) {
  %s: f32[] = const 0.5
  %z: u8[] = const 133
  %half: u8[] = const 128
  %cx = Cast(%x) {to=u8}
  %ux = BitwiseXor(%cx, %half)
  %d = DequantizeLinear(%ux, %s, %z)
  %r = Relu(%d)
  %uq = QuantizeLinear(%r, %s, %z)
  %cq = BitwiseXor(%uq, %half)
  %q = Cast(%cq) {to=i8}
  %y = DequantizeLinear(%uq, %s, %z)
  return %q, %y
}
""",
    )


def test_an_output_nobody_dequantizes_stays(assert_rewrites: Rewrites) -> None:
    text = """
graph main(%x: f32[N,4]) {
  %s: f32[] = const 0.5
  %z: i8[] = const 5
  %q = QuantizeLinear(%x, %s, %z)
  return %q
}
"""
    assert_rewrites(NORMALIZE, text, text)


def test_every_signed_byte_comes_through() -> None:
    """Through an op that is no move (Clip), a Split and a scale per channel."""
    graph = graph_of("""
graph main(%x: i8[256,4]) {
  %low: i8[] = const -128
  %high: i8[] = const 100
  %s: f32[] = const 0.5
  %t: f32[2] = const [0.5,2.0]
  %z: i8[] = const 5
  %w: i8[2] = const [-128,127]
  %c = Clip(%x, %low, %high)
  %a, %b = Split(%c) {axis=1, num_outputs=2}
  %da = DequantizeLinear(%a, %s, %z)
  %db = DequantizeLinear(%b, %t, %w) {axis=1}
  return %da, %db
}
""")
    inputs = {"x": np.repeat(np.arange(-128, 128).astype(np.int8)[:, None], 4, 1)}
    expected = run_reference(graph, inputs)
    run_passes(graph, NORMALIZE)
    readers = [n for n in graph.nodes if n.op == "DequantizeLinear"]
    assert all(n.operand(0).type.dtype.text == "u8" for n in readers)
    found = run_reference(graph, inputs)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_in_a_branch() -> None:
    """A byte computed outside is read inside."""
    graph = graph_of("""
graph main(%c: bool[], %x: f32[N,4]) {
  %s: f32[] = const 0.5
  %z: i8[] = const 5
  %q = QuantizeLinear(%x, %s, %z)
  %y = If(%c) {then_branch=graph then() {
    %t = DequantizeLinear(%q, %s, %z)
    return %t
  }, else_branch=graph else() {
    %e = Neg(%x)
    return %e
  }}
  return %y
}
""")
    inputs = random_inputs(graph)
    for taken in (True, False):
        inputs["c"] = np.array(taken)
        expected = run_reference(graph, inputs)["y"]
        run_passes(graph, NORMALIZE)
        np.testing.assert_array_equal(run_reference(graph, inputs)["y"], expected)
    assert [n.op for n in graph.nodes] == ["QuantizeLinear", "If"]
    (quantize, _) = graph.nodes
    assert quantize.output.type.dtype.text == "u8"
