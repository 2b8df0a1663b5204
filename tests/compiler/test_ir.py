"""The graph's mutations keep uses, order and names consistent: every test ends in verify."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers import assert_same, graph_of
from optc.compiler.ir import Graph, Loc, captures
from optc.compiler.text import equal, parse_graph
from optc.compiler.types import DType, TensorType
from optc.compiler.verify import verify

TEXT = """
graph g(%x: f32[2], %c: bool[]) {
  %w: f32[2] = const [1,2]
  %a = Add(%x, %w)
  %b = Mul(%a, %a)
  %i = If(%c) {then_branch=graph t() { %d = Neg(%a) return %d }, else_branch=graph e() { return %b }}
  return %b, %i
}
"""


@pytest.fixture
def graph() -> Iterator[Graph]:
    made = graph_of(TEXT)
    yield made
    verify(made)


def test_an_operand_read_twice_is_two_uses(graph: Graph) -> None:
    add, mul, _ = graph.nodes
    assert [u.slot for u in add.output.uses if u.user is mul] == [0, 1]
    assert mul in add.output.users
    assert add.output.single_user is None


def test_replace_uses_reaches_subgraphs_and_outputs(graph: Graph) -> None:
    add, mul, branch = graph.nodes
    graph.replace_uses(mul.output, graph.inputs[0])
    assert graph.outputs[0] is graph.inputs[0]
    assert branch.subgraphs["else_branch"].outputs == (graph.inputs[0],)
    graph.erase(mul)
    assert [n.op for n in graph.nodes] == ["Add", "If"]
    assert add.output.users == (next(branch.subgraphs["then_branch"].nodes),)


def test_erasing_a_node_that_is_read_is_refused(graph: Graph) -> None:
    with pytest.raises(ValueError, match="still used"):
        graph.erase(next(graph.nodes))


def test_erasing_a_node_unlinks_its_subgraphs(graph: Graph) -> None:
    add, mul, branch = graph.nodes
    graph.set_outputs([mul.output], ["b"])
    graph.erase(branch)
    assert add.output.users == (mul,)


def test_replace_puts_values_in_place_of_a_node(graph: Graph) -> None:
    _, mul, _ = graph.nodes
    new = graph.emit("Sub", [graph.inputs[0], graph.inputs[0]], before=mul)
    graph.replace(mul, [new.output])
    assert [n.op for n in graph.nodes] == ["Add", "Sub", "If"]


def test_nodes_may_be_erased_and_inserted_while_iterating(graph: Graph) -> None:
    seen = []
    for node in graph.nodes:
        seen.append(node.op)
        if node.op == "Mul":
            new = graph.emit("Sub", node.inputs, before=node)
            graph.replace(node, [new.output])
    assert seen == ["Add", "Mul", "If"]


def test_move_before(graph: Graph) -> None:
    add, mul, branch = graph.nodes
    other = graph.emit("Abs", [graph.inputs[0]])
    graph.move_before(other, add)
    graph.move_before(branch, None)
    assert list(graph.nodes) == [other, add, mul, branch]


def test_set_input_extends_with_omitted_operands() -> None:
    graph = graph_of("graph g(%x: f32[2], %hi: f32[]) { %y = Clip(%x) return %y }")
    (clip,) = graph.nodes
    graph.set_input(clip, 2, graph.inputs[1])
    assert_same(graph, "graph g(%x: f32[2], %hi: f32[]) { %y = Clip(%x, _, %hi) return %y }")


def test_clone_is_deep_equal_and_shares_constants(graph: Graph) -> None:
    copy = graph.clone()
    verify(copy)
    assert equal(graph, copy, names=True)
    assert copy.constants()[0].data is graph.constants()[0].data
    assert not set(copy.values()) & set(graph.values())


def test_captures_are_what_bodies_read_from_outside(graph: Graph) -> None:
    add, mul, branch = graph.nodes
    assert captures(branch.subgraphs["then_branch"]) == [add.output]
    assert captures(branch.subgraphs["else_branch"]) == [mul.output]


def test_names_are_unique_across_a_subgraph_under_construction(graph: Graph) -> None:
    body = graph.subgraph("body")
    value = body.emit("Neg", [graph.inputs[0]], names=["a"]).output
    assert value.name == "a.1"
    body.clear()


def test_constants_know_small_integer_contents() -> None:
    graph = Graph()
    value = graph.constant(np.array([2, 3]), "k")
    assert value.content is not None
    assert list(value.content) == [2, 3]
    assert graph.constant(1.5, dtype=DType.F16).type == TensorType(DType.F16, ())


def test_all_nodes_enters_bodies(graph: Graph) -> None:
    assert [n.op for n in graph.all_nodes()] == ["Add", "Mul", "If", "Neg"]


def test_locations_merge_in_order() -> None:
    merged = Loc(("conv",)).merged(Loc(("norm",), ("fold",)), Loc(("conv",)), rule="fuse")
    assert merged == Loc(("conv", "norm"), ("fold", "fuse"))
    assert str(merged) == "conv+norm"


def test_a_graph_prints_itself(graph: Graph) -> None:
    assert equal(parse_graph(repr(graph)), graph)
