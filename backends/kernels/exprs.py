"""Arithmetic on TIR expressions that are scalars or vectors alike, typed as ONNX types them.

TVM's own operators promote (`uint8 - 1` becomes int32), so constants are made here in the dtype of what they meet.
bfloat16 is held as its bits in uint16 in memory and computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import tirx

from ...compiler.types import DType
from ..isa.pack import PACKED_LANES, to_bytes
from .bindings import bound

Expr = Any


def tir_dtype(dtype: DType) -> str:
    """TIR's element type for a tensor of `dtype` in memory."""
    return "uint16" if dtype is DType.BF16 else dtype.tvm


def dtype_of(value: Expr) -> str:
    """Element type of an expression, lanes dropped."""
    return str(value.ty.dtype.with_lanes(1))


def type_of(value: Expr) -> Any:
    """The TIR type of an expression."""
    return value.ty


def lanes_of(value: Expr) -> int:
    return int(value.ty.dtype.lanes)


def is_float(dtype: str) -> bool:
    return dtype.startswith("float")


def is_unsigned(dtype: str) -> bool:
    return dtype.startswith("uint") or dtype == "bool"


def bits_of(dtype: str) -> int:
    return 1 if dtype == "bool" else int(dtype.lstrip("uintfloa"))


def widen(value: Expr, lanes: int) -> Expr:
    """`value` in `lanes` lanes."""
    return value if lanes_of(value) == lanes else tirx.Broadcast(value, lanes)


def const(value: float | int | bool, dtype: str, lanes: int = 1) -> Expr:
    """A constant; for floats also infinities and NaN, for integers wrapped to the dtype's range."""
    if is_float(dtype):
        out = _float(float(value), dtype)
    elif dtype == "bool":
        out = tirx.IntImm("bool", int(bool(value)))
    else:
        bits = bits_of(dtype)
        number = int(value) & ((1 << bits) - 1)
        if not is_unsigned(dtype) and number >= 1 << (bits - 1):
            number -= 1 << bits
        if number >= 1 << 63:  # IntImm holds signed 64 bits
            out = tirx.reinterpret(dtype, tirx.IntImm("int64", number - (1 << 64)))
        else:
            out = tirx.IntImm(dtype, number)
    return widen(out, lanes)


def _float(value: float, dtype: str) -> Expr:
    if math.isfinite(value):
        return tirx.FloatImm(dtype, value)
    if dtype == "float64":
        word, wide = {math.inf: 0x7FF0 << 48, -math.inf: -(1 << 52)}.get(value, 0x7FF8 << 48), "int64"
        return tirx.reinterpret(dtype, tirx.IntImm(wide, word))
    word = {math.inf: 0x7F800000, -math.inf: -(1 << 23)}.get(value, 0x7FC00000)
    single = tirx.reinterpret("float32", tirx.IntImm("int32", word))
    return single if dtype == "float32" else tirx.Cast(dtype, single)


def number_of(value: Expr) -> float | None:
    """The number in every lane of a constant, else None."""
    value = value.value if isinstance(value, tirx.Broadcast) else value
    return float(value.value) if isinstance(value, (tirx.IntImm, tirx.FloatImm)) else None


def like(value: float | int | bool, other: Expr) -> Expr:
    """The constant `value` in the dtype and lanes of `other`."""
    return const(value, dtype_of(other), lanes_of(other))


def cast_raw(value: Expr, dtype: str) -> Expr:
    """LLVM's conversion: undefined for floats outside an integer's range."""
    if dtype_of(value) == dtype:
        return value
    lanes = lanes_of(value)
    return tirx.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def narrowed(value: Expr, dtype: str) -> Expr:
    """An int32 that lies within the range of `dtype`, in that type."""
    if dtype == "uint8" and lanes_of(value) == PACKED_LANES:
        return to_bytes(value)
    return cast_raw(value, dtype)


