"""Arithmetic over dims: ints stay ints, everything else is a sympy expression in one normal form.

Rounded divisions are all written as floors whose argument has its integer part pulled out, so that shapes computed in
different ways (ceil(H/2), floor((H - 1)/2) + 1) become equal expressions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..types import Dim, as_dim, is_data_symbol

if TYPE_CHECKING:
    import sympy


def product(dims: Iterable[Dim]) -> Dim:
    count: Dim = 1
    for dim in dims:
        count = count * dim
    return count


def exact_div(a: Dim, b: Dim) -> Dim | None:
    """a / b where b is known to divide a; None if both are numbers and b does not, or b is 0."""
    if isinstance(b, int):
        if b == 0:
            return None
        if isinstance(a, int):
            return a // b if a % b == 0 else None
    return _exact_div(a, b)


@functools.lru_cache(4096)
def _exact_div(a: Dim, b: Dim) -> Dim:
    import sympy

    quotient = sympy.sympify(a) / b
    if sympy.fraction(quotient)[1].free_symbols:
        quotient = sympy.cancel(quotient)
    return as_dim(quotient)


def floor_div(a: Dim, b: Dim) -> Dim:
    """floor(a / b)."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return _floor_div(a, b)


@functools.lru_cache(4096)
def _floor_div(a: Dim, b: Dim) -> Dim:
    import sympy

    a = sympy.sympify(a)
    if isinstance(b, int) and b > 0:
        constant, rest = a.as_coeff_Add()
        if isinstance(rest, sympy.floor) and constant.is_Integer:  # floor((floor(x) + c) / b) = floor((x + c) / b)
            a = rest.args[0] + constant
    quotient = sympy.expand(a / b)
    if sympy.fraction(sympy.together(quotient))[1].free_symbols:
        quotient = sympy.cancel(quotient)
    return floor(as_dim(quotient))


def ceil_div(a: Dim, b: Dim) -> Dim:
    """ceil(a / b) of integers."""
    return floor_div(a + b - 1, b)


def simplified(dim: Dim) -> Dim:
    """The dim with common factors of numerator and denominator cancelled."""
    if isinstance(dim, int):
        return dim
    import sympy

    return as_dim(sympy.cancel(dim))


def floor(a: Dim) -> Dim:
    """The largest integer that is no larger; `a` may be a fraction."""
    if isinstance(a, int):
        return a
    import sympy

    constant, rest = sympy.expand(a).as_coeff_Add()
    whole = sympy.floor(constant)
    return as_dim(sympy.floor(rest + (constant - whole)) + whole)


def ceil(a: Dim) -> Dim:
    """The smallest integer that is no smaller; `a` may be a fraction."""
    if isinstance(a, int):
        return a
    import sympy

    numerator, denominator = sympy.fraction(sympy.together(a))
    return floor((numerator + denominator - 1) / denominator) if denominator.is_Integer else as_dim(sympy.ceiling(a))


def scaled(dim: Dim, scale: float) -> Dim:
    """floor(dim * scale), the product rounded to float32 as ONNX Runtime's Resize does.

    For a symbolic dim the scale becomes the plain fraction it was meant to be (0.7 and not its float32 neighbour),
    which gives what the rounded product gives for every size that occurs.
    """
    from fractions import Fraction

    if isinstance(dim, int):
        return int(np.floor(np.float32(scale) * np.float32(dim)))
    fraction = Fraction(float(scale))
    plain = fraction.limit_denominator(1000)
    if np.float32(plain) == np.float32(scale):
        fraction = plain
    return floor_div(dim * fraction.numerator, fraction.denominator)


def is_nonnegative(dim: Dim) -> bool | None:
    """Whether dim >= 0, None if that depends on the symbols. Dims of the inputs are taken to be at least 1."""
    if isinstance(dim, int):
        return dim >= 0
    return _is_nonnegative(dim)


@functools.lru_cache(4096)
def _is_nonnegative(dim: sympy.Expr) -> bool | None:
    import sympy

    shifted = sympy.expand(dim.subs({s: s if is_data_symbol(s) else s + 1 for s in dim.free_symbols}))
    if shifted.is_nonnegative is None and shifted.is_negative is None and shifted.has(sympy.floor):
        # floor(x) lies in (x - 1, x]: decide with every floor replaced by the end that makes the claim hardest.
        lower = sympy.expand(_relaxed(shifted))
        return True if lower.is_nonnegative else None
    return bool(shifted.is_nonnegative) if shifted.is_nonnegative is not None else _no(shifted.is_negative)


def _no(negative: bool | None) -> bool | None:
    return False if negative else None


def _relaxed(expr: sympy.Expr) -> sympy.Expr:
    """A lower bound of a sum, its floors replaced by bounds."""
    import sympy

    total = sympy.Integer(0)
    for term in sympy.Add.make_args(expr):
        factor, rest = term.as_coeff_Mul()
        if isinstance(rest, sympy.floor):
            rest = rest.args[0] if factor < 0 else rest.args[0] - 1
        total += factor * rest
    return total


def smaller(a: Dim, b: Dim) -> Dim:
    """min(a, b), decided where the symbols allow."""
    if is_nonnegative(b - a):
        return a
    if is_nonnegative(a - b):
        return b
    import sympy

    return as_dim(sympy.Min(a, b))


def larger(a: Dim, b: Dim) -> Dim:
    """max(a, b), decided where the symbols allow."""
    if is_nonnegative(a - b):
        return a
    if is_nonnegative(b - a):
        return b
    import sympy

    return as_dim(sympy.Max(a, b))


def clamped(dim: Dim, low: Dim, high: Dim) -> Dim:
    return larger(low, smaller(dim, high))


def complexity(dim: Dim) -> int:
    """0 for a number, 1 for a symbol, 2 for a data symbol, more for expressions: the lower, the better to keep."""
    if isinstance(dim, int):
        return 0
    if dim.is_Symbol:
        return 2 if is_data_symbol(dim) else 1
    return 2 + int(dim.count_ops())
