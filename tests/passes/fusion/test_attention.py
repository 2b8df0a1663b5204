"""Attention from pieces, and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers import assert_same, graph_of, random_inputs, run_reference
from optc.passes import base
from optc.passes.fusion.expand import ExpandFused
from optc.passes.fusion.siblings import MergeSiblings
from optc.passes.rewrite import Rewrite

RULES = "no-op transpose-of-transpose attention attention-scale attention-layout attention-output-layout grouped-query"
QKV = "%q: f32[B,S,3,4], %k: f32[B,T,3,4], %v: f32[B,T,3,4]"
HEADS = """%c: f32[] = const 0.5 %low: f32[] = const -1e9
  %qt = Transpose(%q) {perm=[0,2,1,3]} %kt = Transpose(%k) {perm=[0,2,3,1]} %vt = Transpose(%v) {perm=[0,2,1,3]}"""
JOIN = "%p = Softmax(%m) {axis=-1} %o = MatMul(%p, %vt) %y = Transpose(%o) {perm=[0,2,1,3]} return %y"
LAYOUTS = 'k_layout="BSHD", q_layout="BSHD", v_layout="BSHD", y_layout="BSHD"'
DIMS = {"B": 2, "S": 3, "T": 5}


@pytest.mark.parametrize(
    ("mask", "scores", "operand", "attrs"),
    [
        ("", "%a = MatMul(%qt, %kt) %m = Mul(%a, %c)", "", ""),
        ("", "%s = Mul(%qt, %c) %m = MatMul(%s, %kt)", "", ""),
        (", %w: f32[B,1,S,T]", "%a = MatMul(%qt, %kt) %b = Mul(%c, %a) %m = Add(%b, %w)", ", %w", ""),
        (", %w: f32[1,1,1,T]", "%a = MatMul(%qt, %kt) %b = Mul(%c, %a) %m = Add(%w, %b)", ", %w", ""),
        (
            ", %w: bool[1,1,S,T]",
            "%a = MatMul(%qt, %kt) %b = Mul(%a, %c) %m = Where(%w, %b, %low)",
            ", %w",
            ", mask_value=-1000000000.0",
        ),
    ],
    ids=["scaled scores", "scaled query", "additive mask", "mask of keys", "boolean mask"],
)
def test_attention(assert_rewrites: Callable[..., object], mask: str, scores: str, operand: str, attrs: str) -> None:
    before = f"graph main({QKV}{mask}) {{ {HEADS} {scores} {JOIN} }}"
    after = f"""graph main({QKV}{mask}) {{
      %y = optc.Attention(%q, %k, %v{operand}) {{scale=0.5, {LAYOUTS}{attrs}}} return %y }}"""
    assert_rewrites(RULES, before, after, DIMS)


def test_attention_of_three_dims(assert_rewrites: Callable[..., object]) -> None:
    before = """graph main(%q: f32[H,S,4], %k: f32[H,T,4], %v: f32[H,T,4]) { %t = Transpose(%k) {perm=[0,2,1]}
      %a = MatMul(%q, %t) %p = Softmax(%a) %y = MatMul(%p, %v) return %y }"""
    graph = assert_rewrites(
        (Rewrite(("attention",)),),
        before,
        """graph main(%q: f32[H,S,4], %k: f32[H,T,4], %v: f32[H,T,4]) { %u = const [1] %t = Transpose(%k) {perm=[0,2,1]}
          %a = Unsqueeze(%q, %u) %b = Unsqueeze(%t, %u) %c = Unsqueeze(%v, %u) %d = Transpose(%b) {perm=[0,1,3,2]}
          %e = optc.Attention(%a, %d, %c) {scale=1.0} %y = Squeeze(%e, %u) return %y }""",
    )
    assert graph is not None


def test_a_softmax_over_queries_is_no_attention(assert_keeps: Callable[..., None]) -> None:
    text = f"graph main({QKV}) {{ {HEADS} %m = MatMul(%qt, %kt) {JOIN.replace('axis=-1', 'axis=2')} }}"
    assert_keeps("attention", text, "not over the keys")


def test_scores_that_are_returned_are_no_attention(assert_keeps: Callable[..., None]) -> None:
    text = f"graph main({QKV}) {{ {HEADS} %m = MatMul(%qt, %kt) {JOIN}, %p }}"
    assert_keeps("attention", text, "is an output of the graph")


def test_a_transpose_of_other_dims_stays(assert_keeps: Callable[..., None]) -> None:
    assert_keeps(
        "attention-layout",
        """graph main(%q: f32[2,3,S,4], %k: f32[3,2,S,4], %v: f32[2,3,S,4]) {
      %t = Transpose(%k) {perm=[1,0,2,3]} %y = optc.Attention(%q, %t, %v) {scale=1.0} return %y }""",
        "more than swap",
    )


REPEATED = """graph main(%q: f32[B,6,S,4], %k: f32[B,2,T,4], %v: f32[B,2,T,4]) {{
  %u = const [2] %e = const [1,1,3,1,1] %r = const [0,6,-1,4]
  %k5 = Unsqueeze(%k, %u) %kx = Expand(%k5, %e) %kr = Reshape(%kx, %r)
  %v5 = Unsqueeze(%v, %u) %vx = Expand(%v5, %e) %vr = Reshape(%vx, %r)
  %y = optc.Attention(%q, {k}, {v}) {{scale=0.5}} return %y }}"""


def test_grouped_queries(assert_rewrites: Callable[..., object]) -> None:
    after = """graph main(%q: f32[B,6,S,4], %k: f32[B,2,T,4], %v: f32[B,2,T,4]) {
      %y = optc.Attention(%q, %k, %v) {scale=0.5} return %y }"""
    assert_rewrites("grouped-query", REPEATED.format(k="%kr", v="%vr"), after, DIMS)


def test_keys_repeated_for_other_values_are_no_grouped_queries(assert_keeps: Callable[..., None]) -> None:
    assert_keeps(
        "grouped-query",
        """graph main(%q: f32[B,6,S,4], %k: f32[B,6,T,4], %v: f32[B,6,T,4]) {
      %y = optc.Attention(%q, %k, %v) {scale=0.5} return %y }""",
        "no output of Reshape",
    )


@pytest.mark.parametrize("causal", [0, 1])
def test_expanding_a_fused_node_gives_onnx_of_the_same_meaning(causal: int) -> None:
    text = f"""graph main({QKV}, %w: f32[S,T]) {{
      %y = optc.Attention(%q, %k, %v, %w) {{scale=0.5, causal={causal}, {LAYOUTS}}}
      %z = optc.MatMul(%w, %w) {{transA=1, alpha=2.0}} return %y, %z }}"""
    graph = graph_of(text)
    inputs = random_inputs(graph, DIMS)
    expected = run_reference(graph, inputs)
    assert base.run_passes(graph, [ExpandFused()])
    assert not any(n.op.startswith("optc.") for n in graph.nodes)
    found = run_reference(graph, inputs)
    assert all((found[k] == expected[k]).all() for k in expected)
    kept = graph_of(text)
    base.run_passes(kept, [ExpandFused(keep=("optc.Attention",))])
    assert [n.op for n in kept.nodes if n.op.startswith("optc.")] == ["optc.Attention"]


def test_a_kept_product_takes_the_transposes_of_an_expanded_attention() -> None:
    graph = graph_of(f"""graph main({QKV}) {{ %y = optc.Attention(%q, %k, %v) {{scale=0.5, {LAYOUTS}}} return %y }}""")
    base.run_passes(graph, [ExpandFused(keep=("optc.MatMul",))])
    assert_same(
        graph,
        f"""graph main({QKV}) {{
      %a = Transpose(%q) {{perm=[0,2,1,3]}} %b = Transpose(%k) {{perm=[0,2,1,3]}} %c = Transpose(%v) {{perm=[0,2,1,3]}}
      %s = optc.MatMul(%a, %b) {{alpha=0.5, transB=1}} %p = Softmax(%s) {{axis=-1}} %o = MatMul(%p, %c)
      %y = Transpose(%o) {{perm=[0,2,1,3]}} return %y }}""",
    )


SIBLINGS = """graph main(%x: f32[N,S,3]) {{
  %w: f32[3,2] = const random(1) %v: f32[3,4] = const random(2) %b: f32[2] = const [1,2] %c: f32[4] = const [3,4,5,6]
  %a = MatMul(%x, %w) %d = MatMul({other}, %v) %y = Add(%a, %b) %z = Add(%d, %c) return %y, %z }}"""


def test_sibling_products_are_merged() -> None:
    graph = graph_of(SIBLINGS.format(other="%x"))
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)
    assert base.run_passes(graph, [MergeSiblings()])
    assert [n.op for n in graph.nodes] == ["MatMul", "Add", "Split"]
    found = run_reference(graph, inputs)
    assert all(abs(found[k] - expected[k]).max() < 1e-6 for k in expected)


def test_wide_siblings_stay(assert_keeps: Callable[..., None]) -> None:
    assert_keeps([MergeSiblings(max_columns=3)], SIBLINGS.format(other="%x"))


def test_products_of_different_tensors_stay(assert_keeps: Callable[..., None]) -> None:
    text = SIBLINGS.format(other="%n").replace("%a =", "%n = Neg(%x) %a =")
    assert_keeps([MergeSiblings()], text)
    assert_same(graph_of(text), text)
