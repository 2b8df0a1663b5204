"""No-ops: f(x, ...) -> x where f surely changes neither elements nor shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

from ...compiler.ir import Node, Value
from ...compiler.ops.base import attr_int
from ..facts import broadcasts_into, known_ints, perm_of, same_shape, splat_of
from ..pattern import Op
from ..rewrite import Match, Rule, register_rule

_Source = Callable[[Node], "Value | None"]
"""The operand a node passes through unchanged, or None."""


def _first(node: Node) -> Value:
    return node.operand(0)


def _if_same_shape(node: Node) -> Value | None:
    x = node.operand(0)
    return x if same_shape(x.type, node.outputs[0].type) else None


def _only(node: Node) -> Value | None:
    return node.operand(0) if len(node.inputs) == 1 and len(node.outputs) == 1 else None


def _cast(node: Node) -> Value | None:
    x = node.operand(0)
    return x if x.type.dtype is node.outputs[0].type.dtype and x.type.dtype is node.attrs.get("to") else None


def _dropout(node: Node) -> Value | None:
    training = node.input(2)
    off = training is None or splat_of(training) == 0
    return node.operand(0) if off and len(node.outputs) == 1 else None


def _transpose(node: Node) -> Value | None:
    perm = perm_of(node)
    return node.operand(0) if perm == tuple(range(len(perm or ()))) else None


def _neutral(number: float, sides: tuple[int, ...]) -> _Source:
    """x op c -> x for a constant c of this number that does not widen x."""

    def source(node: Node) -> Value | None:
        if len(node.inputs) != 2:
            return None
        for side in sides:
            x, c = node.operand(1 - side), node.operand(side)
            if splat_of(c) == number and broadcasts_into(c.type, x.type) and x.type.dtype is node.outputs[0].type.dtype:
                return x
        return None

    return source


def _extremum(number: float) -> _Source:
    """Max(x), or Max(x, -inf); Min likewise."""
    neutral = _neutral(number, (0, 1))
    return lambda node: _only(node) or neutral(node)


def _slice(node: Node) -> Value | None:
    steps = node.input(4)
    return _if_same_shape(node) if steps is None or all(s == 1 for s in known_ints(steps) or [0]) else None


def _pad(node: Node) -> Value | None:
    pads = known_ints(node.input(1))
    return node.operand(0) if pads is not None and not any(pads) else None


def _tile(node: Node) -> Value | None:
    repeats = known_ints(node.input(1))
    return node.operand(0) if repeats is not None and all(r == 1 for r in repeats) else None


def _resize(node: Node) -> Value | None:
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize" or not _if_same_shape(node):
        return None
    if node.attrs.get("mode", "nearest") != "nearest" and node.attrs.get("antialias", 0):
        return None
    x = node.operand(0)
    scales = node.input(2)
    return x if scales is None or scales.type.shape == (0,) or splat_of(scales) == 1 else None


def _where(node: Node) -> Value | None:
    chosen = splat_of(node.operand(0))
    if chosen is None:
        return None
    x = node.operand(1 if chosen else 2)
    return x if same_shape(x.type, node.outputs[0].type) else None


def _pool(node: Node) -> Value | None:
    kernel = node.attrs.get("kernel_shape")
    strides, pads = node.attrs.get("strides", ()), node.attrs.get("pads", ())
    if not isinstance(kernel, tuple) or not isinstance(strides, tuple) or not isinstance(pads, tuple):
        return None
    trivial = all(k == 1 for k in kernel) and all(s == 1 for s in strides) and not any(pads)
    return node.operand(0) if trivial and len(node.outputs) == 1 else None


def _clip(node: Node) -> Value | None:
    return node.operand(0) if node.input(1) is None and node.input(2) is None else None


_SOURCES: dict[str, _Source] = {
    "Identity": _first,
    "Cast": _cast,
    "Dropout": _dropout,
    "Transpose": _transpose,
    "Reshape": _if_same_shape,
    "Flatten": _if_same_shape,
    "Squeeze": _if_same_shape,
    "Unsqueeze": _if_same_shape,
    "Expand": _if_same_shape,
    "Slice": _slice,
    "Split": _only,
    "Pad": _pad,
    "Tile": _tile,
    "Resize": _resize,
    "Where": _where,
    "Concat": _only,
    "Sum": _only,
    "Mean": _only,
    "Max": _extremum(-math.inf),
    "Min": _extremum(math.inf),
    "Clip": _clip,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Add": _neutral(0, (0, 1)),
    "Sub": _neutral(0, (1,)),
    "Mul": _neutral(1, (0, 1)),
    "Div": _neutral(1, (1,)),
    "Pow": _neutral(1, (1,)),
    "Or": _neutral(0, (0, 1)),
    "And": _neutral(1, (0, 1)),
}


@register_rule
class NoOp(Rule):
    """f(x, ...) -> x."""

    name: ClassVar[str] = "no-op"
    patterns: ClassVar[tuple[Op, ...]] = (Op(tuple(_SOURCES), rest=True),)

    def check(self, m: Match) -> str | None:
        return None if _SOURCES[m.root.op](m.root) else f"{m.root.op} {m.root.name} may change its operand"

    def rewrite(self, m: Match) -> Value:
        source = _SOURCES[m.root.op](m.root)
        if source is None:
            raise ValueError("rewrite called where check failed")
        return source


@register_rule
class ConcatEmpty(Rule):
    """Concat(x, empty, y) -> Concat(x, y)."""

    name: ClassVar[str] = "concat-empty"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Concat", rest=True),)

    def check(self, m: Match) -> str | None:
        kept = self._kept(m)
        return None if 0 < len(kept) < len(m.root.inputs) else "no operand is empty along the axis"

    def rewrite(self, m: Match) -> Value:
        return m.emit("Concat", self._kept(m), m.root.attrs)

    def _kept(self, m: Match) -> list[Value | None]:
        axis = attr_int(m.root, "axis", 0)
        return [v for v in m.root.inputs if v is not None and not (v.type.shape and v.type.shape[axis] == 0)]


@register_rule
class SplitConcat(Rule):
    """Concat(Split(x)) -> x where all parts come back in order on the same axis."""

    name: ClassVar[str] = "split-concat"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Concat", Op("Split", "x", name="split", rest=True, shared=True), rest=True),
    )

    def check(self, m: Match) -> str | None:
        split, rank = m.node("split"), len(m["x"].type.shape or ())
        if tuple(m.root.inputs) != split.outputs:
            return "the parts are not concatenated in order"
        axes = [node.attrs.get("axis", 0) for node in (split, m.root)]
        same = rank and all(isinstance(a, int) for a in axes) and axes[0] % rank == axes[1] % rank  # type: ignore[operator]
        return None if same else "split and concatenated along different axes"

    def rewrite(self, m: Match) -> Value:
        return m["x"]


@register_rule
class DoubleInverse(Rule):
    """f(f(x)) -> x for Neg and Not; f(f(x)) -> f(x) for Relu, Abs, Floor, Ceil, Round."""

    name: ClassVar[str] = "double-inverse"
    _INVERSES: ClassVar[tuple[str, ...]] = ("Neg", "Not")
    _IDEMPOTENT: ClassVar[tuple[str, ...]] = ("Relu", "Abs", "Floor", "Ceil", "Round", "Sign")
    patterns: ClassVar[tuple[Op, ...]] = tuple(
        Op(op, Op(op, "x", name="first", shared=True)) for op in (*_INVERSES, *_IDEMPOTENT)
    )

    def rewrite(self, m: Match) -> Value:
        return m["x"] if m.root.op in self._INVERSES else m.node("first").output
