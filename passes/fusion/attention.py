"""Attention from pieces, which spares the score matrix (Vaswani et al. 2017).

    softmax(c (q k^T) + mask) v             -> optc.Attention(q, k, v, mask; c)
    softmax(where(keep, c (q k^T), low)) v  -> optc.Attention(q, k, v, keep; c, low)
    Attention(a q, b k, v; c)               -> Attention(q, k, v; a b c)                        a, b numbers
    Attention(T q, T k, T v), T Attention   -> Attention with BSHD layouts                     T swaps heads and rows
    Attention(q, repeat k, repeat v)        -> Attention(q, k, v)                               grouped queries

The first two leave a transpose of k^T, which cancels with the one that made it.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...compiler.ir import Attr, Node, Value
from ...compiler.ops.fused import BHSD, BSHD
from ...compiler.types import DType, same_dim
from ..facts import broadcasts_into, perm_of, same_shape
from ..pattern import Op, Or, Scalar
from ..rewrite import Match, Rule, register_rule

_SWAP = (0, 2, 1, 3)
_SCORES = Op("MatMul", "q", "kt", name="scores")
_SCALED = Or(
    (
        _SCORES,
        Op("Mul", _SCORES, Scalar(name="factor"), commutative=True),
        Op("Div", _SCORES, Scalar(name="divisor")),
    )
)
_MASKED = Or(
    (
        _SCALED,
        Op("Add", _SCALED, "mask", commutative=True),
        Op("Where", "keep", _SCALED, Scalar(name="low")),
        Op("Where", "drop", Scalar(name="low"), _SCALED),
    )
)


@register_rule
class AttentionPieces(Rule):
    """MatMul, scale, mask, Softmax, MatMul -> optc.Attention, of rank 4, or 3 (batch and heads as one dim)."""

    name: ClassVar[str] = "attention"
    patterns: ClassVar[tuple[Op, ...]] = (Op("MatMul", Op("Softmax", _MASKED, name="softmax"), "v"),)

    def check(self, m: Match) -> str | None:
        types = [m[k].type for k in ("q", "kt", "v")]
        if any(t.shape is None or t.dtype not in (DType.F32, DType.F16, DType.BF16) for t in types):
            return "q, k or v is no float tensor of known rank"
        rank = types[0].rank
        if rank not in (3, 4) or any(t.rank != rank for t in types):
            return "q, k and v do not all have rank 3 or 4"
        if m.node("softmax").attrs.get("axis", -1) not in (-1, rank - 1):
            return "the softmax is not over the keys"
        leading = [t.dims[: rank - 2] for t in types]
        if not all(same_dim(a, b) for other in leading[1:] for a, b in zip(leading[0], other, strict=True)):
            return "batch or heads are broadcast"
        scores = m.node("scores").output.type
        if not same_shape(m.node("softmax").output.type, scores):
            return "the mask has more dims than the scores"
        mask = self._mask(m)
        if mask is not None and not broadcasts_into(mask.type, scores):
            return f"mask %{mask.name} may be larger than the scores"
        if "factor" in m or "divisor" in m:
            number = m["factor"] if "factor" in m else m["divisor"]
            return None if broadcasts_into(number.type, scores) else "the scale has more dims than the scores"
        return None

    def rewrite(self, m: Match) -> Value:
        rank = m["q"].type.rank
        scale = 1.0 / m.number("divisor") if "divisor" in m else m.number("factor") if "factor" in m else 1.0
        attrs: dict[str, Attr] = {"scale": scale}
        mask = self._mask(m)
        if mask is not None and "mask" not in m:
            attrs["mask_value"] = m.number("low")
            if "drop" in m:
                mask = m.emit("Not", [mask])
        q, kt, v = (self._rank4(m, m[k]) for k in ("q", "kt", "v"))
        k = m.emit("Transpose", [kt], {"perm": (0, 1, 3, 2)})
        if mask is not None and mask.type.rank == 3 and rank == 3:
            mask = self._rank4(m, mask)
        y = m.emit("optc.Attention", [q, k, v] if mask is None else [q, k, v, mask], attrs)
        return y if rank == 4 else m.emit("Squeeze", [y, m.constant(np.array([1], np.int64))])

    @staticmethod
    def _mask(m: Match) -> Value | None:
        return next((m[k] for k in ("mask", "keep", "drop") if k in m), None)

    @staticmethod
    def _rank4(m: Match, value: Value) -> Value:
        return value if value.type.rank == 4 else m.emit("Unsqueeze", [value, m.constant(np.array([1], np.int64))])


@register_rule
class AttentionScale(Rule):
    """Attention(a q, b k, v; c) -> Attention(q, k, v; a b c)."""

    name: ClassVar[str] = "attention-scale"
    patterns: ClassVar[tuple[Op, ...]] = tuple(
        Op("optc.Attention", *operands, rest=True)
        for scaled in (Op("Mul", "x", Scalar(name="a"), commutative=True), Op("Div", "x", Scalar(name="a"), name="div"))
        for operands in ((scaled, "other"), ("other", scaled))
    )

    def check(self, m: Match) -> str | None:
        if "div" in m and m.number("a") == 0:
            return "division by zero"
        return None if broadcasts_into(m["a"].type, m["x"].type) else "the factor has more dims"

    def rewrite(self, m: Match) -> Value:
        scale, a = m.root.attrs["scale"], m.number("a")
        assert isinstance(scale, (int, float))
        operands = [m["x"], m["other"]] if m.root.operand(1) is m["other"] else [m["other"], m["x"]]
        attrs = {**m.root.attrs, "scale": scale / a if "div" in m else scale * a}
        return m.emit("optc.Attention", [*operands, *m.root.inputs[2:]], attrs)


@register_rule
class AttentionLayout(Rule):
    """A Transpose that swaps heads and rows in front of q, k or v goes into the attention's layouts."""

    name: ClassVar[str] = "attention-layout"
    patterns: ClassVar[tuple[Op, ...]] = tuple(
        Op("optc.Attention", *(("q", "k", "v")[:slot]), Op("Transpose", "x", name="t", shared=True), rest=True)
        for slot in range(3)
    )

    def check(self, m: Match) -> str | None:
        return None if perm_of(m.node("t")) == _SWAP else "the transpose does more than swap heads and rows"

    def rewrite(self, m: Match) -> Value:
        inputs, attrs = list(m.root.inputs), dict(m.root.attrs)
        for slot, name in enumerate("qkv"):
            if inputs[slot] is m.node("t").output:
                inputs[slot] = m["x"]
                attrs[f"{name}_layout"] = _other(m.root, f"{name}_layout")
        return m.emit("optc.Attention", inputs, attrs)


