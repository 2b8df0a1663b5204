"""Pointwise ops with constants in a row become one.

    (x + a) + b -> x + (a + b)         (x * a) * b -> x * (a * b)
    x / c       -> x * (1 / c)         where 1 / c is exact, or in a pipeline for our backend
    max(x, 0)   -> Relu(x)             min(max(x, a), b), Clip(Clip(x)), Clip(Relu(x)), Relu(Clip(x)) -> Clip(x)

Constants are combined in float64 and rounded once.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...compiler.ir import Node, Value
from ..facts import broadcasts_into, is_float
from ..pattern import Const, Op, Scalar, scalar_of
from ..rewrite import Match, Rule, register_rule


@register_rule
class ConstantChain(Rule):
    """(x o a) o b -> x o (a o b) for float Add and Mul."""

    name: ClassVar[str] = "constant-chain"
    patterns: ClassVar[tuple[Op, ...]] = tuple(
        Op(op, Op(op, "x", Const("a"), commutative=True), Const("b"), commutative=True) for op in ("Add", "Mul")
    )

    def check(self, m: Match) -> str | None:
        if not is_float(m["x"]):
            return "not a float tensor"
        if m["x"].is_constant:
            return "all operands are constant"
        if not (broadcasts_into(m["a"].type, m["b"].type) or broadcasts_into(m["b"].type, m["a"].type)):
            return "the constants' product would be larger than both"
        return None

    def rewrite(self, m: Match) -> Value:
        a, b = m.array("a").astype(np.float64), m.array("b").astype(np.float64)
        both = a + b if m.root.op == "Add" else a * b
        return m.emit(m.root.op, [m["x"], m.constant(both, like=m["b"])])


@register_rule
class DivideByConstant(Rule):
    """x / c -> x * (1 / c) for a power of two c, where both are exact."""

    name: ClassVar[str] = "divide-exactly"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Div", "x", Const("c")),)

    def check(self, m: Match) -> str | None:
        if not is_float(m["x"]) or m["x"].is_constant:
            return "not a float tensor divided by a constant"
        mantissa, _ = np.frexp(m.array("c").astype(np.float64))
        return None if bool(np.all(np.abs(mantissa) == 0.5)) else "the divisor is no power of two"

    def rewrite(self, m: Match) -> Value:
        return m.emit("Mul", [m["x"], m.constant(1 / m.array("c").astype(np.float64), like=m["c"])])


@register_rule
class MultiplyByReciprocal(DivideByConstant):
    """x / c -> x * (1 / c), which may differ in the last bit."""

    name: ClassVar[str] = "divide-by-constant"

    def check(self, m: Match) -> str | None:
        if not is_float(m["x"]) or m["x"].is_constant:
            return "not a float tensor divided by a constant"
        c = np.abs(m.array("c").astype(np.float64))
        return None if bool(np.all((c > 1e-30) & (c < 1e30))) else "1 / c would not be a normal number"


@register_rule
class MaxAsRelu(Rule):
    """max(x, 0) -> Relu(x)."""

    name: ClassVar[str] = "max-as-relu"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Max", "x", Scalar(0.0, "zero"), commutative=True),
        Op("Clip", "x", Scalar(0.0, "zero")),
    )

    def check(self, m: Match) -> str | None:
        if not is_float(m["x"]) or m["x"].is_constant:
            return "not a float tensor"
        return None if broadcasts_into(m["zero"].type, m["x"].type) else "zero has more dims than x"

    def rewrite(self, m: Match) -> Value:
        return m.emit("Relu", [m["x"]])


_BOUNDED = (
    Op("Relu", "x", name="inner"),
    Op("Clip", "x", rest=True, name="inner"),
    Op("Min", "x", Scalar(), name="inner", commutative=True),
    Op("Max", "x", Scalar(), name="inner", commutative=True),
)


@register_rule
class MergeClips(Rule):
    """outer(inner(x)) -> Clip(x, lo, hi) for Clip, Relu, and Min and Max with a constant of one element.

    clip(clip(x, a, b), c, d) = clip(x, clip(a, c, d), clip(b, c, d)).
    """

    name: ClassVar[str] = "merge-clips"
    patterns: ClassVar[tuple[Op, ...]] = tuple(
        Op(
            op,
            inner,
            *((Scalar(),) if op in ("Min", "Max") else ()),
            rest=op == "Clip",
            commutative=op in ("Min", "Max"),
        )
        for op in ("Clip", "Relu", "Min", "Max")
        for inner in _BOUNDED
    )

    def check(self, m: Match) -> str | None:
        if not is_float(m["x"]):
            return "not a float tensor"
        for node in (m.node("inner"), m.root):
            if node.op == "Clip" and any(
                node.input(i) is not None and scalar_of(node.input(i)) is None for i in (1, 2)
            ):
                return f"a bound of {node.name} is not constant"
            if node.op in ("Min", "Max") and any(v is not None and v.is_constant and v.type.rank for v in node.inputs):
                return f"the bound of {node.name} has dims"
        return None

    def rewrite(self, m: Match) -> Value:
        (a, b), (c, d) = _bounds(m.node("inner")), _bounds(m.root)
        low, high = min(max(a, c), d), min(max(b, c), d)
        if low == 0 and high == np.inf:
            return m.emit("Relu", [m["x"]])
        bounds = [m.constant(v, dtype=m["x"].type.dtype) if np.isfinite(v) else None for v in (low, high)]
        return m.emit("Clip", [m["x"], *(bounds if bounds[1] is not None else bounds[:1])])


def _bounds(node: Node) -> tuple[float, float]:
    if node.op == "Relu":
        return 0.0, float("inf")
    if node.op == "Clip":
        low, high = scalar_of(node.input(1)), scalar_of(node.input(2))
        return -np.inf if low is None else low, np.inf if high is None else high
    number = next(n for n in map(scalar_of, node.inputs) if n is not None)
    return (number, np.inf) if node.op == "Max" else (-np.inf, number)
