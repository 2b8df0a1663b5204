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

    def pointwise(node: Node) -> bool:
        return op_of(node).pointwise or node.op in ("QuantizeLinear", "DequantizeLinear")

    regions = partition(
        graph_of(text), pointwise, takes_epilogue,
        free=lambda n: n.op == "DequantizeLinear", gather=lambda n: n.op == "Resize",
    )  # fmt: skip
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


BYTES = "%s: f32[] = const 0.5 %z: u8[] = const 3"


def test_a_free_producer_may_be_smaller() -> None:
    assert cut(f"""
graph main(%x: u8[N,1,4], %y: f32[N,8,4]) {{ {BYTES}
  %d = DequantizeLinear(%x, %s, %z)
  %z2 = Mul(%d, %y)
  return %z2
}}
""") == ["DequantizeLinear+Mul"]


def test_what_is_free_is_not_taken_in_by_a_product() -> None:
    assert cut(f"""
graph main(%x: u8[N,4], %w: f32[4,4]) {{ {BYTES}
  %d = DequantizeLinear(%x, %s, %z)
  %h = MatMul(%d, %w)
  %q = QuantizeLinear(%h, %s, %z)
  return %q
}}
""") == ["DequantizeLinear", "MatMul*+QuantizeLinear"]


def test_a_gather_takes_in_what_is_free_before_it() -> None:
    assert cut(f"""
graph main(%x: u8[1,2,4,4], %r: u8[1,2,8,8]) {{ {BYTES} %k: f32[4] = const [1,1,2,2]
  %d = DequantizeLinear(%x, %s, %z)
  %h = Resize(%d, _, %k)
  %e = DequantizeLinear(%r, %s, %z)
  %a = Add(%h, %e)
  %q = QuantizeLinear(%a, %s, %z)
  return %q
}}
""") == ["DequantizeLinear+Resize+DequantizeLinear+Add+QuantizeLinear"]


def test_a_gather_of_what_others_read_too_leaves_it() -> None:
    assert cut(f"""
graph main(%x: u8[1,2,4,4]) {{ {BYTES} %k: f32[4] = const [1,1,2,2]
  %d = DequantizeLinear(%x, %s, %z)
  %h = Resize(%d, _, %k)
  %q = QuantizeLinear(%h, %s, %z)
  return %q, %d
}}
""") == ["DequantizeLinear", "Resize+QuantizeLinear"]
