"""Vectors of int32 made bytes."""

from __future__ import annotations

from typing import Any

from tvm import tirx

Expr = Any

PACKED_LANES = 64
"""So wide a vector is asked for only where registers hold 16 lanes; the targets that have those have AVX-512BW."""


def to_bytes(value: Expr) -> Expr:
    """The uint8x64 equal to an int32x64 whose elements lie within [0, 255].

    Conversions would take eight operations of the port that shuffles, saturating packs take three and put the elements
    in order by one more: each works on 128-bit lanes, so that quarter q of lane l is elements 4 l.. of vector q.
    """
    var = tirx.Var("wide", value.ty)
    quarters = [tirx.Shuffle([var], [_index(16 * q + i) for i in range(16)]) for q in range(4)]
    halves = [_call("int16x32", "packusdw", *quarters[i : i + 2]) for i in (0, 2)]
    mixed = tirx.reinterpret("int32x16", _call("uint8x64", "packuswb", *halves))
    ordered = tirx.Shuffle([mixed], [_index(4 * lane + q) for q in range(4) for lane in range(4)])
    return tirx.Let(var, value, tirx.reinterpret("uint8x64", ordered))


def _index(lane: int) -> Expr:
    return tirx.IntImm("int32", lane)


def _call(dtype: str, name: str, *args: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(dtype, f"llvm.x86.avx512.{name}.512", *args)
