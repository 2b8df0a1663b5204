"""Products of u8 and s8 on ARM, summed in int32: exact on every core.

All ARM cores with NEON multiply 16-bit lanes into 32-bit sums (smlal); newer ones have dot products of bytes
(dotprod.py, i8mm.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ..kernels.builder import Dim, Expr, KernelBuilder, splat
from ..kernels.tile import Arithmetic
from ..target import Target
from .dot import Dot2


@dataclass(frozen=True)
class MultiplyAdd(Dot2):
    """smlal: one product a step. A is widened to 16 bits when it is copied, B in registers."""

    depth: int = 1
    cost: float = 1.0
    latency: float = 4.0
    prepare: float = 0.5
    along: int = 8

    def element(self, kb: KernelBuilder, a: Expr, at: Dim, count: int, lanes: int) -> Expr:
        return splat(kb.load(a, at), lanes)

    def column(self, kb: KernelBuilder, b: Expr, at: Dim, lanes: int) -> Expr:
        return tirx.Cast(f"int16x{lanes}", kb.load(b, at, lanes))

    def accumulate(self, total: Expr, element: Expr, column: Expr, lanes: int) -> Expr:
        wide = f"int32x{lanes}"
        return total + tirx.Cast(wide, element) * tirx.Cast(wide, column)


def products(target: Target) -> Arithmetic:
    """The fastest exact u8 x s8 product of an ARM core."""
    from .dotprod import SignedDot
    from .i8mm import MixedDot

    if target.has("i8mm"):
        return MixedDot()
    return SignedDot() if target.has("dotprod") else MultiplyAdd(width=2 * target.lanes)
