"""The rule engine and its patterns."""

from __future__ import annotations

from typing import ClassVar

import pytest
from helpers import assert_same, graph_of
from optc.compiler.errors import OptcError
from optc.compiler.ir import Value
from optc.passes.pattern import Any, Const, Op, Or, Scalar, matches
from optc.passes.rewrite import RULES, Match, Rule, apply_rules, explain

TWICE = """graph main(%x: f32[N,4], %y: f32[N,4]) {
  %a = Relu(%x)
  %b = Add(%a, %y)
  %c = Add(%a, %a)
  return %b, %c
}"""


def last(text: str):
    return list(graph_of(text).nodes)[-1]


def test_a_name_used_twice_means_one_value() -> None:
    same = Op("Add", "a", "a")
    nodes = list(graph_of(TWICE).nodes)
    assert not list(matches(same, nodes[1]))
    assert list(matches(same, nodes[2]))


def test_commutative_operands_match_in_both_orders() -> None:
    node = last("graph main(%x: f32[N]) { %c: f32[] = const 2 %y = Mul(%c, %x) return %y }")
    assert not list(matches(Op("Mul", "x", Scalar(2.0)), node))
    (state,) = matches(Op("Mul", "x", Scalar(2.0), commutative=True), node)
    assert state.captures["x"] is node.inputs[1]


def test_an_inner_value_read_elsewhere_does_not_match_unless_shared() -> None:
    nodes = list(graph_of(TWICE).nodes)
    assert not list(matches(Op("Add", Op("Relu", "x"), "y"), nodes[1]))
    assert list(matches(Op("Add", Op("Relu", "x", shared=True), "y"), nodes[1]))


def test_an_inner_value_that_is_an_output_does_not_match() -> None:
    node = last("graph main(%x: f32[N]) { %a = Relu(%x) %b = Neg(%a) return %a, %b }")
    assert not list(matches(Op("Neg", Op("Relu", "x")), node))


def test_scalars_match_nearly_and_only_with_one_element() -> None:
    text = "graph main(%x: f32[2]) {{ %c: {} %y = Mul(%x, %c) return %y }}"
    pattern = Op("Mul", "x", Scalar(0.7071))
    assert list(matches(pattern, last(text.format("f32[] = const 0.70710678"))))
    assert not list(matches(pattern, last(text.format("f32[] = const 0.71"))))
    assert not list(matches(pattern, last(text.format("f32[2] = const [0.7071,0.7071]"))))


def test_attributes_or_and_omitted_operands() -> None:
    node = last("graph main(%x: f32[N]) { %hi: f32[] = const 6 %y = Clip(%x, _, %hi) return %y }")
    assert list(matches(Op("Clip", "x", None, Const("hi")), node))
    assert not list(matches(Op("Clip", "x", Any()), node))
    assert list(matches(Op(("Relu", "Clip"), "x", None, Or((Scalar(0.0), Scalar(6.0)))), node))
    soft = last("graph main(%x: f32[N,4]) { %y = Softmax(%x) {axis=1} return %y }")
    assert list(matches(Op("Softmax", "x", attrs={"axis": 1}), soft))
    assert not list(matches(Op("Softmax", "x", attrs={"axis": lambda a: a == -1}), soft))


class _NegNeg(Rule):
    name: ClassVar[str] = "test-neg-neg"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Neg", Op("Neg", "x", shared=True)),)

    def rewrite(self, m: Match) -> Value:
        return m["x"]


class _Swap(Rule):
    name: ClassVar[str] = "test-swap"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Add", "a", "b"),)

    def rewrite(self, m: Match) -> Value:
        return m.emit("Add", [m["b"], m["a"]])


def test_rules_run_to_a_fixpoint_in_subgraphs_too() -> None:
    graph = graph_of("""graph main(%x: f32[N], %c: bool[]) {
      %y = If(%c) {then_branch=graph t() {
        %a = Neg(%x) %b = Neg(%a) %d = Neg(%b) %e = Neg(%d) return %e
      }, else_branch=graph e() { %f = Neg(%x) return %f }}
      return %y
    }""")
    assert apply_rules(graph, [_NegNeg()])
    assert_same(
        graph,
        """graph main(%x: f32[N], %c: bool[]) {
      %y = If(%c) {then_branch=graph t() { return %x }, else_branch=graph e() { %f = Neg(%x) return %f }}
      return %y
    }""",
    )


def test_rules_without_end_are_an_error() -> None:
    with pytest.raises(OptcError, match="without end"):
        apply_rules(graph_of("graph main(%x: f32[N], %y: f32[N]) { %z = Add(%x, %y) return %z }"), [_Swap()])


def test_a_new_node_knows_where_it_came_from() -> None:
    graph = graph_of("""graph main(%x: f32[N,4]) {
      %a = Sigmoid(%x) %y = Mul(%x, %a) return %y
    }""")
    apply_rules(graph, [RULES["swish"]])
    (node,) = graph.nodes
    assert node.loc.rules == ("swish",)


def test_explain_names_the_nearest_miss() -> None:
    miss = explain(
        RULES["gelu-erf"],
        graph_of("""graph main(%x: f32[N]) {
      %r: f32[] = const 1.5  %one: f32[] = const 1  %h: f32[] = const 0.5
      %d = Div(%x, %r) %e = Erf(%d) %p = Add(%e, %one) %m = Mul(%x, %p) %y = Mul(%m, %h) return %y
    }"""),
    )
    assert not miss.applies
    assert miss.matched >= 4
    assert "1.41421" in miss.reason
    assert "no Mul or" not in str(miss)
    nothing = explain(RULES["softmax"], graph_of("graph main(%x: f32[N]) { %y = Neg(%x) return %y }"))
    assert "the graph has no Div" in str(nothing)


def test_explain_says_where_a_rule_applies() -> None:
    graph = graph_of("graph main(%x: f32[N]) { %a = Sigmoid(%x) %y = Mul(%a, %x) return %y }")
    assert str(explain(RULES["swish"], graph)) == "swish applies at y"
