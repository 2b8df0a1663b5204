"""Dead code: nodes nobody reads, optional outputs nobody reads, subgraph outputs whose node output nobody reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...compiler.ir import Graph, Node
from ..base import PassContext, register_pass

_OPTIONAL_OUTPUTS = {"Dropout": 1, "MaxPool": 1, "LayerNormalization": 1, "BatchNormalization": 1}
"""How many outputs of an op must be there; those after may be left out."""


@register_pass
@dataclass(frozen=True)
class DeadCode:
    """Erases what does not reach an output. No op of ONNX has side effects."""

    name: ClassVar[str] = "dead-code"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        erased = _sweep(graph)
        ctx.count(self.name, erased)
        return erased > 0


def _sweep(graph: Graph) -> int:
    """Erases from the end to the beginning, so that one walk suffices; returns the number of things erased."""
    erased = 0
    for node in reversed(list(graph.nodes)):
        if not any(v.uses for v in node.outputs):
            graph.erase(node)
            erased += 1
            continue
        erased += _trim_outputs(node)
        for sub in node.subgraphs.values():
            erased += _sweep(sub)
    return erased


def _trim_outputs(node: Node) -> int:
    """Drops outputs nobody reads where the op allows it; a control-flow op always keeps one."""
    dropped = 0
    required = _OPTIONAL_OUTPUTS.get(node.op, len(node.outputs))
    while len(node.outputs) > required and not node.outputs[-1].uses:
        node.outputs = node.outputs[:-1]
        dropped += 1
    first, offset = _subgraph_outputs(node)
    for index in reversed(range(first, len(node.outputs))):
        if len(node.outputs) > 1 and not node.outputs[index].uses:
            node.outputs = node.outputs[:index] + node.outputs[index + 1 :]
            for position, value in enumerate(node.outputs):
                value.index = position
            for sub in node.subgraphs.values():
                _drop(sub, index + offset)
            dropped += 1
    return dropped


def _subgraph_outputs(node: Node) -> tuple[int, int]:
    """(the first output that may go, the subgraphs' output index minus the node's)."""
    if node.op == "If":
        return 0, 0
    if node.op == "Loop":  # operands: trip count, condition, states; body outputs: condition, states, scans
        return max(0, len(node.inputs) - 2), 1
    return len(node.outputs), 0


def _drop(graph: Graph, index: int) -> None:
    outputs, names = list(graph.outputs), list(graph.output_names)
    del outputs[index], names[index]
    graph.set_outputs(outputs, names)
