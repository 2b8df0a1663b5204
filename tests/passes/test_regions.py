"""How a graph is cut into regions."""

from __future__ import annotations

from helpers import graph_of
from optc.compiler.ir import Node
from optc.compiler.ops.base import op_of
from optc.passes.regions import partition


def cut(text: str) -> list[str]:
    """The regions as their ops, anchors marked with a star."""

    def takes_epilogue(node: Node) -> bool:
        return node.op == "MatMul"

    regions = partition(graph_of(text), lambda n: op_of(n).pointwise, takes_epilogue)
    return ["+".join(n.op + "*" * (n is r.anchor) for n in r.nodes) for r in regions]


def test_an_anchor_takes_what_follows() -> None:
    assert cut("""
graph main(%x: f32[N,4], %w: f32[4,4], %b: f32[4]) {
  %h = MatMul(%x, %w)
  %a = Add(%h, %b)
  %y = Relu(%a)
  return %y
}
""") == ["MatMul*+Add+Relu"]


def test_a_value_read_twice_inside_is_fused() -> None:
    assert cut("""
graph main(%x: f32[N,4], %w: f32[4,4]) {
  %h = MatMul(%x, %w)
  %s = Sigmoid(%h)
  %y = Mul(%h, %s)
  return %y
}
""") == ["MatMul*+Sigmoid+Mul"]


def test_a_value_read_outside_is_not() -> None:
    assert cut("""
graph main(%x: f32[N,4], %w: f32[4,4]) {
  %h = MatMul(%x, %w)
  %y = Relu(%h)
  return %y, %h
}
""") == ["MatMul*", "Relu"]


def test_of_two_anchors_the_later_takes_the_sum() -> None:
    assert cut("""
graph main(%x: f32[N,4], %w: f32[4,4]) {
  %a = MatMul(%x, %w)
  %b = MatMul(%a, %w)
  %y = Add(%a, %b)
  return %y
}
""") == ["MatMul*", "MatMul*+Add"]


def test_what_the_anchor_reads_stays_outside() -> None:
    assert cut("""
graph main(%x: f32[N,4], %w: f32[4,4]) {
  %r = Relu(%x)
  %h = MatMul(%r, %w)
  %y = Add(%h, %r)
  return %y
}
""") == ["Relu", "MatMul*+Add"]


def test_a_smaller_producer_is_not_computed_again_for_each_reader() -> None:
    assert cut("""
graph main(%x: f32[1,4], %y: f32[8,4]) {
  %e = Exp(%x)
  %z = Add(%e, %y)
  return %z
}
""") == ["Exp", "Add"]


def test_unequal_dynamic_dims_do_not_share_a_region() -> None:
    assert cut("""
graph main(%x: f32[N,4], %w: f32[4,4], %v: f32[M,N,4]) {
  %h = MatMul(%x, %w)
  %y = Add(%h, %v)
  return %y
}
""") == ["MatMul*", "Add"]
