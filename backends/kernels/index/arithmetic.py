"""Arithmetic, comparisons, logic, bits, rounding: pointwise ops over all dtypes, with ONNX's semantics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_int, attr_str
from ...base import Expr
from .. import exprs, vmath
from ..exprs import const, dtype_of, is_float, is_unsigned, lanes_of, let, like, select
from .base import pointwise

Args = Sequence[Any]


def _fold(combine: Callable[[Expr, Expr], Expr], args: Args) -> Expr:
    out = args[0]
    for arg in args[1:]:
        out = combine(out, arg)
    return out


@pointwise("Add", "Sum")
def add(node: Node, args: Args) -> Expr:
    return _fold(lambda a, b: a + b, args)


@pointwise("Sub")
def sub(node: Node, args: Args) -> Expr:
    return args[0] - args[1]


@pointwise("Mul")
def mul(node: Node, args: Args) -> Expr:
    return args[0] * args[1]


@pointwise("Div")
def div(node: Node, args: Args) -> Expr:
    """Integers divide towards zero; by zero gives zero (ONNX leaves it open, the processor would trap)."""
    a, b = args
    if is_float(dtype_of(a)):
        return tirx.div(a, b)
    return let(b, lambda d: _int_division(tirx.truncdiv, a, d))


def _int_division(divide: Callable[[Expr, Expr], Expr], a: Expr, b: Expr) -> Expr:
    """Guards what traps: division by zero, and the least number by -1 (dividing by 1 instead, then negating)."""
    if isinstance(b, tirx.IntImm) and int(b) not in (0, -1):
        return divide(a, b)
    zero = tirx.EQ(b, like(0, b))
    minus = tirx.EQ(b, like(-1, b)) if not is_unsigned(dtype_of(b)) else zero
    quotient = divide(a, select(tirx.Or(zero, minus), like(1, b), b))
    if not is_unsigned(dtype_of(b)):
        quotient = select(minus, like(0, quotient) - quotient, quotient)
    return select(zero, like(0, quotient), quotient)


@pointwise("Mod")
def mod(node: Node, args: Args) -> Expr:
    """fmod=1: C's fmod, the dividend's sign; else Python's, the divisor's sign."""
    a, b = args
    fmod = attr_int(node, "fmod", 0)
    if is_float(dtype_of(a)):
        rest = exprs.libm("fmod", a, b)
        return rest if fmod else let(rest, lambda r: _divisor_sign(r, b))

    def integer(divisor: Expr) -> Expr:
        rest = _int_division(tirx.truncmod, a, divisor)
        return rest if fmod or is_unsigned(dtype_of(a)) else let(rest, lambda r: _divisor_sign(r, divisor))

    return let(b, integer)


def _divisor_sign(rest: Expr, divisor: Expr) -> Expr:
    zero = like(0, rest)
    positive = tirx.GT(divisor, like(0, divisor))
    differs = select(positive, tirx.LT(rest, zero), tirx.GT(rest, zero))
    return select(tirx.And(tirx.NE(rest, zero), differs), rest + divisor, rest)


@pointwise("Pow")
def power(node: Node, args: Args) -> Expr:
    """Computed in the base's type if both are integers (by squaring), else in floating point."""
    base, exponent = args
    dtype = dtype_of(base)
    number = _number(exponent)
    if number is not None and (is_float(dtype) or number >= 0):
        if number == 0.5:
            return tirx.sqrt(base)
        if number == -1.0 and is_float(dtype):
            return like(1.0, base) / base
        if number.is_integer() and 0 <= number <= 16:
            return let(base, lambda b: _power_by_squaring(b, int(number)))
    if not is_float(dtype) and not is_float(dtype_of(exponent)):
        return _int_power(base, exprs.cast_raw(exponent, dtype if exprs.bits_of(dtype) == 64 else "int64"))
    wide = "float64" if dtype == "float64" or not is_float(dtype) else "float32"
    result = exprs.libm("pow", exprs.cast_raw(base, wide), exprs.cast_raw(exponent, wide))
    return exprs.cast_raw(result, dtype)


def _number(expr: Expr) -> float | None:
    """The value of a constant scalar."""
    if isinstance(expr, (tirx.FloatImm, tirx.IntImm)):
        return float(expr.value)
    return None


