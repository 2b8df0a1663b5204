"""GELU from pieces (Hendrycks and Gimpel 2016).

x/2 (1 + erf(x / sqrt 2))                             -> Gelu(x)
x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))         -> Gelu(x, approximate="tanh")
x sigmoid(1.702 x)                                    -> Swish(x, alpha=1.702)         (see swish.py)
"""

from __future__ import annotations

import math
from typing import ClassVar

from ...compiler.ir import Attr, Value
from ..pattern import Op, Or, Pattern, Scalar
from ..rewrite import Match, Rule, register_rule


def times(a: Pattern, b: Pattern) -> Op:
    return Op("Mul", a, b, commutative=True)


def plus(a: Pattern, b: Pattern) -> Op:
    return Op("Add", a, b, commutative=True)


def half_of(x: Pattern) -> Or:
    return Or((times(x, Scalar(0.5)), Op("Div", x, Scalar(2.0))))


def gated(gate: Pattern) -> tuple[Op, ...]:
    """x * gate / 2 in every order of the products."""
    return (
        times("x", Or((times(gate, Scalar(0.5)), Op("Div", gate, Scalar(2.0))))),
        times(half_of("x"), gate),
        times(times("x", gate), Scalar(0.5)),
        Op("Div", times("x", gate), Scalar(2.0)),
    )


_ERF = plus(
    Op("Erf", Or((Op("Div", "x", Scalar(math.sqrt(2))), times("x", Scalar(math.sqrt(0.5)))))),
    Scalar(1.0),
)

_SQUARE = Or((times("x", "x"), Op("Pow", "x", Scalar(2.0))))
_CUBE = Or((Op("Pow", "x", Scalar(3.0)), times("x", _SQUARE)))
_CUBIC = Or(
    (
        times(_CUBE, Scalar(0.044715)),
        times("x", times(_SQUARE, Scalar(0.044715))),
        times(times("x", Scalar(0.044715)), _SQUARE),
        times(times(times("x", Scalar(0.044715)), "x"), "x"),
    )
)
_POLYNOMIAL = Or((plus("x", _CUBIC), times("x", plus(times(_SQUARE, Scalar(0.044715)), Scalar(1.0)))))
_SCALED = Or(
    (
        times(_POLYNOMIAL, Scalar(math.sqrt(2 / math.pi))),
        times(times("x", Scalar(math.sqrt(2 / math.pi))), plus(times(_SQUARE, Scalar(0.044715)), Scalar(1.0))),
    )
)
_TANH = plus(Op("Tanh", _SCALED), Scalar(1.0))


@register_rule
class GeluErf(Rule):
    """x/2 (1 + erf(x / sqrt 2)) -> Gelu(x)."""

    name: ClassVar[str] = "gelu-erf"
    patterns: ClassVar[tuple[Op, ...]] = gated(_ERF)
    attrs: ClassVar[dict[str, Attr]] = {}

    def check(self, m: Match) -> str | None:
        return None if m["x"].type.dtype.is_float else "not a float tensor"

    def rewrite(self, m: Match) -> Value:
        return m.emit("Gelu", [m["x"]], self.attrs)


@register_rule
class GeluTanh(GeluErf):
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) -> Gelu(x, approximate="tanh")."""

    name: ClassVar[str] = "gelu-tanh"
    patterns: ClassVar[tuple[Op, ...]] = gated(_TANH)
    attrs: ClassVar[dict[str, Attr]] = {"approximate": "tanh"}
