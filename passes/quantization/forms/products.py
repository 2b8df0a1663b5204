"""Products of bytes less their zero points, by integer ops that know no zero point.

    sum((x - z_x) (w - z_w)) = sum(x d) - z_x sum(d) + c sum(x - z_x)          w - z_w = d + c, d int8

-z_x sum(d) is the bias of the integer op: a constant, or a few numbers computed where z_x is known at run time only. c,
one number an output channel, is 0 where w - z_w fits int8; else the last sum is one more integer product, with ones.
All in int32 modulo 2^32, so it is exact wherever the result itself fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ....compiler.ir import Node, Value
from ....compiler.ops.base import attr_int, attr_ints, attr_str
from ....compiler.ops.nhwc import to_nhwc
from ....compiler.types import DType
from ...rewrite import Match
from .affine import scalar


@dataclass(frozen=True)
class Weights:
    """w - z_w = data + shift: int8 `data`, int32 `shift` of one number a channel (`axis`), None where all are 0."""

    data: np.ndarray
    shift: np.ndarray | None

    @staticmethod
    def of(weights: np.ndarray, zero: np.ndarray | None, axis: int) -> Weights:
        """Weights of uint8 or int8 with a zero point for the tensor or a channel."""
        wide = np.moveaxis(weights.astype(np.int32), axis, 0)
        point = np.zeros(1, np.int32) if zero is None else zero.reshape(-1).astype(np.int32)
        point = np.broadcast_to(point, (len(wide),))
        centred = wide.reshape(len(wide), -1) - point[:, None]
        fits = ((centred >= -128) & (centred <= 127)).all(1)
        offset = np.where(fits, point, 128 if weights.dtype == np.uint8 else 0)
        data = wide - offset.reshape(-1, *[1] * (wide.ndim - 1))
        shift = (offset - point).astype(np.int32)
        signed = np.ascontiguousarray(np.moveaxis(data, 0, axis).astype(np.int8))
        return Weights(signed, shift if shift.any() else None)


def matmul_product(m: Match, x: Value, zero: Value | None, weights: Weights) -> Value:
    """int32 [..., M, N]: sum over K of (x - zero) (w - z_w); x uint8 [..., M, K], weights [K, N]."""
    point = None if zero is None or _is_zero(zero) else scalar(m, zero)

    def product(w: np.ndarray) -> Value:
        return m.emit("optc.MatMulInteger", [x, m.constant(w), _bias(m, point, w.sum(0, dtype=np.int64))])

    return _with_shift(m, product, weights, np.ones((len(weights.data), 1), np.int8))


def conv_product(m: Match, x: Value, zero: Value | None, weights: Weights, conv: Node) -> Value:
    """int32 [N, spatial..., M]: sum over taps of (x - zero) (w - z_w), to which padding adds nothing.

    x is uint8 [N, C, spatial...], the weights are [M, C / group, kernel...]; `conv` has a Conv's attributes.
    """
    rank = x.type.rank
    last = m.emit("Transpose", [x], {"perm": to_nhwc(rank)})
    point = None if zero is None or _is_zero(zero) else scalar(m, zero)
    pad = point if _may_pad(conv) else None

    def product(w: np.ndarray) -> Value:
        bias = _bias(m, point, w.sum(tuple(range(1, rank)), dtype=np.int64))
        return m.emit("optc.ConvInteger", [last, m.constant(w), bias, pad], conv.attrs)

    channels = 1 if attr_int(conv, "group", 1) == 1 else len(weights.data)
    return _with_shift(m, product, weights, np.ones((channels, *weights.data.shape[1:]), np.int8))


def _with_shift(m: Match, product: Callable[[np.ndarray], Value], weights: Weights, ones: np.ndarray) -> Value:
    total = product(weights.data)
    if weights.shift is None:
        return total
    return m.emit("Add", [total, m.emit("Mul", [product(ones), m.constant(weights.shift)])])


def _bias(m: Match, zero: Value | None, sums: np.ndarray) -> Value | None:
    """-zero * sums in int32, nothing if that is 0."""
    if zero is None or not sums.any():
        return None
    if zero.data is not None:
        return m.constant((-int(zero.data) * sums).astype(np.int32))
    return m.emit("Mul", [m.emit("Cast", [zero], {"to": DType.I32}), m.constant((-sums).astype(np.int32))])


def _is_zero(zero: Value) -> bool:
    return zero.data is not None and not zero.data.any()


def _may_pad(conv: Node) -> bool:
    return attr_str(conv, "auto_pad", "NOTSET").startswith("SAME") or any(attr_ints(conv, "pads") or ())
