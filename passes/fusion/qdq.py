"""QuantizeLinear (Q) and DequantizeLinear (D) that undo each other, or stand on the wrong side of a view.

Q(D(x; s, z); s, z) -> x                    D(Q(D(x; s, z); s, z); s, z) -> D(x; s, z)
f(D(x))  -> D(f(x))                         f moves elements only, s and z per tensor
Q(f(x))  -> f(Q(x))                         likewise, so that f moves bytes, not floats
"""

from __future__ import annotations

from typing import ClassVar

from ...compiler.ir import Value
from ..pattern import Const, Op
from ..rewrite import Match, Rule, register_rule

_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Expand", "DepthToSpace")


@register_rule
class DoubleQdq(Rule):
    """Q(D(x; s, z); s, z) -> x: x is on the grid already."""

    name: ClassVar[str] = "double-qdq"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("QuantizeLinear", Op("DequantizeLinear", "x", Const("s"), Const("z"), shared=True), Const("s"), Const("z")),
    )

    def check(self, m: Match) -> str | None:
        same = m["x"].type.dtype is m.root.output.type.dtype
        return None if same and m.array("s").size == 1 else "another integer type, or a scale per channel"

    def rewrite(self, m: Match) -> Value:
        return m["x"]


@register_rule
class SinkDequantize(Rule):
    """f(D(x)) -> D(f(x))."""

    name: ClassVar[str] = "sink-dequantize"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(_MOVES, Op("DequantizeLinear", "x", Const("s"), Const("z"), name="d"), rest=True),
    )

    def check(self, m: Match) -> str | None:
        if m["x"].is_constant:
            return "a quantized weight stays beside its reader"
        return None if m.array("s").size == 1 and m["s"].type.rank == 0 else "the scale is per channel"

    def rewrite(self, m: Match) -> Value:
        moved = m.emit(m.root.op, [m["x"], *m.root.inputs[1:]], m.root.attrs)
        return m.emit("DequantizeLinear", [moved, m["s"], m["z"]], m.node("d").attrs)


@register_rule
class HoistQuantize(Rule):
    """Q(f(x)) -> f(Q(x))."""

    name: ClassVar[str] = "hoist-quantize"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("QuantizeLinear", Op(_MOVES, "x", name="f", rest=True), Const("s"), Const("z")),
    )

    def check(self, m: Match) -> str | None:
        if m["x"].producer is not None and m["x"].producer.op == "DequantizeLinear":
            return "the operand is dequantized just before"
        if m.node("f").op in ("Expand", "Gather"):
            return f"{m.node('f').op} may make the tensor larger"
        return None if m.array("s").size == 1 and m["s"].type.rank == 0 else "the scale is per channel"

    def rewrite(self, m: Match) -> Value:
        q = m.emit("QuantizeLinear", [m["x"], m["s"], m["z"]], m.root.attrs)
        return m.emit(m.node("f").op, [q, *m.node("f").inputs[1:]], m.node("f").attrs)
