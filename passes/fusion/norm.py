"""Normalizations from pieces, as PyTorch and Paddle export them.

    d = x - mean(x);  d / sqrt(mean(d^2) + e)    -> LayerNormalization(x, 1; e)     (Ba et al. 2016)
    x / sqrt(mean(x^2) + e)                      -> RMSNormalization(x, 1; e)       (Zhang and Sennrich 2019)
    g * Norm(x, s)                               -> Norm(x, g s)
    LayerNormalization(x, s) + b                 -> LayerNormalization(x, s, b)

Means are over the last dim (or the last few); the weight is a constant of the normalized dims.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...compiler.ir import Node, Value
from ...compiler.types import DType
from ..facts import axes_of
from ..pattern import Const, Op, Or, Pattern, Scalar
from ..rewrite import Match, Rule, register_rule


def _square(x: Pattern) -> Or:
    return Or((Op("Pow", x, Scalar(2.0)), Op("Mul", x, x)))


def _root(mean_square: Pattern) -> Or:
    shifted = Op("Add", mean_square, Scalar(name="epsilon"), commutative=True)
    return Or((Op("Sqrt", shifted), Op("Pow", shifted, Scalar(0.5))))


def _divided(x: Pattern, divisor: Pattern) -> tuple[Op, ...]:
    return (
        Op("Div", x, divisor),
        Op("Mul", x, Op("Reciprocal", divisor)),
        Op("Mul", x, Op("Div", Scalar(1.0), divisor)),
    )


_CENTRED = Op("Sub", "x", Op("ReduceMean", "x", name="mean", rest=True), name="d")
_VARIANCE = Op("ReduceMean", _square("d"), name="square", rest=True)
_MEAN_SQUARE = Op("ReduceMean", _square("x"), name="square", rest=True)


class _Norm(Rule):
    """What the two norms share: the axes must be the last ones, of known extent."""

    op: ClassVar[str]
    means: ClassVar[tuple[str, ...]]

    def check(self, m: Match) -> str | None:
        shape = m["x"].type.shape
        if shape is None or m["x"].type.dtype not in (DType.F32, DType.F64):
            return "the rank is unknown, or not float32"
        first = {_first_axis(m.node(mean), len(shape)) for mean in self.means}
        if len(first) != 1 or None in first:
            return "the means are not over the same last dims, dims kept"
        if any(not isinstance(d, int) for d in shape[self._axis(m) :]):
            return "a normalized dim is dynamic"
        return None if m.number("epsilon") >= 0 else "epsilon is negative"

    def rewrite(self, m: Match) -> Value:
        axis = self._axis(m)
        weight = np.ones([int(d) for d in m["x"].type.dims[axis:]])
        inputs = [m["x"], m.constant(weight, dtype=m["x"].type.dtype)]
        attrs = {"axis": axis - m["x"].type.rank, "epsilon": m.number("epsilon")}
        return m.emit(self.op, inputs, attrs)  # type: ignore[arg-type]

    def _axis(self, m: Match) -> int:
        axis = _first_axis(m.node(self.means[0]), m["x"].type.rank)
        assert axis is not None
        return axis


def _first_axis(mean: Node, rank: int) -> int | None:
    """The first of the axes a ReduceMean reduces, if they are the last ones and are kept as 1."""
    axes = axes_of(mean)
    if not axes or mean.attrs.get("keepdims", 1) != 1:
        return None
    axes = sorted(a % rank for a in axes)
    return axes[0] if axes == list(range(axes[0], rank)) else None


@register_rule
class LayerNorm(_Norm):
    """(x - mean) / sqrt(mean((x - mean)^2) + e) -> LayerNormalization(x, 1; e)."""

    name: ClassVar[str] = "layer-norm"
    op: ClassVar[str] = "LayerNormalization"
    means: ClassVar[tuple[str, ...]] = ("mean", "square")
    patterns: ClassVar[tuple[Op, ...]] = _divided(_CENTRED, _root(_VARIANCE))


@register_rule
class RmsNorm(_Norm):
    """x / sqrt(mean(x^2) + e) -> RMSNormalization(x, 1; e)."""

    name: ClassVar[str] = "rms-norm"
    op: ClassVar[str] = "RMSNormalization"
    means: ClassVar[tuple[str, ...]] = ("square",)
    patterns: ClassVar[tuple[Op, ...]] = _divided("x", _root(_MEAN_SQUARE))


def _weight_misfit(m: Match, name: str) -> str | None:
    """Why a constant is no weight of the matched norm's normalized dims."""
    norm = m.node("norm")
    if len(norm.outputs) != 1:
        return "the norm gives its mean too"
    dims, scale = m.array(name).shape, norm.operand(1).type.static_shape
    tail = dims[max(0, len(dims) - len(scale)) :]
    if m.array(name).size != 1 and (tail != scale or m.array(name).size != int(np.prod(scale))):
        return f"%{m[name].name} is not of the normalized dims"
    return "the constant has more dims" if len(dims) > norm.operand(0).type.rank else None


@register_rule
class NormScale(Rule):
    """g * Norm(x, s) -> Norm(x, g s), for a norm without bias."""

    name: ClassVar[str] = "norm-scale"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(
            "Mul",
            Op(("LayerNormalization", "RMSNormalization"), "x", Const("s"), name="norm"),
            Const("g"),
            commutative=True,
        ),
    )

    def check(self, m: Match) -> str | None:
        return _weight_misfit(m, "g")

    def rewrite(self, m: Match) -> Value:
        s, g = m.array("s").astype(np.float64), m.array("g").astype(np.float64)
        product = s * (g.reshape(s.shape) if g.size == s.size else g.reshape(()))
        return m.emit(m.node("norm").op, [m["x"], m.constant(product, like=m["g"])], m.node("norm").attrs)


@register_rule
class NormBias(Rule):
    """LayerNormalization(x, s) + b -> LayerNormalization(x, s, b)."""

    name: ClassVar[str] = "norm-bias"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Add", Op("LayerNormalization", "x", Const("s"), name="norm"), Const("b"), commutative=True),
    )

    def check(self, m: Match) -> str | None:
        return _weight_misfit(m, "b")

    def rewrite(self, m: Match) -> Value:
        bias = np.broadcast_to(m.array("b").reshape(-1), (m.array("s").size,)).reshape(m.array("s").shape)
        inputs = [m["x"], m["s"], m.constant(np.ascontiguousarray(bias), like=m["b"])]
        return m.emit("LayerNormalization", inputs, m.node("norm").attrs)
