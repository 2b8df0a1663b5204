"""Dot products of four u8 and s8 a lane: ARM's `i8mm` extension (usdot)."""

from __future__ import annotations

from dataclasses import dataclass

from ..kernels.builder import Expr
from .dot import Dot4
from .dotprod import byte_dot


@dataclass(frozen=True)
class MixedDot(Dot4):
    """usdot: four products a step."""

    cost: float = 0.5
    latency: float = 3.0
    along: int = 4

    def accumulate(self, total: Expr, element: Expr, column: Expr, lanes: int) -> Expr:
        return byte_dot("usdot", total, element, column, lanes)