def _power_by_squaring(base: Expr, exponent: int) -> Expr:
    if exponent == 0:
        return like(1, base)
    if exponent == 1:
        return base
    half = _power_by_squaring(base, exponent // 2)
    square = let(half, lambda h: h * h)
    return square * base if exponent % 2 else square


def _int_power(base: Expr, exponent: Expr) -> Expr:
    """base ^ exponent in the base's type, wrapping; a negative exponent gives 0 but for bases 1 and -1.

    Multiplies the squares of the exponent's low six bits; beyond them only 0, 1, -1 (and even bases, as 0) are exact.
    """
    one = like(1, base)
    factor = exprs.cast_raw(base, dtype_of(base))

    def step(square: Expr, bit: int, result: Expr) -> Expr:
        shifted = tirx.shift_right(exponent, like(bit, exponent))
        odd = tirx.NE(tirx.bitwise_and(shifted, like(1, exponent)), like(0, exponent))
        result = select(odd, result * square, result)
        if bit == 5:
            return result
        return let(result, lambda r: let(square * square, lambda s: step(s, bit + 1, r)))

    return let(
        factor, lambda b: select(tirx.LT(exponent, like(0, exponent)), _reciprocal(b, exponent), step(b, 0, one))
    )


def _reciprocal(base: Expr, exponent: Expr) -> Expr:
    odd = tirx.NE(tirx.bitwise_and(exponent, like(1, exponent)), like(0, exponent))
    unit = select(tirx.EQ(base, like(1, base)), like(1, base), like(0, base))
    return select(tirx.EQ(base, like(-1, base)), select(odd, base, like(1, base)), unit)


@pointwise("Mean")
def mean(node: Node, args: Args) -> Expr:
    total = _fold(lambda a, b: a + b, args)
    return total / like(len(args), total)


def larger(a: Expr, b: Expr) -> Expr:
    """The larger of two; NaN if either is."""
    if not is_float(dtype_of(a)):
        return tirx.max(a, b)
    return select(tirx.Or(tirx.GT(a, b), exprs.is_nan(a)), a, b)


def smaller(a: Expr, b: Expr) -> Expr:
    """The smaller of two; NaN if either is."""
    if not is_float(dtype_of(a)):
        return tirx.min(a, b)
    return select(tirx.Or(tirx.LT(a, b), exprs.is_nan(a)), a, b)


@pointwise("Max")
def maximum(node: Node, args: Args) -> Expr:
    return _fold(lambda a, b: let(a, lambda x: let(b, lambda y: larger(x, y))), args)


@pointwise("Min")
def minimum(node: Node, args: Args) -> Expr:
    return _fold(lambda a, b: let(a, lambda x: let(b, lambda y: smaller(x, y))), args)


@pointwise("Clip")
def clip(node: Node, args: Args) -> Expr:
    """min(max(x, low), high); NaN stays NaN."""
    x = args[0]
    low, high = (args[n] if len(args) > n else None for n in (1, 2))
    if low is not None:
        x = _limit(x, low, tirx.LT, tirx.max)
    return x if high is None else let(x, lambda v: _limit(v, high, tirx.GT, tirx.min))


def _limit(x: Expr, bound: Expr, beyond: Any, integer: Any) -> Expr:
    lanes = max(lanes_of(x), lanes_of(bound))
    x, bound = exprs.widen(x, lanes), exprs.widen(bound, lanes)
    return select(beyond(x, bound), bound, x) if is_float(dtype_of(x)) else integer(x, bound)


@pointwise("Neg")
def neg(node: Node, args: Args) -> Expr:
    x = args[0]
    return like(-0.0, x) - x if is_float(dtype_of(x)) else like(0, x) - x


@pointwise("Abs")
def absolute(node: Node, args: Args) -> Expr:
    x = args[0]
    if is_unsigned(dtype_of(x)):
        return x
    return vmath.absolute(x) if is_float(dtype_of(x)) else select(tirx.LT(x, like(0, x)), like(0, x) - x, x)


@pointwise("Sign")
def sign(node: Node, args: Args) -> Expr:
    x, zero, one = args[0], like(0, args[0]), like(1, args[0])
    positive = select(tirx.GT(x, zero), one, x if is_float(dtype_of(x)) else zero)
    if is_unsigned(dtype_of(x)):
        return positive
    return select(tirx.LT(x, zero), like(-1, x), positive)  # zero and NaN give themselves


@pointwise("Floor")
def floor(node: Node, args: Args) -> Expr:
    return tirx.floor(args[0])


@pointwise("Ceil")
def ceil(node: Node, args: Args) -> Expr:
    return tirx.ceil(args[0])


@pointwise("Round")
def round_half_even(node: Node, args: Args) -> Expr:
    return exprs.round_even(args[0])


@pointwise("Reciprocal")
def reciprocal(node: Node, args: Args) -> Expr:
    return like(1.0, args[0]) / args[0]


@pointwise("Sqrt")
def sqrt(node: Node, args: Args) -> Expr:
    return tirx.sqrt(args[0])


# --- comparisons and logic ---------------------------------------------------------------------------------------


def _compare(op: str, make: Callable[[Expr, Expr], Expr]) -> None:
    @pointwise(op)
    def compare(node: Node, args: Args) -> Expr:
        lanes = max(lanes_of(a) for a in args)
        return make(*(exprs.widen(a, lanes) for a in args))


_compare("Less", tirx.LT)
_compare("LessOrEqual", tirx.LE)
_compare("Greater", tirx.GT)
_compare("GreaterOrEqual", tirx.GE)
_compare("And", tirx.And)
_compare("Or", tirx.Or)


@pointwise("Equal")
def equal(node: Node, args: Args) -> Expr:
    return tirx.EQ(*_as_bytes(args)) if dtype_of(args[0]) == "bool" else tirx.EQ(*_same_lanes(args))


@pointwise("Xor")
def xor(node: Node, args: Args) -> Expr:
    return tirx.NE(*_as_bytes(args))


def _as_bytes(args: Args) -> list[Expr]:
    return _same_lanes([exprs.cast_raw(a, "uint8") for a in args])


def _same_lanes(args: Args) -> list[Expr]:
    lanes = max(lanes_of(a) for a in args)
    return [exprs.widen(a, lanes) for a in args]


@pointwise("Not")
def logical_not(node: Node, args: Args) -> Expr:
    return tirx.Not(args[0])


@pointwise("Where")
def where(node: Node, args: Args) -> Expr:
    return select(*args)


@pointwise("IsNaN")
def is_nan(node: Node, args: Args) -> Expr:
    return exprs.is_nan(args[0])


@pointwise("IsInf")
def is_inf(node: Node, args: Args) -> Expr:
    x = args[0]
    positive, negative = attr_int(node, "detect_positive", 1), attr_int(node, "detect_negative", 1)
    up, down = tirx.EQ(x, like(math.inf, x)), tirx.EQ(x, like(-math.inf, x))
    if positive and negative:
        return tirx.Or(up, down)
    return up if positive else down if negative else const(False, "bool", lanes_of(x))


# --- bits --------------------------------------------------------------------------------------------------------


@pointwise("BitwiseAnd")
def bitwise_and(node: Node, args: Args) -> Expr:
    return tirx.bitwise_and(*_same_lanes(args))


@pointwise("BitwiseOr")
def bitwise_or(node: Node, args: Args) -> Expr:
    return tirx.bitwise_or(*_same_lanes(args))


@pointwise("BitwiseXor")
def bitwise_xor(node: Node, args: Args) -> Expr:
    return tirx.bitwise_xor(*_same_lanes(args))


@pointwise("BitwiseNot")
def bitwise_not(node: Node, args: Args) -> Expr:
    return tirx.bitwise_xor(args[0], like(-1, args[0]))


@pointwise("BitShift")
def bit_shift(node: Node, args: Args) -> Expr:
    """A shift by a negative count, or by the type's width or more, leaves the sign alone (0, or -1 to the right)."""
    x, count = _same_lanes(args)
    bits = exprs.bits_of(dtype_of(x))
    beyond = tirx.Or(tirx.LT(count, like(0, count)), tirx.GE(count, like(bits, count)))
    if is_unsigned(dtype_of(x)):
        beyond = tirx.GE(count, like(bits, count))
    safe = select(beyond, like(bits - 1, count), count)
    if attr_str(node, "direction", "LEFT") == "LEFT":
        return select(beyond, like(0, x), tirx.shift_left(x, safe))
    shifted = tirx.shift_right(x, safe)
    return select(beyond, like(0, x), shifted) if is_unsigned(dtype_of(x)) else shifted
