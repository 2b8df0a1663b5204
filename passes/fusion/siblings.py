"""Matrix products of one tensor by several weights become one product and a split.

    x W1, x W2, x W3 -> split(x [W1 W2 W3])          with biases b: split(x [W1 W2 W3] + [b1 b2 b3])

x is read once and the wider product uses its tiles better; the split costs a copy where its parts cannot be read in
place, so only products of few columns are merged.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.ir import Graph, Node
from ...compiler.types import TensorType
from ..base import PassContext, register_pass
from ..rewrite import erase_dead


@dataclass(frozen=True)
class _Sibling:
    """A product by constant weights and the value that stands for it: its own output, or that of the bias' Add."""

    product: Node
    weights: np.ndarray
    bias: np.ndarray | None
    result: Node

    @property
    def columns(self) -> int:
        return int(self.weights.shape[1])


@register_pass
@dataclass(frozen=True)
class MergeSiblings:
    """Merges sibling MatMuls (and their biases) of at most `max_columns` columns each."""

    name: ClassVar[str] = "merge-siblings"
    max_columns: int = 256

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        groups: dict[object, list[_Sibling]] = defaultdict(list)
        for node in graph.nodes:
            sibling = _sibling(node)
            if sibling is not None and sibling.columns <= self.max_columns:
                key = node.operand(0), node.operand(1).type.dtype, sibling.bias is not None
                groups[key].append(sibling)
        merged = [group for group in groups.values() if len(group) > 1]
        for group in merged:
            _merge(graph, group)
            ctx.count(self.name, len(group))
        return bool(merged)


def _sibling(node: Node) -> _Sibling | None:
    if node.op != "MatMul" or node.operand(0).is_constant or node.operand(0).type.shape is None:
        return None
    weights = node.operand(1).data
    if weights is None or weights.ndim != 2 or not node.operand(1).type.dtype.is_float:
        return None
    user = node.output.single_user
    if user is not None and user.op == "Add":
        other = user.operand(0) if user.operand(1) is node.output else user.operand(1)
        if other.data is not None and other.data.shape == (weights.shape[1],):
            return _Sibling(node, weights, other.data, user)
    return _Sibling(node, weights, None, node)


def _merge(graph: Graph, group: list[_Sibling]) -> None:
    first = group[0].product
    x = first.operand(0)
    columns = [s.columns for s in group]
    loc = first.loc.merged(*(s.product.loc for s in group[1:]), *(s.result.loc for s in group), rule=MergeSiblings.name)
    weights = graph.constant(np.concatenate([s.weights for s in group], axis=1), first.operand(1).name)
    wide = graph.emit("MatMul", [x, weights], before=first, loc=loc).output
    biases = [s.bias for s in group if s.bias is not None]
    if biases:
        wide = graph.emit("Add", [wide, graph.constant(np.concatenate(biases))], before=first, loc=loc).output
    types = [_with_columns(wide.type, n) for n in columns]
    sizes = graph.constant(np.array(columns, np.int64))
    parts = graph.emit("Split", [wide, sizes], {"axis": -1}, types=types, before=first, loc=loc).outputs
    for sibling, part in zip(group, parts, strict=True):
        part.type = sibling.result.output.type
        graph.replace_uses(sibling.result.output, part)
    erase_dead([s.result for s in group])


def _with_columns(type: TensorType, columns: int) -> TensorType:
    return type.with_shape((*type.dims[:-1], columns))
