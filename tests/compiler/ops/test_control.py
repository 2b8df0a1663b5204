"""If, Loop and Scan: what is known after bodies whose shapes differ or change."""

from __future__ import annotations

import pytest
from helpers import graph_of
from optc.compiler.errors import ShapeError
from optc.compiler.ir import Graph
from optc.compiler.onnx.inputs import fix_shapes
from optc.compiler.ops.base import infer_graph
from optc.compiler.ops.control import is_trap
from optc.compiler.types import TensorType, free_symbols


def inferred(text: str) -> Graph:
    graph = graph_of(text)
    infer_graph(graph)
    return graph


IF = """graph main(%x: f32[N,4], %c: bool[]) {{
  {condition}
  %y = If(%c{used}) {{then_branch=graph t() {{
    %a = {then}(%x)
    return %a
  }}, else_branch=graph e() {{
    %b = {otherwise}
    return %b
  }}}}
  return %y
}}"""


def test_branches_that_agree_keep_their_dims() -> None:
    graph = inferred(IF.format(condition="", used="", then="Relu", otherwise="Neg(%x)"))
    assert str(graph.outputs[0].type) == "f32[N, 4]"


def test_a_dim_that_differs_is_a_new_symbol() -> None:
    graph = inferred(IF.format(condition="", used="", then="Relu", otherwise="Concat(%x, %x) {axis=1}"))
    shape = graph.outputs[0].type.dims
    assert str(shape[0]) == "N"
    assert not isinstance(shape[1], int)


def test_ranks_that_differ_leave_the_rank_unknown() -> None:
    graph = inferred(IF.format(condition="", used="", then="Relu", otherwise="ReduceSum(%x) {keepdims=0}"))
    assert graph.outputs[0].type.shape is None


def test_a_known_condition_takes_its_branch() -> None:
    known = "%k: bool[] = const true"
    text = IF.format(condition=known, used="", then="Relu", otherwise="ReduceSum(%x) {keepdims=0}")
    assert str(inferred(text.replace("If(%c)", "If(%k)")).outputs[0].type) == "f32[N, 4]"


def test_a_branch_that_fixed_shapes_rule_out_becomes_a_trap() -> None:
    dims = "%two: i64[3] = const [2, 2, 4]"
    graph = graph_of(IF.format(condition=dims, used="", then="Relu", otherwise="Expand(%x, %two)"))
    fix_shapes(graph, {"x": (3, 4)})
    (node,) = (n for n in graph.nodes if n.op == "If")
    assert is_trap(node.subgraphs["else_branch"])
    assert str(graph.outputs[0].type) == "f32[3, 4]"


def test_branches_that_both_do_not_fit_are_an_error() -> None:
    dims = "%two: i64[2] = const [2, 4]"
    graph = graph_of(IF.format(condition=dims, used="", then="Relu", otherwise="Expand(%x, %two)").replace(
        "Relu(%x)", "Expand(%x, %two)"))  # fmt: skip
    with pytest.raises(ShapeError):
        fix_shapes(graph, {"x": (3, 4)})


LOOP = """graph main(%x: f32[N,4], %m: i64[]) {{
  %true: bool[] = const true
  %three = const 3
  %last, %all = Loop({count}, %true, %x) {{body=graph body(%i: i64[], %go: bool[], %s: f32[N,4]) {{
    %next = {body}
    return %go, %next, %next as "each"
  }}}}
  return %last, %all
}}"""


def test_a_known_trip_count_is_the_length_of_scan_outputs() -> None:
    graph = inferred(LOOP.format(count="%three", body="Relu(%s)"))
    assert [str(v.type) for v in graph.outputs] == ["f32[N, 4]", "f32[3, N, 4]"]


def test_an_unknown_trip_count_is_a_new_symbol() -> None:
    graph = inferred(LOOP.format(count="%m", body="Relu(%s)"))
    assert str(graph.outputs[0].type) == "f32[N, 4]"
    assert str(graph.outputs[1].type).startswith("f32[_turns")


def test_a_carried_value_that_grows_has_a_symbol_there_and_nowhere_else() -> None:
    graph = inferred(LOOP.format(count="%three", body="Concat(%s, %x) {axis=0}"))
    (node,) = (n for n in graph.nodes if n.op == "Loop")
    inside = node.subgraphs["body"].inputs[2].type.dims
    last = graph.outputs[0].type.dims
    assert inside[1] == last[1] == 4
    assert not isinstance(inside[0], int)
    assert free_symbols(inside) != free_symbols(last)  # what is bound inside means nothing outside


def test_inferring_again_changes_nothing() -> None:
    graph = inferred(LOOP.format(count="%three", body="Concat(%s, %x) {axis=0}"))

    def types() -> list[TensorType]:
        return [v.type for n in graph.all_nodes() for v in n.outputs]

    before = types()
    infer_graph(graph)
    assert types() == before


def test_scan_stacks_along_the_scanned_axis() -> None:
    graph = inferred("""graph main(%h: f32[8], %x: f32[S,8]) {
      %last, %all = Scan(%h, %x) {num_scan_inputs=1, body=graph body(%a: f32[8], %b: f32[8]) {
        %c = Add(%a, %b)
        return %c, %c as "each"
      }}
      return %last, %all
    }""")
    assert [str(v.type) for v in graph.outputs] == ["f32[8]", "f32[S, 8]"]
