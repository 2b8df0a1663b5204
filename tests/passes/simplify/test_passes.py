"""Folding, sharing, common subexpressions, dead code and control flow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from helpers import graph_of
from optc.compiler.types import DType
from optc.passes import base
from optc.passes.base import PassContext
from optc.passes.simplify.constants import ShareConstants
from optc.passes.simplify.control import InlineControl
from optc.passes.simplify.cse import CommonSubexpressions
from optc.passes.simplify.dead_code import DeadCode
from optc.passes.simplify.fold import FoldConstants, evaluate

Rewrites = Callable[..., object]
Keeps = Callable[..., None]


def test_a_chain_of_constants_folds(assert_rewrites: Rewrites) -> None:
    before = """graph main(%x: f32[N,2]) {
      %a: f32[2] = const [1,4] %b = Sqrt(%a) %c = Neg(%b) %y = Add(%x, %c) return %y }"""
    assert_rewrites(
        [FoldConstants()], before, "graph main(%x: f32[N,2]) { %c: f32[2] = const [-1,-2] %y = Add(%x, %c) return %y }"
    )


def test_a_shape_known_folds_without_its_tensor(assert_rewrites: Rewrites) -> None:
    before = "graph main(%x: f32[2,3]) { %a = Neg(%x) %y = Shape(%a) return %y }"
    assert_rewrites([FoldConstants()], before, "graph main(%x: f32[2,3]) { %y = const [2,3] return %y }")


def test_a_dynamic_shape_does_not_fold(assert_keeps: Keeps) -> None:
    assert_keeps([FoldConstants()], "graph main(%x: f32[N,3]) { %y = Shape(%x) return %y }")


def test_random_numbers_are_not_folded(assert_keeps: Keeps) -> None:
    assert_keeps([FoldConstants()], "graph main() { %y: f32[2] = RandomNormal() {shape=[2]} return %y }")


def test_folding_is_bounded_in_bytes(assert_keeps: Keeps) -> None:
    text = "graph main() { %v: f32[] = const 1 %s = const [16,16] %y = Expand(%v, %s) return %y }"
    assert_keeps([FoldConstants(max_bytes=1023)], text)
    graph = graph_of(text)
    base.run_passes(graph, [FoldConstants(max_bytes=1024)])
    assert len(graph) == 0


def test_quantized_weights_stay(assert_keeps: Keeps) -> None:
    text = """graph main(%x: f32[N,2]) {
      %w: i8[2,2] = const [[1,2],[3,4]] %s: f32[] = const 0.5 %z: i8[] = const 0
      %d = DequantizeLinear(%w, %s, %z) %y = MatMul(%x, %d) return %y }"""
    assert_keeps([FoldConstants()], text)


def test_folding_reaches_into_subgraphs(assert_rewrites: Rewrites) -> None:
    before = """graph main(%x: f32[N], %c: bool[]) { %k: f32[] = const 2
      %y = If(%c) {then_branch=graph t() { %a = Neg(%k) %r = Add(%x, %a) return %r },
                   else_branch=graph e() { %s = Abs(%x) return %s }} return %y }"""
    after = """graph main(%x: f32[N], %c: bool[]) { %k: f32[] = const -2
      %y = If(%c) {then_branch=graph t() { %r = Add(%x, %k) return %r },
                   else_branch=graph e() { %s = Abs(%x) return %s }} return %y }"""
    assert_rewrites([FoldConstants()], before, after)


def test_large_constants_are_fed_not_copied() -> None:
    graph = graph_of("graph main() { %w: f32[64,32] = const random(1) %y = Transpose(%w) {perm=[1,0]} return %y }")
    (node,) = graph.nodes
    (result,) = evaluate([node], [node.output])
    assert node.inputs[0] is not None
    assert node.inputs[0].data is not None
    assert result is not None
    assert np.array_equal(result, node.inputs[0].data.T)


def test_one_value_nothing_can_run_does_not_stop_the_others() -> None:
    graph = graph_of("""graph main() { %a: f32[2] = const [1,2] %b: f32[3] = const 1
      %y: f32[2] = Neg(%a) %z: f32[2] = Neg(%a) return %y, %z }""")
    bad = list(graph.nodes)[1]
    bad.op = "NoSuchOp"
    bad.outputs[0].type = bad.outputs[0].type.with_dtype(DType.F32)
    good, missing = evaluate(list(graph.nodes), list(graph.outputs))
    assert missing is None
    assert good is not None


def test_equal_constants_become_one() -> None:
    graph = graph_of("""graph main(%x: f32[N,2]) {
      %a: f32[2] = const [1,2] %b: f32[2] = const [1,2] %c: f64[2] = const [1,2]
      %y = Add(%x, %a) %z = Mul(%x, %b) %d = Cast(%c) {to=f32} %w = Sub(%x, %d) return %y, %z, %w }""")
    ctx = PassContext()
    base.run_passes(graph, [ShareConstants()], ctx)
    assert len(graph.constants()) == 2
    assert ctx.applied == {"share-constants": 1}


def test_equal_nodes_become_one(assert_rewrites: Rewrites) -> None:
    before = """graph main(%x: f32[N,2]) {
      %a = Softmax(%x) {axis=1} %b = Softmax(%x) {axis=1} %y = Sub(%a, %b) return %y }"""
    assert_rewrites(
        [CommonSubexpressions()],
        before,
        """graph main(%x: f32[N,2]) {
      %a = Softmax(%x) {axis=1} %y = Sub(%a, %a) return %y }""",
    )


def test_a_subgraph_reuses_what_stands_outside(assert_rewrites: Rewrites) -> None:
    before = """graph main(%x: f32[N], %c: bool[]) { %a = Neg(%x)
      %y = If(%c) {then_branch=graph t() { %b = Neg(%x) %r = Abs(%b) return %r },
                   else_branch=graph e() { %s = Abs(%x) return %s }} return %a, %y }"""
    after = """graph main(%x: f32[N], %c: bool[]) { %a = Neg(%x)
      %y = If(%c) {then_branch=graph t() { %r = Abs(%a) return %r },
                   else_branch=graph e() { %s = Abs(%x) return %s }} return %a, %y }"""
    assert_rewrites([CommonSubexpressions()], before, after)


def test_branches_do_not_share_with_each_other(assert_keeps: Keeps) -> None:
    assert_keeps(
        [CommonSubexpressions()],
        """graph main(%x: f32[N], %c: bool[]) {
      %y = If(%c) {then_branch=graph t() { %a = Neg(%x) return %a }, else_branch=graph e() { %b = Neg(%x) return %b }}
      return %y }""",
    )


def test_random_nodes_and_other_attributes_are_not_equal(assert_keeps: Keeps) -> None:
    assert_keeps(
        [CommonSubexpressions()],
        """graph main(%x: f32[N,2]) {
      %a: f32[2] = RandomNormal() {shape=[2]} %b: f32[2] = RandomNormal() {shape=[2]}
      %c = Softmax(%x) {axis=1} %d = Softmax(%x) {axis=0} return %a, %b, %c, %d }""",
    )


def test_equal_nodes_of_unknown_dims_get_one_symbol() -> None:
    graph = graph_of("""graph main(%x: f32[N]) {
      %a = NonZero(%x) %b = NonZero(%x) %y = Neg(%a) %z = Abs(%b) %w = Add(%y, %z) return %w }""")
    base.run_passes(graph, [CommonSubexpressions()])
    first = graph.outputs[0].type.dims[1]
    assert all(v.type.dims[1] == first for n in graph.nodes for v in n.outputs)


def test_dead_code_goes_and_optional_outputs_with_it(assert_rewrites: Rewrites) -> None:
    before = """graph main(%x: f32[N,3,4]) { %a = Neg(%x) %b = Abs(%a)
      %y, %i = MaxPool(%x) {kernel_shape=[2]} return %y }"""
    assert_rewrites(
        [DeadCode()], before, "graph main(%x: f32[N,3,4]) { %y = MaxPool(%x) {kernel_shape=[2]} return %y }"
    )


def test_unused_outputs_of_branches_go(assert_rewrites: Rewrites) -> None:
    before = """graph main(%x: f32[N], %c: bool[]) {
      %u, %y = If(%c) {then_branch=graph t() { %a = Neg(%x) %b = Abs(%x) return %a, %b },
                       else_branch=graph e() { %d = Exp(%x) return %d, %x }} return %y }"""
    after = """graph main(%x: f32[N], %c: bool[]) {
      %y = If(%c) {then_branch=graph t() { %b = Abs(%x) return %b }, else_branch=graph e() { return %x }} return %y }"""
    assert_rewrites([DeadCode()], before, after)


def test_an_if_of_constant_condition_is_inlined(assert_rewrites: Rewrites) -> None:
    before = """graph main(%x: f32[N]) { %c: bool[] = const false
      %y = If(%c) {then_branch=graph t() { %a = Neg(%x) return %a }, else_branch=graph e() { %b = Abs(%x) return %b }}
      %z = Relu(%y) return %z }"""
    assert_rewrites([InlineControl()], before, "graph main(%x: f32[N]) { %y = Abs(%x) %z = Relu(%y) return %z }")


def test_a_condition_is_known_inside_its_branches(assert_rewrites: Rewrites) -> None:
    before = """graph main(%x: f32[N], %c: bool[]) {
      %y = If(%c) {then_branch=graph t() {
          %i = If(%c) {then_branch=graph tt() { %a = Neg(%x) return %a }, else_branch=graph te() { %b = Abs(%x)
          return %b }}
          return %i
        }, else_branch=graph e() { %d = Exp(%x) return %d }} return %y }"""
    after = """graph main(%x: f32[N], %c: bool[]) {
      %y = If(%c) {then_branch=graph t() { %a = Neg(%x) return %a }, else_branch=graph e() { %d = Exp(%x) return %d }}
      return %y }"""
    assert_rewrites([InlineControl()], before, after)


LOOP = """graph main(%x: f32[3]{extra}) {{ %n: i64[] = const {trips} %t: bool[] = const true
  %y, %z = Loop(%n, {given}, %x) {{body=graph b(%i: i64[], %c: bool[], %s: f32[3]) {{
    %k: bool[] = Identity(%c) %f = Cast(%i) {{to=f32}} %a = Add(%s, %f) %o = Exp(%a) return %k, %a, %o }}}}
  return %y, %z }}"""


def test_a_short_loop_is_unrolled(assert_rewrites: Rewrites) -> None:
    after = """graph main(%x: f32[3]) { %zero: i64[] = const 0 %one: i64[] = const 1 %u = const [0]
      %f = Cast(%zero) {to=f32} %a = Add(%x, %f) %o = Exp(%a) %p = Unsqueeze(%o, %u)
      %g = Cast(%one) {to=f32} %b = Add(%a, %g) %q = Exp(%b) %r = Unsqueeze(%q, %u)
      %z = Concat(%p, %r) {axis=0} return %b as "y", %z }"""
    steps = [InlineControl(), DeadCode()]
    assert_rewrites(steps, LOOP.format(trips=2, given="%t", extra=""), after)


def test_long_loops_and_loops_that_may_end_early_stay(assert_keeps: Keeps) -> None:
    assert_keeps([InlineControl()], LOOP.format(trips=1000, given="%t", extra=""))
    assert_keeps([InlineControl()], LOOP.format(trips=2, given="%go", extra=", %go: bool[]"))