def _other(node: Node, key: str) -> str:
    return BSHD if node.attrs.get(key, BHSD) == BHSD else BHSD


@register_rule
class AttentionOutputLayout(Rule):
    """A Transpose behind an attention that swaps heads and rows goes into its output's layout."""

    name: ClassVar[str] = "attention-output-layout"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Transpose", Op("optc.Attention", name="attention", rest=True)),
    )  # fmt: skip

    def check(self, m: Match) -> str | None:
        return None if perm_of(m.root) == _SWAP else "the transpose does more than swap heads and rows"

    def rewrite(self, m: Match) -> Value:
        node = m.node("attention")
        return m.emit("optc.Attention", node.inputs, {**node.attrs, "y_layout": _other(node, "y_layout")})


def _repeated(name: str) -> Op:
    """[B, H_kv, S, D] repeated to [B, H_kv * n, S, D], each head n times in a row."""
    wide = Op("Expand", Op("Unsqueeze", name, "axes", shared=True), f"{name}_shape", shared=True)
    return Op("Reshape", wide, f"{name}_out", shared=True)


@register_rule
class GroupedQuery(Rule):
    """Attention(q, repeat(k), repeat(v)) -> Attention(q, k, v), which reads each key head for several query heads."""

    name: ClassVar[str] = "grouped-query"
    patterns: ClassVar[tuple[Op, ...]] = (Op("optc.Attention", "q", _repeated("k"), _repeated("v"), rest=True),)

    def check(self, m: Match) -> str | None:
        if any(m.root.attrs.get(f"{k}_layout", BHSD) != BHSD for k in "kv"):
            return "k or v is not laid out BHSD"
        for slot, name in ((1, "k"), (2, "v")):
            reshaped = m.root.operand(slot)
            narrow, wide = m[name].type.shape, reshaped.producer.operand(0).type.shape if reshaped.producer else None
            out = reshaped.type.shape
            if narrow is None or wide is None or out is None or (len(narrow), len(wide), len(out)) != (4, 5, 4):
                return "the repeated heads do not have rank 4, 5, 4"
            kept = [(wide[0], narrow[0]), (wide[1], narrow[1]), (wide[3], narrow[2]), (wide[4], narrow[3])]
            kept += [(out[0], narrow[0]), (out[1], wide[1] * wide[2]), (out[2], narrow[2]), (out[3], narrow[3])]
            if not all(same_dim(a, b) for a, b in kept):
                return "more than the heads are repeated"
        return None

    def rewrite(self, m: Match) -> Value:
        return m.emit("optc.Attention", [m["q"], m["k"], m["v"], *m.root.inputs[3:]], m.root.attrs)
