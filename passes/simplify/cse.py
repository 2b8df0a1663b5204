"""Common subexpressions: two nodes of the same op, operands and attributes compute the same."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.ir import Attr, Graph, Node
from ...compiler.ops.base import op_of
from ...compiler.types import Dim
from ..base import PassContext, register_pass
from ..facts import bind_symbols, symbol_binding

_Scope = dict[Hashable, Node]


@register_pass
@dataclass(frozen=True)
class CommonSubexpressions:
    """Keeps the first of equal nodes. A subgraph's node may be replaced by one of the graphs around it."""

    name: ClassVar[str] = "cse"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        binding: dict[object, Dim] = {}
        merged = _merge(graph, {}, binding)
        bind_symbols(graph, binding)
        ctx.count(self.name, merged)
        return merged > 0


def _merge(graph: Graph, outer: _Scope, binding: dict[object, Dim]) -> int:
    seen = dict(outer)
    merged = 0
    for node in graph.nodes:
        for sub in node.subgraphs.values():
            merged += _merge(sub, seen, binding)
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            for old, new in zip(node.outputs, first.outputs, strict=True):
                binding.update(symbol_binding(old.type, new.type))
            first.loc = first.loc.merged(node.loc)
            graph.replace(node, first.outputs)
            merged += 1
    return merged


def _key(node: Node) -> Hashable | None:
    """What makes two nodes equal; None for a node that must not be shared."""
    if node.subgraphs or not op_of(node).deterministic:
        return None
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    attrs = tuple((name, _attr_key(attr)) for name, attr in sorted(node.attrs.items()))
    return node.op, tuple(inputs), attrs, len(node.outputs)


def _attr_key(attr: Attr) -> Hashable:
    if isinstance(attr, np.ndarray):
        return attr.dtype.str, attr.shape, attr.tobytes()
    return type(attr).__name__, attr