def bitcast(value: Expr, dtype: str) -> Expr:
    lanes = lanes_of(value)
    return tirx.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def select(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """Both sides are computed; the lanes of the three are made equal."""
    lanes = max(lanes_of(condition), lanes_of(then), lanes_of(otherwise))
    return tirx.Select(widen(condition, lanes), widen(then, lanes), widen(otherwise, lanes))


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body(name)` where `name` stands for `value`, computed once."""
    if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
        return body(value)
    return bound(lambda name, _: body(name), value)


def is_nan(value: Expr) -> Expr:
    """By the bits: TVM takes x != x for false."""
    dtype = dtype_of(value)
    word = bitcast(value, f"int{bits_of(dtype)}")
    most, infinity = {16: (0x7FFF, 0x7C00), 32: (0x7FFFFFFF, 0x7F800000), 64: ((1 << 63) - 1, 0x7FF0 << 48)}[
        bits_of(dtype)
    ]
    return tirx.GT(tirx.bitwise_and(word, like(most, word)), like(infinity, word))


def round_even(value: Expr) -> Expr:
    """To the nearest integer, ties to even: adding a number so large that no fraction fits does it."""
    double = dtype_of(value) == "float64"
    magic, most = (1.5 * 2.0**52, 2.0**51) if double else (1.5 * 2.0**23, 2.0**22)

    def define(x: Expr) -> Expr:
        size = tirx.abs(x)
        near = size + like(magic, x) - like(magic, x)
        near = select(tirx.LT(x, like(0.0, x)), like(-0.0, x) - near, near)
        return select(tirx.LT(size, like(most, x)), near, x)

    return let(value, define)


def rint(value: Expr) -> Expr:
    """A float32 within int32's range as the nearest int32, ties to even: one instruction (x86: cvtps2dq)."""
    lanes = lanes_of(value)
    return tirx.call_llvm_pure_intrin("int32" if lanes == 1 else f"int32x{lanes}", "llvm.lrint", value)


def products_rounded(tree: Any) -> Any:
    """An expression or statement whose float products LLVM fuses with no addition: behind a fence, which costs nothing.

    So all processors compute the same bits, those without FMA too.
    """

    def fenced(product: Any) -> Any:
        if not is_float(dtype_of(product)):
            return product
        return tirx.call_llvm_pure_intrin(str(product.ty.dtype), "llvm.arithmetic.fence", product)

    return tvm_ffi.structural_map(tree, (tirx.Mul, fenced))


def libm(name: str, *args: Expr) -> Expr:
    """A function of the C library, lane by lane."""
    lanes = max(lanes_of(a) for a in args)
    if lanes > 1:
        wide = [widen(a, lanes) for a in args]
        parts = [libm(name, *(tirx.Shuffle([w], [tirx.IntImm("int32", n)]) for w in wide)) for n in range(lanes)]
        return tirx.Shuffle(parts, [tirx.IntImm("int32", n) for n in range(lanes)])
    dtype = dtype_of(args[0])
    return tirx.call_pure_extern(dtype, name if dtype == "float64" else f"{name}f", *args)


# --- bfloat16 ----------------------------------------------------------------------------------------------------


def bf16_to_f32(bits: Expr) -> Expr:
    """Exact."""
    word = cast_raw(bits, "uint32")
    return bitcast(tirx.shift_left(word, like(16, word)), "float32")


def f32_to_bf16(value: Expr) -> Expr:
    """Round to nearest even; a NaN stays one. Code generation makes of the cast what the target has (isa/bf16.py)."""
    return bitcast(cast_raw(value, "bfloat16"), "uint16")


def widened(value: Expr) -> Expr:
    """A float as loaded by a template whose buffers hold float32, or bfloat16 as its bits, in float32."""
    return bf16_to_f32(value) if dtype_of(value) == "uint16" else value


def load_type(dtype: DType) -> str:
    """The TIR type that a tensor's elements are computed in: float32 for the two half types."""
    return "float32" if dtype in (DType.F16, DType.BF16) else dtype.tvm


def from_memory(value: Expr, dtype: DType) -> Expr:
    """An element as loaded, made what it is computed in."""
    if dtype is DType.BF16:
        return bf16_to_f32(value)
    return cast_raw(value, "float32") if dtype is DType.F16 else value


def to_memory(value: Expr, dtype: DType) -> Expr:
    """A computed element, made what is stored."""
    if dtype is DType.BF16:
        return f32_to_bf16(value)
    return cast_raw(value, "float16") if dtype is DType.F16 else value


def rounded_to(value: Expr, dtype: DType) -> Expr:
    """A computed element with the precision of `dtype`, as an op's output in that type has it."""
    if dtype in (DType.F16, DType.BF16):
        return from_memory(to_memory(value, dtype), dtype)
    return value
