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

    def accumulate(self, total: Expr, element: Expr, column: Expr, lanes: int) -> Expr:
        signed = tirx.bitwise_xor(element, splat(tirx.const(-0x7F7F7F80, "int32"), lanes))
        return byte_dot("sdot", total, signed, "int8", column, lanes)


def byte_dot(name: str, total: Expr, a: Expr, a_dtype: str, b: Expr, lanes: int) -> Expr:
    """`total + Σ a[i] b[i]` over the four bytes of each lane by a NEON instruction; `a` int32 x `lanes` or bytes, b s8.

    Fewer than two lanes go as two: there is no narrower form of the instructions.
    """
    if lanes == 1:
        total, a, b = (tirx.Broadcast(v, 2) if v is not b else tirx.Shuffle([b], _twice(4)) for v in (total, a, b))
        return tirx.Shuffle([byte_dot(name, total, a, a_dtype, b, 2)], [tirx.IntImm("int32", 0)])
    width = 4 * lanes
    given = tirx.reinterpret(f"{a_dtype}x{width}", a), tirx.reinterpret(f"int8x{width}", b)
    return tirx.call_llvm_pure_intrin(
        f"int32x{lanes}", f"llvm.aarch64.neon.{name}.v{lanes}i32.v{width}i8", total, *given
    )


def _twice(count: int) -> list[Expr]:
    return [tirx.IntImm("int32", i % count) for i in range(2 * count)]
