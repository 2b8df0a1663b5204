"""Affine maps per channel fold into the weights of a convolution or matrix product in front of them.

    s * (W x + b) + t -> (s W) x + (s b + t)        s, t per output channel: BatchNormalization, Mul, Div, Add, Sub
    W (s * x)         -> (W s) x                    s per input channel: Mul in front (zero padding stays zero)
W (x + c) + b     -> W x + (W c + b)            c per input channel: Add in front, nothing padded

All is computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...compiler.ir import Node, Value
from ..pattern import Const, Op
from ..rewrite import Match, Rule, register_rule

_Array = Any  # np.ndarray of float64, whose arithmetic numpy types as Any
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _linear(shared: bool = False) -> Op:
    """A Conv, ConvTranspose, Gemm or MatMul with constant weights."""
    return Op(_LINEAR, "x", Const("w"), name="linear", rest=True, shared=shared)


def channels_of(linear: Node) -> int | None:
    """Output channels of a node with constant 2-D (Gemm, MatMul) or convolution weights; None if it has not that."""
    shape = linear.operand(1).type.static_shape
    if linear.op == "Conv":
        return shape[0]
    if linear.op == "ConvTranspose":
        return shape[1] * _group(linear)
    if len(shape) != 2:
        return None
    return shape[0] if linear.attrs.get("transB", 0) else shape[1]


def channel_axis(linear: Node) -> int:
    """The axis of the output's channels: 1 of a convolution, else the last."""
    return 1 if linear.op in ("Conv", "ConvTranspose") else -1


