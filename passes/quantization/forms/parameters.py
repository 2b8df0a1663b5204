"""One form for the operands of QuantizeLinear (Q) and DequantizeLinear (D).

Q(x; s[1], z[1])            -> Q(x; s, z)                 parameters of one element are scalars
Q(x; s), D(q; s)            -> Q(x; s, 0), D(q; s, 0)     the zero point of a byte is written out
D(w; s, z)                  -> D(w - z; s)                w constant: int8 without zero point, where w - z fits
f(D(w; s))                  -> D(f(w); s)                 w constant, f a transposition or a view
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ....compiler.ir import Attr, Value
from ....compiler.ops.base import attr_int
from ....compiler.types import DType
from ...facts import VIEWS, perm_of
from ...pattern import Const, Op
from ...rewrite import Match, Rule, register_rule
from .affine import BYTES, is_single, scalar


@register_rule
class ScalarParameters(Rule):
    """Scales and zero points of shape [1] become scalars."""

    name: ClassVar[str] = "scalar-parameters"
    patterns: ClassVar[tuple[Op, ...]] = (Op(("QuantizeLinear", "DequantizeLinear"), rest=True),)

    def check(self, m: Match) -> str | None:
        given = [v for v in m.root.inputs[1:] if v is not None]
        if attr_int(m.root, "block_size", 0) or not all(is_single(v) for v in given):
            return "a scale has several elements"
        return None if any(v.type.rank for v in given) else "they are scalars already"

    def rewrite(self, m: Match) -> Value:
        parameters = [None if v is None else scalar(m, v) for v in m.root.inputs[1:]]
        attrs = {k: v for k, v in m.root.attrs.items() if k != "axis"}
        return m.emit(m.root.op, [m.root.operand(0), *parameters], attrs)


@register_rule
class ExplicitZeroPoint(Rule):
    """A zero point left out of a Q or D of bytes is written."""

    name: ClassVar[str] = "explicit-zero-point"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("QuantizeLinear", "x", "s"),
        Op("DequantizeLinear", "x", "s"),
    )

    def check(self, m: Match) -> str | None:
        quantized = m.root.output if m.root.op == "QuantizeLinear" else m["x"]
        if quantized.is_constant or quantized.type.dtype not in BYTES:
            return "a constant, or no bytes"
        return None if m["s"].type.is_static else "the number of scales is not known"

    def rewrite(self, m: Match) -> Value:
        quantized = m.root.output if m.root.op == "QuantizeLinear" else m["x"]
        zero = m.constant(np.zeros(m["s"].type.static_shape, quantized.type.dtype.numpy))
        attrs = dict(m.root.attrs)
        if m.root.op == "QuantizeLinear":
            attrs.pop("output_dtype", None)  # the zero point says it now
        return m.emit(m.root.op, [m["x"], m["s"], zero], attrs)


@register_rule
class SignedWeights(Rule):
    """A constant of bytes that fits int8 without its zero point is one."""

    name: ClassVar[str] = "signed-weights"
    patterns: ClassVar[tuple[Op, ...]] = (Op("DequantizeLinear", Const("w"), "s", Const("z")),)

    def check(self, m: Match) -> str | None:
        if attr_int(m.root, "block_size", 0):
            return "the scale is blocked"
        if m["w"].type.dtype not in (*BYTES, DType.I32) or m["s"].type.shape is None:
            return "no bytes, or the rank of the scale is not known"
        centred = self._centred(m)
        bounds = np.iinfo(np.int32 if m["w"].type.dtype is DType.I32 else np.int8)
        fits = centred.size == 0 or (centred.min() >= bounds.min and centred.max() <= bounds.max)
        return None if fits else "the weights less their zero point do not fit"

    def rewrite(self, m: Match) -> Value:
        dtype = DType.I32 if m["w"].type.dtype is DType.I32 else DType.I8
        if m["w"].type.dtype is dtype and not m.array("z").any():
            weights = m["w"]
        else:
            weights = m.constant(self._centred(m).astype(dtype.numpy))
        return m.emit("DequantizeLinear", [weights, m["s"]], m.root.attrs)

    def _centred(self, m: Match) -> np.ndarray:
        wide = np.int64 if m["w"].type.dtype is DType.I32 else np.int16
        axis = attr_int(m.root, "axis", 1)
        centred: np.ndarray = m.array("w").astype(wide) - along(m.array("z").astype(wide), axis, m["w"].type.rank)
        return centred


@register_rule
class MovedWeights(Rule):
    """A quantized constant is moved while compiling, so that its D stands beside the product that reads it."""

    name: ClassVar[str] = "moved-weights"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(("Transpose", *sorted(VIEWS)), Op("DequantizeLinear", Const("w"), "s", name="d", shared=True), rest=True),
        Op(
            ("Transpose", *sorted(VIEWS)),
            Op("DequantizeLinear", Const("w"), "s", Const("z"), name="d", shared=True),
            rest=True,
        ),
    )

    def check(self, m: Match) -> str | None:
        if attr_int(m.node("d"), "block_size", 0):
            return "the scale is blocked"
        if not m.root.output.type.is_static:
            return "the shape of the result is not known"
        return None if is_single(m["s"]) or self._axis(m) is not None else "the scales' axis is merged or split"

    def rewrite(self, m: Match) -> Value:
        shape = m.root.output.type.static_shape
        data = m.array("w").transpose(perm_of(m.root)) if m.root.op == "Transpose" else m.array("w").reshape(shape)
        attrs: dict[str, Attr] = dict(m.node("d").attrs)
        axis = self._axis(m)
        if not is_single(m["s"]) and axis is not None:
            attrs["axis"] = axis
        moved = m.constant(np.ascontiguousarray(data), like=m["w"])
        return m.emit("DequantizeLinear", [moved, *m.node("d").inputs[1:]], attrs)

    def _axis(self, m: Match) -> int | None:
        """Where the axis of the scales is in the result; None if it is not there as a whole."""
        rank = m["w"].type.rank
        axis = attr_int(m.node("d"), "axis", 1) % max(rank, 1)
        if m.root.op == "Transpose":
            perm = perm_of(m.root) or ()
            return perm.index(axis) if axis in perm else None
        return same_axis(m["w"].type.static_shape, axis, m.root.output.type.static_shape)


def along(parameter: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A scalar or vector shaped to broadcast along `axis` of a tensor of `rank`."""
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * rank
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def same_axis(source: Sequence[int], axis: int, target: Sequence[int]) -> int | None:
    """The axis of `target`, a view of `source`, that counts the same slices as `axis` of `source`; None if none."""
    before = math.prod(source[:axis])
    for index, size in enumerate(target):
        if size == source[axis] and math.prod(target[:index]) == before:
            return index
    return None
