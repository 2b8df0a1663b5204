"""bfloat16 in registers: rounding from float32 to nearest, ties to even, and dot products of pairs.

Kernels hold bfloat16 as its bits in uint16 and write the rounding as a TIR cast to bfloat16, read as uint16, which
TVM's passes vectorise as they do any cast (kernels/exprs.py). `lower_rounding` makes of it what the target has: an
instruction (AVX512-BF16, Intel SDM volume 2), or integer arithmetic. Both give the same bits, but that the instruction
takes denormals for zeros.

`DotPairs` is vdpbf16ps, which takes denormals for zeros too. Its operands are of LLVM's type bfloat, which TVM's code
generator does not know: a function in LLVM's own text stands between (`with_products`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, StringImm

from ..kernels.bindings import bound
from ..kernels.builder import Dim, KernelBuilder, splat
from ..kernels.tile import Arithmetic
from ..target import Target

Expr = Any

FEATURE = "avx512bf16"
"""The extension that rounds and multiplies bfloat16, by LLVM's name."""
_LANES = (8, 16)
"""Vectors of float32 that one instruction rounds; two of 16 go together."""


def is_rounding(call: Expr) -> bool:
    """Whether a call is `reinterpret("uint16", Cast("bfloat16", float32))`."""
    if not str(call.op.name).endswith(".reinterpret"):
        return False
    return isinstance(call.args[0], tirx.Cast) and str(call.args[0].ty.dtype).startswith("bfloat16")


def lower_rounding(func: Any, target: Target) -> Any:
    """The function with every rounding to bfloat16 made code for the target."""
    native = target.has(FEATURE)

    def lower(call: Any) -> Any:
        if not isinstance(call, Call) or not hasattr(call.op, "name") or not is_rounding(call):
            return call
        value = call.args[0].value
        return _by_instruction(value) if native else by_integers(value)

    return func.with_body(tvm_ffi.structural_map(func.body, (Call, lower)))


def _by_instruction(value: Expr) -> Expr:
    lanes = int(value.ty.dtype.lanes)
    if lanes in _LANES:
        return _call(lanes, f"cvtneps2bf16.{32 * lanes}", value)
    if lanes % 32:
        return by_integers(value)

    def pairs(whole: Expr, _let: Any) -> Expr:
        parts = [tirx.Shuffle([whole], _indices(start, 16)) for start in range(0, lanes, 16)]
        halves = zip(parts[::2], parts[1::2], strict=True)
        joined = [_call(32, "cvtne2ps2bf16.512", high, low) for low, high in halves]
        return joined[0] if len(joined) == 1 else tirx.Shuffle(joined, _indices(0, lanes))

    return bound(pairs, value)


def _call(lanes: int, name: str, *args: Expr) -> Expr:
    """The bits that an instruction gives. Its true type is bfloat16, which TVM's code generator does not know: typed as
    int16 here, it becomes uint16 by a bit cast, which LLVM allows from either."""
    made = tirx.call_llvm_pure_intrin(f"int16x{lanes}", f"llvm.x86.avx512bf16.{name}", *args)
    return tirx.reinterpret(f"uint16x{lanes}", made)


def by_integers(value: Expr) -> Expr:
    """The bits of float32 rounded to their upper half; a NaN becomes the quiet one."""
    lanes = int(value.ty.dtype.lanes)
    suffix = "" if lanes == 1 else f"x{lanes}"

    def constant(number: int) -> Expr:
        one = tirx.IntImm("uint32", number)
        return one if lanes == 1 else tirx.Broadcast(one, lanes)

    def rounded(word: Expr, _let: Any) -> Expr:
        odd = tirx.bitwise_and(tirx.shift_right(word, constant(16)), constant(1))
        near = tirx.shift_right(word + constant(0x7FFF) + odd, constant(16))
        nan = tirx.GT(tirx.bitwise_and(word, constant(0x7FFFFFFF)), constant(0x7F800000))
        return tirx.Cast(f"uint16{suffix}", tirx.Select(nan, constant(0x7FC0), near))

    return bound(rounded, tirx.reinterpret(f"uint32{suffix}", value))


def _indices(first: int, count: int) -> list[Expr]:
    return [tirx.IntImm("int32", first + i) for i in range(count)]


@dataclass(frozen=True)
class DotPairs(Arithmetic):
    """vdpbf16ps: two products of bfloat16 a step, summed in float32."""

    a: str = "uint16"
    held: str = "uint16"
    b: str = "uint16"
    depth: int = 2
    cost: float = 1.0
    latency: float = 6.0

    def element(self, kb: KernelBuilder, a: Expr, at: Dim, count: int, lanes: int) -> Expr:
        pair = tirx.Cast("int32", kb.load(a, at)) if count == 1 else tirx.reinterpret("int32", kb.load(a, at, 2))
        return tirx.reinterpret(f"uint16x{2 * lanes}", splat(pair, lanes))

    def accumulate(self, total: Expr, element: Expr, column: Expr, lanes: int) -> Expr:
        return tirx.call_pure_extern(f"float32x{lanes}", _PRODUCT.format(bits=32 * lanes), total, element, column)


_PRODUCT = "optc_dpbf16ps_{bits}"
_PRODUCT_TEXT = """
declare <{lanes} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{lanes} x float>, <{pairs} x bfloat>, <{pairs} x bfloat>)
define linkonce_odr hidden <{lanes} x float> @optc_dpbf16ps_{bits}(<{lanes} x float> %sum, <{pairs} x i16> %a, <{pairs} x i16> %b) alwaysinline {{
  %x = bitcast <{pairs} x i16> %a to <{pairs} x bfloat>
  %y = bitcast <{pairs} x i16> %b to <{pairs} x bfloat>
  %out = call <{lanes} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{lanes} x float> %sum, <{pairs} x bfloat> %x, <{pairs} x bfloat> %y)
  ret <{lanes} x float> %out
}}
"""  # noqa: E501


def with_products(func: Any) -> Any:
    """The function with the text of what its dot products call, which LLVM inlines."""
    called: set[str] = set()

    def note(call: Any) -> None:
        if call.args and isinstance(call.args[0], StringImm):
            called.add(str(call.args[0].value))

    tvm_ffi.structural_walk(func.body, (Call, note))
    body = func.body
    for lanes in (8, 16):
        if _PRODUCT.format(bits=32 * lanes) in called:
            text = StringImm(_PRODUCT_TEXT.format(lanes=lanes, pairs=2 * lanes, bits=32 * lanes))
            body = tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", text, body)
    return func.with_body(body)
