"""Where the taps of a sliding window fall: convolutions and pools in either layout, all forms of padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ...compiler.ir import Node
from ...compiler.ops.base import attr_ints, attr_str
from ..base import Expr
from .builder import Dim, i64
from .loops import NodeKernel


def channel_axis(node: Node) -> int:
    """1 for ONNX's ops, -1 for optc's own, which have channels last."""
    return -1 if node.op.startswith("optc.") else 1


class Taps:
    """The window of output position o has its tap k at o stride + k dilation - pad."""

    def __init__(self, kernel: NodeKernel, x: int, window: Sequence[Dim]) -> None:
        node = kernel.node
        shape, out = kernel.shape(node.operand(x)), kernel.shape(node.outputs[0])
        last = channel_axis(node) == -1
        self.sizes = shape[1:-1] if last else shape[2:]
        self.window = list(window)
        rank = len(window)
        self.strides = attr_ints(node, "strides") or (1,) * rank
        self.dilations = attr_ints(node, "dilations") or (1,) * rank
        self.begins, self.ends = self._pads(node, out[1:-1] if last else out[2:])

    def _pads(self, node: Node, out: Sequence[Dim]) -> tuple[list[Dim], list[Dim]]:
        rank = len(self.window)
        auto = attr_str(node, "auto_pad", "NOTSET")
        if not auto.startswith("SAME"):
            pads = list(attr_ints(node, "pads") or (0,) * (2 * rank)) if auto != "VALID" else [0] * (2 * rank)
            return pads[:rank], pads[rank:]
        begins: list[Dim] = []
        ends: list[Dim] = []
        for d in range(rank):
            total = (out[d] - 1) * self.strides[d] + (self.window[d] - 1) * self.dilations[d] + 1 - self.sizes[d]
            total = max(total, 0) if isinstance(total, int) else tirx.max(total, i64(0))
            small = total // 2 if isinstance(total, int) else tirx.truncdiv(total, i64(2))
            begins.append(small if auto == "SAME_UPPER" else total - small)
            ends.append(total - small if auto == "SAME_UPPER" else small)
        return begins, ends

    def positions(self, out: Sequence[Expr], k: Sequence[Expr]) -> list[Expr]:
        """The input position of each axis, which may lie outside."""
        rows = zip(out, k, self.strides, self.dilations, self.begins, strict=True)
        return [o * s + t * d - b for o, t, s, d, b in rows]

    def inside(self, out: Sequence[Expr], k: Sequence[Expr]) -> Any:
        """Whether a tap lies within the input."""
        return self._within(out, k, [0] * len(self.sizes), self.sizes)

    def padded(self, out: Sequence[Expr], k: Sequence[Expr]) -> Any:
        """Whether a tap lies within the padded input."""
        low = [0 - b for b in self.begins]
        return self._within(out, k, low, [s + e for s, e in zip(self.sizes, self.ends, strict=True)])

    def _within(self, out: Sequence[Expr], k: Sequence[Expr], low: Sequence[Dim], high: Sequence[Dim]) -> Any:
        conditions = []
        for place, least, most in zip(self.positions(out, k), low, high, strict=True):
            conditions += [tirx.GE(place, i64(least)), tirx.LT(place, i64(most))]
        return tirx.all(*conditions) if conditions else True
