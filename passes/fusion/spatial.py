"""Spatial ops from pieces.

ReduceMean(x; H, W), dims kept                                  -> GlobalAveragePool(x)
Reshape(Transpose(Reshape(x, [N,b,b,C,H,W]), [0,3,4,1,5,2]))    -> DepthToSpace(x; b, "DCR")
Reshape(Transpose(Reshape(x, [N,C,b,b,H,W]), [0,1,4,2,5,3]))    -> DepthToSpace(x; b, "CRD")
Reshape(Transpose(Reshape(x, [N,g,C/g,H,W]), [0,2,1,3,4]))      is a channel shuffle and stays as it is
"""

from __future__ import annotations

from typing import ClassVar

from ...compiler.ir import Value
from ...compiler.types import Dim, same_dim
from ..facts import perm_of, reduces
from ..pattern import Op
from ..rewrite import Match, Rule, register_rule


@register_rule
class GlobalPool(Rule):
    """ReduceMean(x; all spatial dims) -> GlobalAveragePool(x)."""

    name: ClassVar[str] = "global-pool"
    patterns: ClassVar[tuple[Op, ...]] = (Op("ReduceMean", "x", rest=True), Op("ReduceMax", "x", rest=True))

    def check(self, m: Match) -> str | None:
        shape = m["x"].type.shape
        if shape is None or len(shape) not in (4, 5) or not m["x"].type.dtype.is_float:
            return "not an image"
        return None if reduces(m.root, range(2, len(shape)), len(shape)) else "not over all spatial dims, dims kept"

    def rewrite(self, m: Match) -> Value:
        return m.emit("GlobalAveragePool" if m.root.op == "ReduceMean" else "GlobalMaxPool", [m["x"]])


_PERMS: dict[tuple[int, ...], tuple[str, int, int, int]] = {
    (0, 3, 4, 1, 5, 2): ("DCR", 1, 2, 3),
    (0, 1, 4, 2, 5, 3): ("CRD", 2, 3, 1),
}
"""Permutation to (mode, the two axes of the block, the axis of channels)."""


@register_rule
class DepthToSpace(Rule):
    """Reshape, Transpose, Reshape -> DepthToSpace."""

    name: ClassVar[str] = "depth-to-space"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Reshape", Op("Transpose", Op("Reshape", "x", "split"), name="t"), "join"),
    )

    def check(self, m: Match) -> str | None:
        perm = perm_of(m.node("t"))
        if perm is None or perm not in _PERMS or m["x"].type.shape is None or m["x"].type.rank != 4:
            return "not the permutation of a depth to space"
        split, out = m.node("t").operand(0).type.shape, m.root.output.type.shape
        if split is None or out is None or len(out) != 4:
            return "the shapes are unknown"
        _, block, other, channels = _PERMS[perm]
        if not isinstance(split[block], int) or split[block] != split[other]:
            return "the block is not square"
        n, _, h, w = m["x"].type.dims
        b = split[block]
        ends: list[tuple[Dim, Dim]] = [
            (split[0], n),
            (split[4], h),
            (split[5], w),
            (out[0], n),
            (out[1], split[channels]),
        ]
        ends += [(out[2], h * b), (out[3], w * b)]
        return None if all(same_dim(*pair) for pair in ends) else "the dims are split or joined otherwise"

    def rewrite(self, m: Match) -> Value:
        perm = perm_of(m.node("t"))
        assert perm is not None
        mode, block, _, _ = _PERMS[perm]
        size = m.node("t").operand(0).type.dims[block]
        return m.emit("DepthToSpace", [m["x"]], {"blocksize": int(size), "mode": mode})
