"""How codes lie in memory, and how they become float32 in registers.

The codes of a panel of columns go along k. Codes of 8 bits are bytes, [k][column]. Smaller ones fill words of 32 bits,
[word][column], from the lowest bit on: `unit` codes take `rows` words without a bit left over (4 bits: 8 codes a word;
3 bits: 32 codes in 3 words). So one load brings a word for every lane, and its codes come out by equal shifts.

A code is either a number in two's complement, which is widened and converted, or a place in a table, which is looked
up by a permutation where the table fits a register or two (x86: vpermps).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from ...target import Target
from ..builder import Dim, Expr, KernelBuilder
from ..exprs import bitcast, cast_raw, const

_WORD = 32


@dataclass(frozen=True)
class CodeLayout:
    """Codes of `bits` bits, 2 to 8, that are places in a table (`tabled`) or signed numbers."""

    bits: int
    tabled: bool

    @property
    def unit(self) -> int:
        """Codes along k that are decoded together; a block of more than one unit is a multiple of it."""
        return 4 if self.bits == 8 else math.lcm(self.bits, _WORD) // self.bits

    @property
    def rows(self) -> int:
        """Rows of the packed array that a unit takes."""
        return 4 if self.bits == 8 else math.lcm(self.bits, _WORD) // _WORD

    @property
    def dtype(self) -> str:
        """Of the packed array."""
        return ("uint8" if self.tabled else "int8") if self.bits == 8 else "uint32"

    @property
    def table_size(self) -> int:
        """Elements of a table as the kernel wants it: the smaller ones repeated over the bits of the codes above."""
        return max(16, 1 << self.bits)

    def packed_rows(self, k: int) -> int:
        """Rows that k codes take."""
        return k if self.bits == 8 else -(-k // self.unit) * self.rows

    def pack(self, codes: np.ndarray) -> np.ndarray:
        """Codes [..., k, columns], a byte each, as [..., packed_rows(k), columns] of `dtype`."""
        if self.bits == 8:
            return np.ascontiguousarray(codes).view(self.dtype)
        *lead, k, columns = codes.shape
        units = -(-k // self.unit)
        padded = np.zeros((*lead, units * self.unit, columns), np.uint64)
        padded[..., :k, :] = codes.astype(np.uint64) & ((1 << self.bits) - 1)
        padded = padded.reshape(*lead, units, self.unit, columns)
        words = np.zeros((*lead, units, self.rows + 1, columns), np.uint64)
        for i in range(self.unit):
            row, shift = divmod(i * self.bits, _WORD)
            code = padded[..., i, :] << np.uint64(shift)
            words[..., row, :] |= code & np.uint64(0xFFFFFFFF)
            words[..., row + 1, :] |= code >> np.uint64(_WORD)
        return words[..., : self.rows, :].astype(np.uint32).reshape(*lead, units * self.rows, columns)

    def pad_table(self, table: np.ndarray) -> np.ndarray:
        """The table repeated to `table_size`."""
        return np.tile(table.astype(np.float32), self.table_size // table.size)


def prefers_table(bits: int, target: Target) -> bool:
    """Whether looking up is cheaper than converting, for numbers that need no table."""
    return bits <= {16: 4, 8: 3}.get(target.lanes, 0)


@dataclass(frozen=True)
class Decoder:
    """Emits the decoding: `codes` and `table` are flat views, vectors have `lanes` lanes."""

    kb: KernelBuilder
    layout: CodeLayout
    codes: Any
    table: Any | None
    lanes: int

    def unit(self, at: Dim, pitch: int, vectors: int, count: int) -> Iterator[list[Expr]]:
        """The first `count` codes of a unit, each as one float32 vector per `lanes` columns; rows are `pitch` apart."""

        def row(number: int, vector: int) -> Expr:
            return self.kb.load(self.codes, at + (number * pitch + vector * self.lanes), self.lanes)

        for i in range(count):
            if self.layout.bits == 8:
                yield [self._byte(row(i, j)) for j in range(vectors)]
                continue
            first, shift = divmod(i * self.layout.bits, _WORD)
            over = shift + self.layout.bits > _WORD
            yield [self._field(row(first, j), shift, row(first + 1, j) if over else None) for j in range(vectors)]

    def _byte(self, value: Expr) -> Expr:
        wide = cast_raw(value, "int32")
        return self._gathered(wide) if self.layout.tabled else cast_raw(wide, "float32")

    def _field(self, word: Expr, shift: int, following: Expr | None) -> Expr:
        """The code whose lowest bit is bit `shift` of a word, its upper part perhaps in the word that follows."""
        bits = self.layout.bits
        if following is not None:
            word = tirx.bitwise_or(self._right(word, shift), self._left(following, _WORD - shift))
            shift = 0
        if self.layout.tabled:
            return self._looked_up(word, shift)
        top = bitcast(self._left(word, _WORD - bits - shift), "int32")
        return cast_raw(self._right(top, _WORD - bits), "float32")

    def _looked_up(self, word: Expr, shift: int) -> Expr:
        """A permutation ignores the bits of its indices that it does not need."""
        bits, place = self.layout.bits, bitcast(self._right(word, shift), "int32")
        if self.lanes == 16 and bits <= 4:
            return self._permuted("llvm.x86.avx512.permvar.sf.512", 0, place)
        if self.lanes == 8 and bits <= 3:
            return self._permuted("llvm.x86.avx2.permps", 0, place)
        if self.lanes == 8 and bits == 4:
            low, high = (self._permuted("llvm.x86.avx2.permps", half, place) for half in (0, 8))
            top = bitcast(self._left(word, _WORD - 4 - shift), "int32")
            return tirx.Select(tirx.LT(top, const(0, "int32", self.lanes)), high, low)
        return self._gathered(tirx.bitwise_and(place, const((1 << bits) - 1, "int32", self.lanes)))

    def _permuted(self, intrinsic: str, start: int, place: Expr) -> Expr:
        table = self.kb.load(self.table, start, self.lanes)
        return tirx.call_llvm_pure_intrin(f"float32x{self.lanes}", intrinsic, table, place)

    def _gathered(self, place: Expr) -> Expr:
        return tirx.BufferLoad(self.table, [place])

    def _left(self, word: Expr, by: int) -> Expr:
        return tirx.shift_left(word, const(by, "uint32", self.lanes)) if by else word

    def _right(self, word: Expr, by: int) -> Expr:
        dtype = str(word.ty.dtype.with_lanes(1))
        return tirx.shift_right(word, const(by, dtype, self.lanes)) if by else word
