"""Activations from pieces.

clip(a x + b, 0, 1)         -> HardSigmoid(x; a, b)       clip(x + 3, 0, 6) / 6 is HardSigmoid(x; 1/6, 1/2)
x HardSigmoid(x; 1/6, 1/2)  -> HardSwish(x)               (Howard et al. 2019)
x sigmoid(a x)              -> Swish(x; a)                SiLU for a = 1, quick GELU for a = 1.702
x tanh(softplus(x))         -> Mish(x)                    (Misra 2019)
max(x, a x), 0 <= a <= 1    -> LeakyRelu(x; a)
"""

from __future__ import annotations

import math
from typing import ClassVar

from ...compiler.ir import Value
from ..pattern import Op, Or, Scalar
from ..rewrite import Match, Rule, register_rule

_SHIFTED = Op("Add", "x", Scalar(3.0), commutative=True)
_CLIP6 = Or(
    (
        Op("Clip", _SHIFTED, Scalar(0.0), Scalar(6.0)),
        Op("Min", Op("Relu", _SHIFTED), Scalar(6.0), commutative=True),
    )
)


@register_rule
class HardSigmoidPieces(Rule):
    """clip(x + 3, 0, 6) / 6 -> HardSigmoid(x; 1/6, 1/2)."""

    name: ClassVar[str] = "hard-sigmoid"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Div", _CLIP6, Scalar(6.0)),
        Op("Mul", _CLIP6, Scalar(1 / 6), commutative=True),
    )

    def check(self, m: Match) -> str | None:
        return None if m["x"].type.dtype.is_float else "not a float tensor"

    def rewrite(self, m: Match) -> Value:
        return m.emit("HardSigmoid", [m["x"]], {"alpha": 1 / 6, "beta": 0.5})


@register_rule
class HardSwishSplit(HardSigmoidPieces):
    """x clip(x + 3, 0, 6) / 6 -> x HardSigmoid(x; 1/6, 1/2), whatever the order of the products."""

    name: ClassVar[str] = "hard-swish-split"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Div", Op("Mul", "y", _CLIP6, commutative=True), Scalar(6.0)),
        Op("Mul", Op("Mul", "y", _CLIP6, commutative=True), Scalar(1 / 6), commutative=True),
        Op("Mul", Op("Div", "y", Scalar(6.0)), _CLIP6, commutative=True),
        Op("Mul", Op("Mul", "y", Scalar(1 / 6), commutative=True), _CLIP6, commutative=True),
    )

    def rewrite(self, m: Match) -> Value:
        return m.emit("Mul", [m["y"], m.emit("HardSigmoid", [m["x"]], {"alpha": 1 / 6, "beta": 0.5})])


def _near(expected: float, absent: float) -> object:
    """A test of a float attribute whose default is `absent`."""
    return lambda found: math.isclose(absent if found is None else found, expected, rel_tol=1e-4)


@register_rule
class HardSwish(HardSigmoidPieces):
    """x HardSigmoid(x; 1/6, 1/2) -> HardSwish(x)."""

    name: ClassVar[str] = "hard-swish"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(
            "Mul",
            Op("HardSigmoid", "x", attrs={"alpha": _near(1 / 6, 0.2), "beta": _near(0.5, 0.5)}),
            "x",
            commutative=True,
        ),
    )

    def rewrite(self, m: Match) -> Value:
        return m.emit("HardSwish", [m["x"]])


@register_rule
class Swish(HardSigmoidPieces):
    """x sigmoid(a x) -> Swish(x; a)."""

    name: ClassVar[str] = "swish"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Mul", Op("Sigmoid", "x"), "x", commutative=True),
        Op("Mul", Op("Sigmoid", Op("Mul", "x", Scalar(name="a"), commutative=True)), "x", commutative=True),
    )

    def rewrite(self, m: Match) -> Value:
        return m.emit("Swish", [m["x"]], {"alpha": m.number("a") if "a" in m else 1.0})


@register_rule
class Mish(HardSigmoidPieces):
    """x tanh(softplus(x)) -> Mish(x)."""

    name: ClassVar[str] = "mish"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Mul", Op("Tanh", Op("Softplus", "x")), "x", commutative=True),)

    def rewrite(self, m: Match) -> Value:
        return m.emit("Mish", [m["x"]])


@register_rule
class LeakyRelu(HardSigmoidPieces):
    """max(x, a x) -> LeakyRelu(x; a) for 0 <= a <= 1."""

    name: ClassVar[str] = "leaky-relu"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Max", Op("Mul", "x", Scalar(name="a"), commutative=True), "x", commutative=True),
    )

    def check(self, m: Match) -> str | None:
        return super().check(m) or (None if 0 <= m.number("a") <= 1 else "the slope is not in [0, 1]")

    def rewrite(self, m: Match) -> Value:
        return m.emit("LeakyRelu", [m["x"]], {"alpha": m.number("a")})
