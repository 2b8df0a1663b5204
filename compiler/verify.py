"""What every graph must satisfy between two passes. The error shows the offending line with its neighbours."""

from __future__ import annotations

from .errors import OptcError
from .ir import Graph, Node, Use, Value
from .printing import print_node
from .types import DType, TensorType


class VerifyError(OptcError):
    """A broken invariant: a defect of optc, never of the user's model."""


def verify(graph: Graph) -> None:
    """Checks the invariants of a graph and its subgraphs.

    Every value read is defined before, in this graph or one around it; uses and operands agree in both directions;
    producers, parents and list links are consistent; names are unique; types are present and fit constants' data;
    every output has a name. Raises VerifyError.
    """
    _Verifier().graph(graph, set())


class _Verifier:
    def __init__(self) -> None:
        self.names: dict[str, Value] = {}
        self.reads: dict[Value, set[Use]] = {}
        self.context: Node | str = ""

    def graph(self, graph: Graph, outer: set[Value]) -> None:
        visible = set(outer)
        for value in graph.inputs:
            self.define(value, visible, graph)
            if value.producer is not None:
                self.fail(f"input %{value.name} has a producer")
        self.order(graph)
        for node in graph.nodes:
            self.node(node, graph, visible)
        self.context = f"return of graph {graph.name}"
        for slot, value in enumerate(graph.outputs):
            self.read(value, Use(graph, slot), visible)
        if len(graph.output_names) != len(graph.outputs):
            self.fail(f"{len(graph.outputs)} outputs have {len(graph.output_names)} names")
        if len(set(graph.output_names)) != len(graph.output_names):
            self.fail("two outputs have the same name")
        self.uses(visible - outer)
        if not outer:
            self.uses({v for v in self.reads if v.is_constant})

    def order(self, graph: Graph) -> None:
        """The links between neighbours."""
        previous: Node | None = None
        node = graph._head
        while node is not None:
            self.context = node
            if node.graph is not graph:
                self.fail(f"{node.name} stands in graph {graph.name} and belongs to another")
            if node._prev is not previous:
                self.fail(f"{node.name} is not linked to the node before it")
            previous, node = node, node._next
        if graph._tail is not previous:
            self.fail(f"graph {graph.name} does not end at its last node")

    def node(self, node: Node, graph: Graph, visible: set[Value]) -> None:
        self.context = node
        for slot, value in enumerate(node.inputs):
            if value is not None:
                self.read(value, Use(node, slot), visible)
        for key, sub in node.subgraphs.items():
            if sub.parent is not node:
                self.fail(f"subgraph {key} of {node.name} has another parent")
            self.graph(sub, visible)
        self.context = node
        for index, value in enumerate(node.outputs):
            if value.producer is not node or value.index != index:
                self.fail(f"%{value.name} does not name {node.op} as its producer")
            if value.is_constant:
                self.fail(f"%{value.name} is computed and has constant data")
            self.define(value, visible, graph)

    def define(self, value: Value, visible: set[Value], graph: Graph) -> None:
        if value in visible:
            self.fail(f"%{value.name} is defined twice")
        self.name(value)
        visible.add(value)
        if not isinstance(value.type, TensorType) or not isinstance(value.type.dtype, DType):
            self.fail(f"%{value.name} in graph {graph.name} has no type")

    def name(self, value: Value) -> None:
        if self.names.setdefault(value.name, value) is not value:
            self.fail(f"two values are called %{value.name}")

    def read(self, value: Value, use: Use, visible: set[Value]) -> None:
        if use not in value.uses:
            self.fail(f"%{value.name} does not know that it is read here")
        self.reads.setdefault(value, set()).add(use)
        if value.data is not None:
            self.name(value)
            if value.producer is not None:
                self.fail(f"constant %{value.name} has a producer")
            if value.type.shape != value.data.shape or value.type.dtype.numpy != value.data.dtype:
                self.fail(f"constant %{value.name}: {value.type} is not {value.data.dtype}{list(value.data.shape)}")
        elif value not in visible:
            self.fail(f"%{value.name} is read before it is defined, or out of its scope")

    def uses(self, values: set[Value]) -> None:
        """Every use a value knows of is one that was seen."""
        for value in values:
            for use in value.uses:
                if use not in self.reads.get(value, set()):
                    self.context = f"%{value.name}"
                    self.fail(f"%{value.name} says that slot {use.slot} of {_user_text(use)} reads it")

    def fail(self, message: str) -> None:
        place = self.context if isinstance(self.context, str) else _neighbours(self.context)
        raise VerifyError(f"invalid graph: {message}\n{place}")


def _user_text(use: Use) -> str:
    return print_node(use.user) if isinstance(use.user, Node) else f"the outputs of graph {use.user.name}"


def _neighbours(node: Node) -> str:
    """The node's line, marked, between the lines beside it."""
    lines = [("    ", node._prev), (" -> ", node), ("    ", node._next)]
    return "\n".join(mark + print_node(n) for mark, n in lines if n is not None)
