"""QuantizeLinear by steps of one: its scale goes into the DequantizeLinears in front, one multiplication less.

    Q(f(D(x; s_x)); s, z)            -> Q(f(D(x; s_x / s)); 1, z)          f(v / s) = f(v) / s: Relu, pools, ...
    Q(D(x; s_x) + D(y; s_y); s, z)   -> Q(D(x; s_x / s) + D(y; s_y / s); 1, z)

For a product's sums that is the usual requantization by one number a channel. The new scales are rounded to float32, so
a value within float32's precision of half a step may round the other way than the original graph: by one step, rarely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.types import DType
from ..base import PassContext, register_pass
from ..pattern import scalar_of

_FIRST = frozenset({
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "MaxPool", "Neg", "PRelu", "ReduceMax",
    "ReduceMean", "ReduceSum", "Relu", "Resize", "optc.AveragePool", "optc.MaxPool",
})  # fmt: skip
"""Ops that scale with operand 0; what else they read stays."""
_ALL = frozenset({"Add", "Clip", "Concat", "Max", "Mean", "Min", "Sub", "Sum"})
"""Ops that scale with all their operands together."""
_ANY = frozenset({"Mul"})
"""Ops that scale with each operand by itself."""

_Edit = tuple[Node, int, np.ndarray]


@register_pass
@dataclass(frozen=True)
class UnitSteps:
    """Takes what lies between only where nobody else reads it."""

    name: ClassVar[str] = "unit-steps"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        changed = 0
        for node in graph.all_nodes():
            scale = node.input(1)
            if node.op != "QuantizeLinear" or scale is None or scale.type.dtype is not DType.F32:
                continue
            step = scalar_of(scale)
            edits = None if step is None or step == 1.0 else _scaled(node, 0, np.float64(step))
            if edits is None:
                continue
            for reader, slot, data in [*edits, (node, 1, np.ones(scale.type.static_shape, np.float32))]:
                old = reader.operand(slot)
                graph.set_input(reader, slot, graph.constant(data, old.name, old.type.dtype))
            changed += 1
        ctx.count(self.name, changed)
        return changed > 0


def _scaled(reader: Node, slot: int, step: np.float64) -> list[_Edit] | None:
    """The constants to replace so that operand `slot` of `reader` becomes itself divided by `step`; None if none do."""
    value = reader.operand(slot)
    if value.data is not None:
        return _divided(reader, slot, step)
    node = value.producer
    if node is None or value.single_user is not reader or node.graph is not reader.graph:
        return None
    if node.op == "DequantizeLinear":
        return _divided(node, 1, step)
    if node.op in _FIRST:
        return _scaled(node, 0, step)
    present = [i for i, v in enumerate(node.inputs) if v is not None]
    if node.op in _ANY:
        choices = (_scaled(node, i, step) for i in present if not node.operand(i).is_constant)
        return next((c for c in choices if c is not None), None)
    if node.op not in _ALL:
        return None
    edits: list[_Edit] = []
    for i in present:
        more = _scaled(node, i, step)
        if more is None:
            return None
        edits += more
    return edits


def _divided(node: Node, slot: int, step: np.float64) -> list[_Edit] | None:
    value: Value = node.operand(slot)
    if value.data is None or value.type.dtype is not DType.F32:
        return None
    with np.errstate(over="ignore", under="ignore"):
        data = (np.asarray(value.data, np.float64) / step).astype(np.float32)
    lost = np.asarray(value.data)[(np.abs(data) < np.finfo(np.float32).tiny) | ~np.isfinite(data)]
    return None if (lost != 0).any() else [(node, slot, data)]
