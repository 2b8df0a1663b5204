"""Scan along other axes than the first: transposed outside.

y = Scan(x) {scan_input_axes=[a], scan_output_axes=[b]}   ->   y = move(0 to b, Scan(move(a to 0, x)))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.ir import Graph, Node
from ..compiler.ops.base import attr_int, attr_ints
from .base import PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class ScanAxes:
    """Leaves every Scan of known ranks with axes 0 only."""

    name: ClassVar[str] = "scan-axes"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        scans = [n for n in graph.all_nodes() if n.op == "Scan"]
        moved = sum(_move_inputs(n) + _move_outputs(n) for n in scans)
        ctx.count(self.name, moved)
        return moved > 0


def _move_inputs(node: Node) -> int:
    graph, axes = node.graph, attr_ints(node, "scan_input_axes")
    first = len(node.inputs) - attr_int(node, "num_scan_inputs", 0)
    sources = [node.operand(i) for i in range(first, len(node.inputs))]
    if graph is None or not any(axes or ()) or any(v.type.shape is None for v in sources):
        return 0
    for index, (source, axis) in enumerate(zip(sources, axes or (), strict=True)):
        rank = source.type.rank
        axis %= rank
        if axis:
            perm = (axis, *(a for a in range(rank) if a != axis))
            moved = graph.emit("Transpose", [source], {"perm": perm}, before=node, loc=node.loc)
            graph.set_input(node, first + index, moved.output)
    del node.attrs["scan_input_axes"]
    return 1


def _move_outputs(node: Node) -> int:
    graph, axes = node.graph, attr_ints(node, "scan_output_axes")
    results = node.outputs[len(node.inputs) - attr_int(node, "num_scan_inputs", 0) :]
    if graph is None or not any(axes or ()) or any(v.type.shape is None for v in results):
        return 0
    for value, axis in zip(results, axes or (), strict=True):
        dims = value.type.dims
        axis %= len(dims)
        if axis:
            perm = (*range(1, axis + 1), 0, *range(axis + 1, len(dims)))
            value.type = value.type.with_shape((dims[axis], *dims[:axis], *dims[axis + 1 :]))
            back = graph.emit("Transpose", [value], {"perm": perm}, before=node._next, loc=node.loc)
            graph.replace_uses(value, back.output)
            graph.set_input(back, 0, value)
    del node.attrs["scan_output_axes"]
    return 1
