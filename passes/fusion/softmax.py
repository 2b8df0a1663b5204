"""exp(x - max(x)) / sum(exp(x - max(x))) -> Softmax(x), with or without the maximum, over one axis."""

from __future__ import annotations

from typing import ClassVar

from ...compiler.ir import Value
from ..facts import axes_of
from ..pattern import Op
from ..rewrite import Match, Rule, register_rule

_SHIFTED = Op("Exp", Op("Sub", "x", Op("ReduceMax", "x", name="max", rest=True)), name="e")
_PLAIN = Op("Exp", "x", name="e")


@register_rule
class SoftmaxPieces(Rule):
    name: ClassVar[str] = "softmax"
    patterns: ClassVar[tuple[Op, ...]] = tuple(
        Op("Div", numerator, Op("ReduceSum", "e", name="sum", rest=True)) for numerator in (_SHIFTED, _PLAIN)
    )

    def check(self, m: Match) -> str | None:
        shape = m["x"].type.shape
        if shape is None:
            return "the rank is unknown"
        reductions = [m.node(k) for k in ("max", "sum") if k in m]
        found = [axes_of(node) for node in reductions]
        if any(axes is None or len(axes) != 1 for axes in found) or len({a[0] % len(shape) for a in found if a}) != 1:
            return "the reductions are not over one and the same axis"
        kept = all(node.attrs.get("keepdims", 1) == 1 for node in reductions)
        return None if kept else "a reduced dim is dropped"

    def rewrite(self, m: Match) -> Value:
        axis = (axes_of(m.node("sum")) or [-1])[0]
        return m.emit("Softmax", [m["x"]], {"axis": axis})
