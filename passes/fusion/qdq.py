"""QuantizeLinear (Q) and DequantizeLinear (D) that undo each other, or stand on the wrong side of what moves elements.

Q(D(x; s, z); s, z) -> x                    D(Q(D(x; s, z); s, z); s, z) -> D(x; s, z)
f(D(x))  -> D(f(x))                         f gives elements it was given (MaxPool: s > 0), s and z per tensor
Concat(D(x; s, z), D(y; s, z)) -> D(Concat(x, y); s, z)
Q(f(x))  -> f(Q(x))                         likewise, so that f moves bytes, not floats
Q(Concat(x, y)) -> Concat(Q(x), Q(y))       so a part on another grid is requantized by itself, the others are copied
Q(clip(x, low, high); s, z) -> Q(x; s, z)   the grid ends where the clip does: Q(low) and Q(high) are its ends
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ...compiler.ir import Node, Value
from ..pattern import Const, Op, Scalar, scalar_of
from ..rewrite import Match, Rule, register_rule

_MOVES = (
    "CenterCropPad", "DepthToSpace", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Resize", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "optc.DepthToSpace",
)  # fmt: skip
_POOLS = ("MaxPool", "optc.MaxPool")


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
        Op((*_MOVES, *_POOLS), Op("DequantizeLinear", "x", Const("s"), Const("z"), name="d", shared=True), rest=True),
    )

    def check(self, m: Match) -> str | None:
        if m["x"].is_constant:
            return "a quantized weight stays beside its reader"
        if m.array("s").size != 1 or m["s"].type.rank != 0:
            return "the scale is per channel"
        if m.root.op in _POOLS and m.number("s") <= 0:
            return "the largest byte is not the largest number"
        fill = _fill(m.root)
        if fill is not None and (fill.data is None or _dequantized(m, _quantized(m, fill)) != fill.data):
            return "what it pads with is not on the grid"
        return _refusal(m.root)

    def rewrite(self, m: Match) -> Sequence[Value]:
        inputs, fill = [m["x"], *m.root.inputs[1:]], _fill(m.root)
        if fill is not None:
            inputs[2] = m.constant(_quantized(m, fill))
        elif m.root.op == "Pad" and m.root.attrs.get("mode", "constant") == "constant":
            inputs[2:3] = [m["z"]]
        types = [v.type.with_dtype(m["x"].type.dtype) for v in m.root.outputs]
        m.emit(m.root.op, inputs, m.root.attrs, types=types)
        parts = zip(m.root.outputs, m.emitted[0].outputs, strict=True)
        attrs = m.node("d").attrs
        return [m.emit("DequantizeLinear", [part, m["s"], m["z"]], attrs) if v.uses else part for v, part in parts]


@register_rule
class SinkDequantizeThroughConcat(Rule):
    """Concat(D(x; s, z), D(y; s, z)) -> D(Concat(x, y); s, z)."""

    name: ClassVar[str] = "concat-dequantize"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Concat", Op("DequantizeLinear", "x", Const("s"), Const("z"), shared=True), rest=True),
    )

    def check(self, m: Match) -> str | None:
        if m.array("s").size != 1 or m["s"].type.rank != 0:
            return "the scale is per channel"
        makers = [v.producer for v in m.root.inputs if v is not None]
        if any(d is None or d.op != "DequantizeLinear" for d in makers):
            return "a part is no bytes"
        same = all(_same(d.input(i), m[name]) for d in makers if d is not None for i, name in ((1, "s"), (2, "z")))
        return None if same else "the parts are on different grids"

    def rewrite(self, m: Match) -> Value:
        bytes_ = [v.producer.operand(0) for v in m.root.inputs if v is not None and v.producer is not None]
        return m.emit("DequantizeLinear", [m.emit("Concat", bytes_, m.root.attrs), m["s"], m["z"]])


@register_rule
class HoistQuantize(Rule):
    """Q(f(x)) -> f(Q(x))."""

    name: ClassVar[str] = "hoist-quantize"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("QuantizeLinear", Op((*_MOVES, *_POOLS, "Concat"), "x", name="f", rest=True), Const("s"), Const("z")),
    )

    def check(self, m: Match) -> str | None:
        f = m.node("f")
        if f.op != "Concat" and m["x"].producer is not None and m["x"].producer.op == "DequantizeLinear":
            return "the operand is dequantized just before"
        if f.op == "Gather":
            return "Gather may read little of its table"
        if m.array("s").size != 1 or m["s"].type.rank != 0:
            return "the scale is per channel"
        if len(f.outputs) > 1 or _fill(f) is not None:
            return "it gives several tensors, or numbers of its own"
        if f.op in _POOLS and m.number("s") <= 0:
            return "the largest byte is not the largest number"
        return _refusal(f)

    def rewrite(self, m: Match) -> Value:
        f = m.node("f")
        floats = [v for v in (f.inputs if f.op == "Concat" else f.inputs[:1]) if v is not None]
        parts = [m.emit("QuantizeLinear", [v, m["s"], m["z"]], m.root.attrs) for v in floats]
        rest = list(f.inputs[len(floats) :])
        if f.op == "Pad" and f.attrs.get("mode", "constant") == "constant":
            rest[1:2] = [m["z"]]
        return m.emit(f.op, [*parts, *rest], f.attrs)


def _refusal(node: Node) -> str | None:
    """Why a node does more than give elements that it was given."""
    if node.op == "Resize" and node.attrs.get("mode", "nearest") != "nearest":
        return "Resize interpolates"
    if node.op in _POOLS and any(v.uses for v in node.outputs[1:]):
        return "the indices are asked for"
    return None


def _fill(node: Node) -> Value | None:
    """What a Pad is told to pad with; None where that is 0, or elements of its own operand."""
    return node.input(2) if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant" else None


def _quantized(m: Match, number: Value) -> np.ndarray:
    dtype = m["x"].type.dtype.numpy
    info, value = np.iinfo(dtype), np.float32(scalar_of(number) or 0.0)
    steps = np.rint(value / np.float32(m.number("s"))) + m.number("z")
    return np.array(np.clip(steps, info.min, info.max), dtype)


def _dequantized(m: Match, quantized: np.ndarray) -> float:
    return float(np.float32(int(quantized) - int(m.number("z"))) * np.float32(m.number("s")))


def _same(a: Value | None, b: Value) -> bool:
    return a is not None and a.data is not None and a.type == b.type and np.array_equal(a.data, np.asarray(b.data))


@register_rule
class ClipIntoQuantize(Rule):
    """Q(clip(x, low, high)) -> Q(x): rounding is monotonic, so the clip limits Q(x) to Q(low) and Q(high)."""

    name: ClassVar[str] = "clip-into-quantize"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("QuantizeLinear", Op("Relu", "x"), Scalar(name="s"), Const("z")),
        Op("QuantizeLinear", Op("Clip", "x", name="clip", rest=True), Scalar(name="s"), Const("z")),
    )

    def check(self, m: Match) -> str | None:
        if m.array("z").size != 1:
            return "the zero point is per channel"
        low, high = _bounds(m.node("clip")) if "clip" in m else (0.0, np.inf)
        if low is None or high is None:
            return "a bound is no constant"
        info = np.iinfo(m.root.output.type.dtype.numpy)
        with np.errstate(invalid="ignore", over="ignore"):
            ends = [np.rint(np.float32(end) / np.float32(m.number("s"))) + m.number("z") for end in (low, high)]
        return None if ends[0] <= info.min and ends[1] >= info.max else "the grid is wider than what is clipped to"

    def rewrite(self, m: Match) -> Value:
        return m.emit("QuantizeLinear", [m["x"], m["s"], m["z"]], m.root.attrs)


def _bounds(clip: Node) -> tuple[float | None, float | None]:
    """What a Clip clips to; None for a bound that is not constant."""
    low, high = clip.input(1), clip.input(2)
    return -np.inf if low is None else scalar_of(low), np.inf if high is None else scalar_of(high)
