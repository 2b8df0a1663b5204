"""Where a graph is quantized: what is stored between layers, read by whom, at which shared scales."""

from __future__ import annotations

from helpers import graph_of
from optc.compiler.ir import Graph, Node
from optc.passes.quantization.placement import Placement, place


def placed(body: str, inputs: str = "%x: f32[n,8,16,16]") -> tuple[Graph, Placement]:
    weights = """
      %w: f32[8,8,3,3] = const random(1)
      %v: f32[8,8,1,1] = const random(2)
    """
    graph = graph_of(f"graph main({inputs}) {{{weights}{body}}}")
    return graph, place(graph)


def names(placement: Placement) -> set[str]:
    return {v.name for v in placement.values}


def readers(placement: Placement, name: str) -> list[str]:
    found = next(uses for value, uses in placement.readers.items() if value.name == name)
    return [use.user.op for use in found if isinstance(use.user, Node)]


def test_a_chain_is_rounded_where_it_is_stored() -> None:
    _, found = placed("""
      %a = Conv(%x, %w) {pads=[1,1,1,1]}
      %b = Relu(%a)
      %y = Conv(%b, %v)
      return %y
    """)
    assert len(found.layers) == 2
    assert names(found) == {"x", "b"}  # the sum before Relu stays in registers, the last one is the result


def test_an_activation_read_twice_by_its_own_formula_stays_in_registers() -> None:
    _, found = placed("""
      %a = Conv(%x, %w) {pads=[1,1,1,1]}
      %s = HardSigmoid(%a)
      %b = Mul(%a, %s)
      %y = Conv(%b, %v)
      return %y
    """)
    assert names(found) == {"x", "b"}


def test_of_a_residual_add_only_the_stored_operand_is_rounded() -> None:
    _, found = placed("""
      %a = Conv(%x, %w) {pads=[1,1,1,1]}
      %b = Relu(%a)
      %c = Conv(%b, %w) {pads=[1,1,1,1]}
      %d = Add(%c, %b)
      %e = Relu(%d)
      %y = Conv(%e, %v)
      return %y
    """)
    assert names(found) == {"x", "b", "e"}
    assert sorted(readers(found, "b")) == ["Add", "Conv"]


def test_what_moves_elements_shares_a_scale() -> None:
    _, found = placed("""
      %a = Conv(%x, %w) {pads=[1,1,1,1]}
      %b = Conv(%x, %v)
      %c = Concat(%a, %b) {axis=1}
      %d = MaxPool(%c) {kernel_shape=[2,2], strides=[2,2]}
      %u: f32[4,16,1,1] = const random(3)
      %y = Conv(%d, %u)
      return %y
    """)
    together = next(group for group in found.groups if any(v.name == "d" for v in group))
    assert {v.name for v in together} == {"a", "b", "c", "d"}


def test_the_residual_stream_of_a_transformer_stays_float() -> None:
    graph = graph_of("""
      graph main(%x: f32[n,s,8]) {
        %w: f32[8,8] = const random(1)  %g: f32[8] = const ones  %b: f32[8] = const zeros
        %h = LayerNormalization(%x, %g, %b)
        %m = MatMul(%h, %w)
        %r = Add(%m, %x)
        %i = LayerNormalization(%r, %g, %b)
        %o = MatMul(%i, %w)
        %y = Add(%o, %r)
        return %y
      }
    """)
    found = place(graph)
    assert names(found) == {"h", "i"}
    assert readers(found, "h") == ["MatMul"]


def test_a_layer_named_stays_float_with_its_activation() -> None:
    graph, _ = placed("%a = Conv(%x, %w) {pads=[1,1,1,1]}\n%y = Conv(%a, %v)\nreturn %y")
    first, second = [n for n in graph.nodes if n.op == "Conv"]
    found = place(graph, {second.name})
    assert found.layers == (first,)
    assert names(found) == {"x"}


def test_a_product_of_two_activations_and_a_graph_output_are_no_layers() -> None:
    graph = graph_of("""
      graph main(%x: f32[n,4,8], %k: f32[n,8,4]) {
        %s = MatMul(%x, %k)
        %p = Softmax(%s)
        return %p
      }
    """)
    assert not place(graph).layers
    assert not place(graph).values
