"""Dot products of four bytes a lane, both signed: ARM's `dotprod` extension (sdot).

It has no product of u8 and s8, so bytes of A become s8 by subtracting 128, and the kernel's bias gives it back:
`Σ a b = Σ (a - 128) b + 128 Σ b`, exact modulo 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ..kernels.builder import Expr, splat
from .dot import Dot4


@dataclass(frozen=True)
class SignedDot(Dot4):
    """sdot: four products a step. Sums lack 128 times the sum of B's column."""

    cost: float = 0.5
    latency: float = 3.0
    shift: int = 128
    along: int = 4

    def accumulate(self, total: Expr, element: Expr, column: Expr, lanes: int) -> Expr:
        signed = tirx.bitwise_xor(element, splat(tirx.const(-0x7F7F7F80, "int32"), lanes))
        return byte_dot("sdot", total, column, signed, lanes)  # the second operand may be one lane of a vector


def byte_dot(name: str, total: Expr, a: Expr, b: Expr, lanes: int) -> Expr:
    """`total + Σ a[i] b[i]` over the four bytes of each lane by a NEON instruction; `a`, `b`: 2 or 4 lanes of four."""
    width = 4 * lanes
    given = [tirx.reinterpret(f"int8x{width}", v) for v in (a, b)]
    return tirx.call_llvm_pure_intrin(
        f"int32x{lanes}", f"llvm.aarch64.neon.{name}.v{lanes}i32.v{width}i8", total, *given
    )
