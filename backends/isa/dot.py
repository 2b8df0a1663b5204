"""Dot products of u8 and s8 in each lane of a vector, summed in int32: exact on every x86-64 level (ARM: neon.py).

`dot4` is vpdpbusd (AVX512-VNNI, AVX-VNNI): four products a lane. `dot2` is pmaddwd on operands widened to 16 bits: two
products a lane. pmaddubsw, which would take bytes before VNNI, saturates its sums at 16 bits and is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tvm import tirx

from ..kernels.builder import Dim, Expr, KernelBuilder, floordiv, known, pieces, splat
from ..kernels.tile import Arithmetic
from ..target import Target

_MADD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
"""pmaddwd by int32 lanes."""


def dot4(total: Expr, a: Expr, b: Expr, lanes: int) -> Expr:
    """`total + Σ a[i] b[i]` over the four bytes of each lane; all int32 x `lanes`, `a` of u8, `b` of s8."""
    quads = tirx.reinterpret(f"uint8x{4 * lanes}", a), tirx.reinterpret(f"int8x{4 * lanes}", b)
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", total, *quads)


def dot2(total: Expr, a: Expr, b: Expr, lanes: int) -> Expr:
    """`total + Σ a[i] b[i]` over the two int16 of each lane; `a`, `b` int16 x 2 `lanes`."""
    return total + tirx.call_llvm_pure_intrin(f"int32x{lanes}", _MADD[lanes], a, b)


def bytes_of(kb: KernelBuilder, a: Expr, at: Dim, count: int) -> Expr:
    """`count` (1 to 4) consecutive bytes of a u8 view as the low bytes of an int32; reads nothing beyond them."""
    if count == 4:
        return tirx.reinterpret("int32", kb.load(a, at, 4))
    if count == 3:
        return bytes_of(kb, a, at, 2) | (tirx.Cast("int32", kb.load(a, at + 2)) << tirx.const(16, "int32"))
    if count == 2:
        return tirx.Cast("int32", tirx.reinterpret("uint16", kb.load(a, at, 2)))
    return tirx.Cast("int32", kb.load(a, at))


@dataclass(frozen=True)
class Dot4(Arithmetic):
    """vpdpbusd: four products a step, as many instructions as float32 needs for one."""

    a: str = "uint8"
    held: str = "uint8"
    b: str = "int8"
    sum: str = "int32"
    depth: int = 4
    latency: float = 5.0

    def element(self, kb: KernelBuilder, a: Expr, at: Dim, count: int, lanes: int) -> Expr:
        return splat(bytes_of(kb, a, at, count), lanes)

    def accumulate(self, total: Expr, element: Expr, column: Expr, lanes: int) -> Expr:
        return dot4(total, element, column, lanes)


@dataclass(frozen=True)
class Dot2(Arithmetic):
    """pmaddwd: two products a step, in a multiply and an add. A is widened when it is copied, as each of its elements
    is read once a panel; B in registers, as it is read from further away. `width` is the int16 in a vector."""

    a: str = "uint8"
    held: str = "int16"
    b: str = "int8"
    sum: str = "int32"
    depth: int = 2
    cost: float = 1.0
    latency: float = 1.0
    prepare: float = 0.33
    scratch: int = 1
    width: int = 8

    def copy(self, kb: KernelBuilder, to: Expr, to_at: Dim, a: Expr, at: Dim, count: Dim) -> None:
        def widen(start: Dim, lanes: int) -> None:
            value = tirx.Cast(_vector("int16", lanes), kb.load(a, at + start, lanes))
            kb.store(to, to_at + start, value, lanes)

        self._each(kb, count, widen)

    def blank(self, kb: KernelBuilder, to: Expr, at: Dim, count: Dim, value: Expr | None) -> None:
        wide = tirx.const(0, "int16") if value is None else tirx.Cast("int16", value)
        self._each(kb, count, lambda start, lanes: kb.store(to, at + start, splat(wide, lanes), lanes))

    def _each(self, kb: KernelBuilder, count: Dim, emit: Callable[[Dim, int], None]) -> None:
        """Covers `count` elements: `emit(start, elements)`, by vectors, then by what is left."""
        count = known(count)
        whole = floordiv(count, self.width)
        with kb.loop(whole, "v") as v:
            emit(v * self.width, self.width)
        done = whole * self.width
        if isinstance(count, int):
            for start, lanes in pieces(count - done, self.width):
                emit(done + start, lanes)
            return
        with kb.loop(count - done, "rest") as rest:
            emit(done + rest, 1)

    def element(self, kb: KernelBuilder, a: Expr, at: Dim, count: int, lanes: int) -> Expr:
        pair = tirx.Cast("int32", kb.load(a, at)) if count == 1 else tirx.reinterpret("int32", kb.load(a, at, 2))
        return tirx.reinterpret(f"int16x{2 * lanes}", splat(pair, lanes))

    def column(self, kb: KernelBuilder, b: Expr, at: Dim, lanes: int) -> Expr:
        return tirx.Cast(f"int16x{2 * lanes}", kb.load(b, at, 2 * lanes))

    def accumulate(self, total: Expr, element: Expr, column: Expr, lanes: int) -> Expr:
        return dot2(total, element, column, lanes)


def arithmetic(target: Target) -> Arithmetic:
    """The fastest exact u8 x s8 dot product of a target."""
    if target.has("neon"):
        from .neon import products  # what those do builds on what is here

        return products(target)
    wide = target.lanes == 16
    if target.has("avx512vnni") if wide else target.has("avxvnni"):
        return Dot4()
    return Dot2(cost=0.67 if target.lanes == 8 else 1.0, width=2 * target.lanes)


def interleave(rows: Sequence[Expr], lanes: int) -> Expr:
    """Lane c holds byte c of each of `rows`, the first row lowest, widened as the sums take them.

    `rows` are u8 x `lanes`, as many as the arithmetic is deep: four give four bytes a lane, two give two int16.
    """
    if len(rows) == 1:
        return tirx.Cast(_vector("int32", lanes), rows[0])
    if len(rows) == 2:
        pairs = tirx.Shuffle(rows, _indices(lanes * i + c for c in range(lanes) for i in range(2)))
        return tirx.Cast(f"int16x{2 * lanes}", pairs)
    if lanes < 16:
        return tirx.Shuffle(rows, _indices(lanes * i + c for c in range(lanes) for i in range(4)))
    # A permutation of words, then one of bytes within 128 bits. LLVM would make eight unpacks and three inserts of it.
    joined = _as_is("int32x16", tirx.Shuffle(rows, _indices(range(64))))
    words = tirx.Shuffle([joined], _indices(4 * i + part for part in range(4) for i in range(4)))
    within = [4 * i + byte for byte in range(4) for i in range(4)]
    return tirx.Shuffle([_as_is("uint8x64", words)], _indices(16 * part + i for part in range(4) for i in within))


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _indices(values: Iterable[int]) -> list[Expr]:
    return [tirx.IntImm("int32", value) for value in values]


def _as_is(dtype: str, vector: Expr) -> Expr:
    """512 bits as another type, which LLVM does not look through."""
    floats = tirx.reinterpret("float32x16", vector)
    return tirx.reinterpret(dtype, tirx.call_llvm_pure_intrin("float32x16", "llvm.arithmetic.fence", floats))
