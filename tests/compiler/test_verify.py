"""Each invariant, broken once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers import graph_of
from optc.compiler.ir import Graph, Node, Value
from optc.compiler.types import DType, TensorType
from optc.compiler.verify import VerifyError, verify

TEXT = """
graph g(%x: f32[2], %c: bool[]) {
  %w: f32[2] = const [1,2]
  %a: f32[2] = t.A(%x, %w)
  %b: f32[2] = t.B(%a)
  %i: f32[2] = t.If(%c) {body=graph body() {
    %d: f32[2] = t.D(%a)
    return %d
  }}
  return %b, %i
}
"""


def nodes(graph: Graph) -> dict[str, Node]:
    return {n.op[2:]: n for n in graph.all_nodes()}


def swap_order(graph: Graph) -> None:
    graph.move_before(nodes(graph)["B"], nodes(graph)["A"])


def capture_of_a_later_value(graph: Graph) -> None:
    graph.move_before(nodes(graph)["A"], None)
    graph.move_before(nodes(graph)["B"], None)


def stale_operand(graph: Graph) -> None:
    nodes(graph)["B"].inputs = (graph.inputs[0],)


def stale_use(graph: Graph) -> None:
    graph.inputs[0]._uses[(0, 0)] = next(iter(nodes(graph)["B"].inputs)).uses[0]  # type: ignore[union-attr]


def wrong_producer(graph: Graph) -> None:
    nodes(graph)["A"].output.producer = nodes(graph)["B"]


def same_name(graph: Graph) -> None:
    nodes(graph)["A"].output.name = "x"


def missing_output_name(graph: Graph) -> None:
    graph.output_names.pop()


def no_type(graph: Graph) -> None:
    nodes(graph)["A"].output.type = None  # type: ignore[assignment]


def constant_of_another_type(graph: Graph) -> None:
    nodes(graph)["A"].operand(1).type = TensorType(DType.F32, (3,))


def foreign_value(graph: Graph) -> None:
    graph.set_input(nodes(graph)["B"], 0, Value("stranger", TensorType(DType.F32, (2,))))


def wrong_parent(graph: Graph) -> None:
    nodes(graph)["If"].subgraphs["body"].parent = nodes(graph)["A"]


def value_of_a_subgraph(graph: Graph) -> None:
    graph.set_outputs([nodes(graph)["D"].output, graph.outputs[1]])


def wrong_link(graph: Graph) -> None:
    nodes(graph)["B"]._prev = None


def test_a_valid_graph_passes() -> None:
    verify(graph_of(TEXT))
    verify(graph_of(TEXT).clone())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap_order, "read before it is defined"),
        (capture_of_a_later_value, "read before it is defined"),
        (stale_operand, "does not know that it is read here"),
        (stale_use, "says that slot 0 of"),
        (wrong_producer, "as its producer"),
        (same_name, "two values are called %x"),
        (missing_output_name, "2 outputs have 1 names"),
        (no_type, "has no type"),
        (constant_of_another_type, "constant %w"),
        (foreign_value, "out of its scope"),
        (wrong_parent, "has another parent"),
        (value_of_a_subgraph, "says that slot 0 of the outputs of graph g reads it"),
        (wrong_link, "not linked"),
    ],
)
def test_damage_is_found(damage: Callable[[Graph], None], message: str) -> None:
    graph = graph_of(TEXT)
    damage(graph)
    with pytest.raises(VerifyError, match=message):
        verify(graph)


def test_the_error_shows_the_line_and_its_neighbours() -> None:
    graph = graph_of(TEXT)
    swap_order(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert " -> %b: f32[2] = t.B(%a)" in str(caught.value)
    assert "    %a: f32[2] = t.A(%x, %w)" in str(caught.value)
