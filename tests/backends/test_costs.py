"""What steps must do at least: multiply-adds, bytes, and what they are made of."""

from __future__ import annotations

import optc
from helpers import graph_of
from onnx import parser
from optc.backends.costs import cost
from optc.backends.cpu import PIPELINE, lower
from optc.backends.steps import Kernel
from optc.backends.target import Target
from optc.compiler.ir import Graph
from optc.passes.base import PassContext, run_passes


def kernels(text: str) -> list[Kernel]:
    graph: Graph = graph_of(text)
    run_passes(graph, PIPELINE, PassContext())
    return [step for step in lower(graph, Target.host()).steps if isinstance(step, Kernel)]


def test_a_convolution_with_what_follows_it() -> None:
    (step,) = kernels("""graph g(%x: f32[1,8,8,16]) {
      %w: f32[32,16,1,1] = const random(1)
      %y = optc.Conv(%x, %w)  %r = Relu(%y)
      return %r }""")
    found = cost(step)
    assert (found.kind, found.op, found.macs) == ("f32", "Conv", 64 * 32 * 16)
    assert found.nbytes == 4 * (64 * 16 + 32 * 16 + 64 * 32)


def test_a_convolution_of_each_channel_has_a_name_of_its_own() -> None:
    (step,) = kernels("""graph g(%x: f32[1,8,8,16]) {
      %w: f32[16,1,3,3] = const random(1)
      %y = optc.Conv(%x, %w) {group=16, pads=[1, 1, 1, 1]}
      return %y }""")
    assert (cost(step).op, cost(step).macs) == ("Depthwise", 64 * 16 * 9)


def test_products_of_bytes_are_told_from_those_of_floats() -> None:
    (step,) = kernels("""graph g(%x: u8[4,64]) {
      %w: i8[64,32] = const random(1)  %s: f32[32] = const 0.01
      %p = optc.MatMulInteger(%x, %w)  %y = DequantizeLinear(%p, %s) {axis=1}
      return %y }""")
    found = cost(step)
    assert (found.kind, found.op, found.macs) == ("int8", "MatMul", 4 * 64 * 32)
    assert 4 * 64 + 64 * 32 + 4 * 4 * 32 <= found.nbytes < 2 * (4 * 64 + 64 * 32 + 4 * 4 * 32)


def test_a_table_that_is_looked_up_counts_as_what_is_taken() -> None:
    (step,) = kernels("""graph g(%i: i64[4]) {
      %t: f32[1000,8] = const random(1)
      %y = Gather(%t, %i)
      return %y }""")
    assert (cost(step).kind, cost(step).macs, cost(step).nbytes) == ("", 0, 8 * 4 + 2 * 4 * 8 * 4)


def test_attention_multiplies_twice() -> None:
    (step,) = kernels("""graph g(%q: f32[1,2,8,16], %k: f32[1,2,8,16], %v: f32[1,2,8,16]) {
      %y = optc.Attention(%q, %k, %v) {scale=0.25}
      return %y }""")
    assert (cost(step).op, cost(step).macs) == ("Attention", 2 * 8 * 8 * (16 + 16))


def test_steps_in_a_loop_have_no_cost() -> None:
    model = parser.parse_model("""
      <ir_version: 9, opset_import: ["" : 17]>
      g (int64 n, float[4] x) => (float[4] y) {
        y = Loop(n, , x) <body = b (int64 i, bool c, float[4] s) => (bool k, float[4] t) { k = Identity(c) t = Exp(s) }>
      }
    """)
    found = optc.compile(model, threads=1).manifest
    assert found["steps"]
    assert found["costs"] == [None] * len(found["steps"])


def test_the_manifest_tells_the_cost_of_each_step_with_symbolic_dims_as_text() -> None:
    weights = ", ".join(map(str, range(128)))
    model = parser.parse_model(f"""
      <ir_version: 9, opset_import: ["" : 17]>
      g (float[N, 16] x) => (float[N, 8] y) <float[16, 8] w = {{{weights}}}> {{ y = MatMul(x, w) }}
    """)
    found = optc.compile(model, threads=1).manifest
    assert len(found["steps"]) == len(found["costs"])
    (cost_,) = [c for c in found["costs"] if c[0]]
    assert cost_[:3] == ["f32", "MatMul", "128*N"]
