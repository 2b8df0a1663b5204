"""How optc's own ops are said in ONNX: an expansion an op, run on a copy of the graph before it is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import UnsupportedError
from ..ir import Graph, Node, Value

Expansion = Callable[[Graph, Node], Sequence[Value]]
EXPANSIONS: dict[str, Expansion] = {}
_DOMAIN = "optc."


def expands(*ops: str) -> Callable[[Expansion], Expansion]:
    """Registers an expansion: it emits ONNX nodes before the node and returns what stands for its outputs."""

    def note(expansion: Expansion) -> Expansion:
        EXPANSIONS.update(dict.fromkeys(ops, expansion))
        return expansion

    return note


def has_own_ops(graph: Graph) -> bool:
    return any(n.op.startswith(_DOMAIN) for n in graph.all_nodes())


def expand(graph: Graph) -> None:
    """Replaces optc's own ops, in place, until none is left (an expansion may make others).

    Raises UnsupportedError naming the nodes of ops that have no expansion.
    """
    missing = {n.op: n.name for n in graph.all_nodes() if n.op.startswith(_DOMAIN) and n.op not in EXPANSIONS}
    if missing:
        found = ", ".join(f"{op} (node {name})" for op, name in missing.items())
        raise UnsupportedError("ops that cannot be exported to ONNX", found=found)
    while has_own_ops(graph):
        for node in list(graph.all_nodes()):
            if node.op in EXPANSIONS and node.graph is not None:
                node.graph.replace(node, EXPANSIONS[node.op](node.graph, node))
        expand(graph)