def per_channel(array: _Array, channels: int, rank: int, axis: int) -> _Array | None:
    """A constant as float64 [channels], if it broadcasts over a tensor of `rank` as one number a channel; else None."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    axis %= rank
    if any(d != 1 for i, d in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    flat: _Array = np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,))
    return flat


def _group(linear: Node) -> int:
    group = linear.attrs.get("group", 1)
    assert isinstance(group, int)
    return group


def _scaled_weights(linear: Node, scale: _Array) -> _Array:
    weights = linear.operand(1).data
    assert weights is not None
    wide = weights.astype(np.float64)
    if linear.op == "Conv":
        return wide * scale.reshape(-1, *(1,) * (wide.ndim - 1))
    if linear.op == "ConvTranspose":  # [C_in, C_out / group, ...]; input channels are split by group too
        groups = _group(linear)
        parts = wide.reshape(groups, -1, *wide.shape[1:]) * scale.reshape(groups, 1, -1, *(1,) * (wide.ndim - 2))
        return parts.reshape(wide.shape)
    return wide * (scale[:, None] if linear.attrs.get("transB", 0) else scale)


def _refold(m: Match, scale: _Array, shift: _Array) -> Value:
    """The linear node with its output scaled and shifted per channel."""
    linear, channels = m.node("linear"), len(scale)
    weights = m["w"] if np.all(scale == 1) else m.constant(_scaled_weights(linear, scale), like=m["w"])
    old = linear.input(2)
    bias = np.zeros(channels)
    if old is not None and old.data is not None:
        bias = np.broadcast_to(old.data.astype(np.float64).reshape(-1), (channels,))
    beta = linear.attrs.get("beta", 1.0)
    assert isinstance(beta, (int, float))
    bias = beta * bias * scale + shift
    attrs = {k: v for k, v in linear.attrs.items() if k != "beta"}
    op = "Gemm" if linear.op == "MatMul" and np.any(bias) else linear.op
    if old is None and not np.any(bias):
        return m.emit(op, [m["x"], weights], attrs)
    return m.emit(op, [m["x"], weights, m.constant(bias, dtype=m["w"].type.dtype)], attrs)


def _cannot_fold(m: Match, shifted: bool) -> str | None:
    """Why a linear node takes no scale (and shift)."""
    linear = m.node("linear")
    channels = channels_of(linear)
    if channels is None or not m["w"].type.dtype.is_float:
        return "the weights are no float matrix"
    old = linear.input(2)
    if old is not None and (old.data is None or old.data.size not in (1, channels)):
        return "the bias is not one constant a channel"
    if old is not None and old.data is not None and old.data.ndim == 2 and old.data.shape[0] != 1:
        return "the bias is one number a row"
    if linear.op == "MatMul" and shifted and m["x"].type.shape is not None and m["x"].type.rank != 2:
        return "a MatMul of more than two dims takes no bias"
    if m["x"].type.shape is None:
        return "the rank is unknown"
    return None


@register_rule
class LinearBatchNorm(Rule):
    """BatchNorm(W x + b; gamma, beta, mean, var) = (a W) x + a (b - mean) + beta, a = gamma / sqrt(var + epsilon)."""

    name: ClassVar[str] = "linear-batch-norm"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("BatchNormalization", _linear(), Const("gamma"), Const("beta"), Const("mean"), Const("var")),
    )

    def check(self, m: Match) -> str | None:
        if m.root.attrs.get("training_mode", 0) or len(m.root.outputs) != 1:
            return "the batch norm is in training mode"
        linear = m.node("linear")
        if linear.op in ("Gemm", "MatMul") and m["x"].type.shape is not None and m["x"].type.rank != 2:
            return "the channels of the batch norm are not the columns of the matrix product"
        return _cannot_fold(m, shifted=True)

    def rewrite(self, m: Match) -> Value:
        gamma, beta, mean, var = (m.array(k).astype(np.float64) for k in ("gamma", "beta", "mean", "var"))
        scale = gamma / np.sqrt(var + batch_norm_epsilon(m.root))
        return _refold(m, scale, beta - scale * mean)


def batch_norm_epsilon(node: Node) -> float:
    epsilon = node.attrs.get("epsilon", 1e-5)
    assert isinstance(epsilon, (int, float))
    return float(epsilon)


@register_rule
class LinearAffine(Rule):
    """(W x + b) o c for o one of + - * / and a constant c, one number a channel."""

    name: ClassVar[str] = "linear-affine"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(("Add", "Mul"), _linear(), Const("c"), commutative=True),
        Op(("Sub", "Div"), _linear(), Const("c")),
    )

    def check(self, m: Match) -> str | None:
        reason = _cannot_fold(m, shifted=m.root.op in ("Add", "Sub"))
        if reason:
            return reason
        c = self._constant(m)
        if c is None:
            return f"%{m['c'].name} is not one number a channel"
        return "division by zero" if m.root.op == "Div" and not np.all(c) else None

    def rewrite(self, m: Match) -> Value:
        c = self._constant(m)
        assert c is not None
        one, zero = np.ones_like(c), np.zeros_like(c)
        scale, shift = {"Add": (one, c), "Sub": (one, -c), "Mul": (c, zero), "Div": (1 / np.where(c, c, 1), zero)}[
            m.root.op
        ]
        return _refold(m, scale, shift)

    def _constant(self, m: Match) -> _Array | None:
        linear = m.node("linear")
        shape, channels = linear.output.type.shape, channels_of(linear)
        if shape is None or channels is None:
            return None
        return per_channel(m.array("c"), channels, len(shape), channel_axis(linear))


@register_rule
class ScaledInput(Rule):
    """W (c * x) -> (W c) x for a constant c, one number an input channel."""

    name: ClassVar[str] = "scaled-input"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(_LINEAR, Op("Mul", "x", Const("c"), commutative=True), Const("w"), name="linear", rest=True),
    )

    def check(self, m: Match) -> str | None:
        if m["x"].type.shape is None or not m["w"].type.dtype.is_float or m["x"].is_constant:
            return "the rank of x is unknown, or it is constant"
        if m.root.attrs.get("transA", 0) or (m.root.op in ("MatMul", "Gemm") and m["w"].type.rank != 2):
            return "the weights are no plain matrix"
        return None if self._scale(m) is not None else f"%{m['c'].name} is not one number an input channel"

    def rewrite(self, m: Match) -> Value:
        scale, w = self._scale(m), m.array("w").astype(np.float64)
        assert scale is not None
        if m.root.op == "Conv":  # [C_out, C_in / group, ...]
            groups = _group(m.root)
            parts = w.reshape(groups, -1, *w.shape[1:]) * scale.reshape(groups, 1, -1, *(1,) * (w.ndim - 2))
            w = parts.reshape(w.shape)
        elif m.root.op == "ConvTranspose":
            w = w * scale.reshape(-1, *(1,) * (w.ndim - 1))
        else:
            w = w * (scale if m.root.attrs.get("transB", 0) else scale[:, None])
        return m.emit(m.root.op, [m["x"], m.constant(w, like=m["w"]), *m.root.inputs[2:]], m.root.attrs)

    def _scale(self, m: Match) -> _Array | None:
        shape = m.array("w").shape
        channels = {"Conv": shape[1] * _group(m.root), "ConvTranspose": shape[0]}.get(m.root.op)
        if channels is None:
            channels = shape[1] if m.root.attrs.get("transB", 0) else shape[0]
        return per_channel(m.array("c"), channels, m["x"].type.rank, channel_axis(m.root))


@register_rule
class ShiftedInput(Rule):
    """W (x + c) + b -> W x + (W c + b) for a Conv without padding or a Gemm, c one number an input channel."""

    name: ClassVar[str] = "shifted-input"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(("Conv", "Gemm"), Op("Add", "x", Const("c"), commutative=True), Const("w"), name="linear", rest=True),
    )

    def check(self, m: Match) -> str | None:
        reason = _cannot_fold(m, shifted=True)
        if reason or m["x"].is_constant or m.root.attrs.get("transA", 0):
            return reason or "x is constant or transposed"
        pads = m.root.attrs.get("pads", ())
        if m.root.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(pads):  # type: ignore[arg-type]
            return "the convolution pads with zeros, which are not shifted"
        return None if self._shift(m) is not None else f"%{m['c'].name} is not one number an input channel"

    def rewrite(self, m: Match) -> Value:
        shift = self._shift(m)
        assert shift is not None
        return _refold(m, np.ones_like(shift), shift)

    def _shift(self, m: Match) -> _Array | None:
        """W c, one number an output channel."""
        w, groups = m.array("w").astype(np.float64), _group(m.root)
        is_conv = m.root.op == "Conv"
        w = w if is_conv or m.root.attrs.get("transB", 0) else w.T  # [C_out, C_in / group, ...]
        c = per_channel(m.array("c"), w.shape[1] * groups, m["x"].type.rank, channel_axis(m.root))
        if c is None:
            return None
        taps = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1).sum(axis=3)
        alpha = 1.0 if is_conv else m.root.attrs.get("alpha", 1.0)
        return alpha * np.einsum("goi,gi->go", taps, c.reshape(groups, -1)).reshape(-1)


@register_rule
class BatchNormAffine(Rule):
    """BatchNorm(x; gamma, beta, mean, var) -> a x + (beta - a mean): pointwise, for a backend that fuses it."""

    name: ClassVar[str] = "batch-norm-affine"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("BatchNormalization", "x", Const("gamma"), Const("beta"), Const("mean"), Const("var")),
    )

    def check(self, m: Match) -> str | None:
        if m.root.attrs.get("training_mode", 0) or len(m.root.outputs) != 1:
            return "the batch norm is in training mode"
        return None if m["x"].type.shape is not None and m["x"].type.rank >= 2 else "the rank is unknown"

    def rewrite(self, m: Match) -> Value:
        gamma, beta, mean, var = (m.array(k).astype(np.float64) for k in ("gamma", "beta", "mean", "var"))
        scale = gamma / np.sqrt(var + batch_norm_epsilon(m.root))
        shape = (-1, *(1,) * (m["x"].type.rank - 2))
        dtype = m["x"].type.dtype
        scaled = m.emit("Mul", [m["x"], m.constant(scale.reshape(shape), dtype=dtype)])
        return m.emit("Add", [scaled, m.constant((beta - scale * mean).reshape(shape), dtype=dtype)])
