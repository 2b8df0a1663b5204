"""Elementary functions as branch-free float32 expressions that work lane by lane: for a scalar or a vector alike.

Errors stay within a few units in the last place over the whole range; infinities give their limits, NaN stays NaN.
Polynomials: exp, log and tanh after Cephes (S. Moshier); erf after N. Juffa's minimax polynomials. float16 is computed
in float32; float64 goes to the C library.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from .bindings import bound
from .builder import Expr

_Function = Callable[[Expr], Expr]
_Let = Callable[[Expr], Expr]
_Definition = Callable[[Expr, _Let], Expr]

_LOG_OF_NORMAL = -87.0
"""From here up e^x is a normal float32."""


def _precise(double: _Function | None = None) -> Callable[[_Definition], _Function]:
    """Makes a float32 definition serve float16 too; float64 takes `double`, or TIR's intrinsic of the same name."""

    def wrap(define: _Definition) -> _Function:
        @functools.wraps(define)
        def function(x: Expr) -> Expr:
            dtype = _dtype(x)
            if dtype.startswith("float64"):
                return double(x) if double else getattr(tirx, define.__name__)(x)
            if not dtype.startswith("float32"):
                return tirx.Cast(dtype, bound(define, tirx.Cast("float32" + _suffix(dtype), x)))
            return bound(define, x)

        return function

    return wrap


def _pointwise(define: _Definition) -> _Function:
    """A definition for every float dtype."""

    @functools.wraps(define)
    def function(x: Expr) -> Expr:
        return bound(define, x)

    return function


def _dtype(x: Expr) -> str:
    return str(x.ty.dtype)


def _suffix(dtype: str) -> str:
    """The lanes part of a dtype: "" or "x16"."""
    return "x" + dtype.rpartition("x")[2] if "x" in dtype else ""


def like(value: float, x: Expr) -> Expr:
    """A constant of x's type and lanes."""
    return _constant(value, _dtype(x))


def _constant(value: float, dtype: str) -> Expr:
    base, _, lanes = dtype.partition("x")
    scalar = tirx.IntImm(base, int(value)) if base.startswith("int") else tirx.FloatImm(base, float(value))
    return tirx.Broadcast(scalar, int(lanes)) if lanes else scalar


def _int(value: int, x: Expr) -> Expr:
    return _constant(value, "int32" + _suffix(_dtype(x)))


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret("int32" + _suffix(_dtype(x)), x)


def _from_bits(bits: Expr) -> Expr:
    return tirx.reinterpret("float32" + _suffix(_dtype(bits)), bits)


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme, highest power first."""
    out = like(coefficients[0], x)
    for c in coefficients[1:]:
        out = out * x + like(c, x)
    return out


def at_least(x: Expr, low: float) -> Expr:
    """max(x, low), with NaN staying NaN."""
    return bound(lambda v, _: tirx.Select(v < like(low, v), like(low, v), v), x)


def at_most(x: Expr, high: float) -> Expr:
    """min(x, high), with NaN staying NaN."""
    return bound(lambda v, _: tirx.Select(v > like(high, v), like(high, v), v), x)


def clip(x: Expr, low: float, high: float) -> Expr:
    """x limited to [low, high]."""
    return at_most(at_least(x, low), high)


def maximum(x: Expr, y: Expr) -> Expr:
    """The larger; NaN if either is."""
    return bound(lambda a, b, _: tirx.Select(a != a, a, tirx.Select(a > b, a, b)), x, y)


def minimum(x: Expr, y: Expr) -> Expr:
    """The smaller; NaN if either is."""
    return bound(lambda a, b, _: tirx.Select(a != a, a, tirx.Select(a < b, a, b)), x, y)


def absolute(x: Expr) -> Expr:
    """|x| by clearing the sign."""
    if not _dtype(x).startswith("float32"):
        return tirx.abs(x)
    return _from_bits(tirx.bitwise_and(_bits(x), _int(0x7FFFFFFF, x)))


def _with_sign_of(value: Expr, sign: Expr) -> Expr:
    """`value`, which is not negative, with the sign bit of `sign`."""
    return _from_bits(tirx.bitwise_or(_bits(value), tirx.bitwise_and(_bits(sign), _int(-(1 << 31), sign))))


@_precise()
def exp(x: Expr, let: _Let) -> Expr:
    """e^x = 2^n e^r with |r| <= ln 2 / 2.

    The scaling by 2^n goes in two steps: so it reaches denormals, and overflows to infinity.
    """
    p, n = _exp_parts(let(clip(x, -104.0, 89.0)), let)
    half = let(tirx.shift_right(n, _int(1, x)))
    return p * _power_of_two(half) * _power_of_two(n - half)


@_precise(double=tirx.exp)
def exp_of_negative(x: Expr, let: _Let) -> Expr:
    """e^x for x <= 0, and 0 where that would be no normal number: arithmetic that makes denormals is slow."""
    p, n = _exp_parts(let(at_least(x, _LOG_OF_NORMAL)), let)
    return tirx.Select(x < like(_LOG_OF_NORMAL, x), like(0.0, x), p * _power_of_two(n))


def _exp_parts(x: Expr, let: _Let) -> tuple[Expr, Expr]:
    """p and n with e^x = p 2^n."""
    magic = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits
    n = let(_bits(x * like(1.44269504088896341, x) + like(magic, x)) - _int(0x4B400000, x))
    whole = let(tirx.Cast(_dtype(x), n))
    r = let(x - whole * like(0.693359375, x) - whole * like(-2.12194440e-4, x))
    p = _polynomial(
        r, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
    )
    return p * (r * r) + r + like(1.0, x), n


def _power_of_two(n: Expr) -> Expr:
    """2^n for -126 <= n <= 127."""
    return _from_bits(tirx.shift_left(n + _constant(127, _dtype(n)), _constant(23, _dtype(n))))


@_precise()
def log(x: Expr, let: _Let) -> Expr:
    """ln x = e ln 2 + ln m with m in [sqrt(1/2), sqrt(2)); -infinity at 0, NaN below."""
    zero, one = like(0.0, x), like(1.0, x)
    tiny = let(tirx.Select(x < like(1.17549435e-38, x), one, zero))
    bits = let(_bits(tirx.Select(tiny > zero, x * like(8388608.0, x), x)))
    m = let(_from_bits(tirx.bitwise_or(tirx.bitwise_and(bits, _int(0x007FFFFF, x)), _int(0x3F000000, x))))
    small = let(tirx.Select(m < like(math.sqrt(0.5), x), one, zero))
    e = tirx.Cast(_dtype(x), tirx.shift_right(bits, _int(23, x)) - _int(126, x))
    e = let(e - small - tiny * like(23.0, x))
    m = let(m + small * m - one)
    z = let(m * m)
    p = _polynomial(
        m,
        (
            *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
            *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
        ),
    )
    y = m + (p * m * z + e * like(-2.12194440e-4, x) - like(0.5, x) * z) + e * like(0.693359375, x)
    y = tirx.Select(x > zero, y, tirx.Select(tirx.EQ(x, zero), like(-math.inf, x), like(math.nan, x)))
    return tirx.Select(x < like(math.inf, x), y, x)


@_precise()
def log1p(x: Expr, let: _Let) -> Expr:
    """ln(1 + x), with what the sum 1 + x lost added back."""
    zero, one = like(0.0, x), like(1.0, x)
    u = let(one + x)
    lost = (x - (u - one)) / u
    lost = tirx.Select(u < like(math.inf, x), tirx.Select(u > zero, lost, zero), zero)
    return log(u) + lost


@_precise(double=lambda x: tirx.exp(x) - like(1.0, x))
def expm1(x: Expr, let: _Let) -> Expr:
    """e^x - 1, precise near zero: Taylor's series for |x| < 0.4."""
    near = _polynomial(x, tuple(1.0 / math.factorial(n) for n in range(8, 1, -1)))
    near = near * (x * x) + x
    return tirx.Select(absolute(x) < like(0.4, x), near, exp(x) - like(1.0, x))


@_precise()
def tanh(x: Expr, let: _Let) -> Expr:
    """1 - 2 / (e^(2|x|) + 1) with the sign of x; an odd polynomial for |x| < 0.625."""
    a, z = let(absolute(x)), let(x * x)
    near = _polynomial(z, (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1))
    near = near * z * x + x
    far = like(1.0, x) - like(2.0, x) / (exp(a + a) + like(1.0, x))
    return tirx.Select(a < like(0.625, x), near, _with_sign_of(far, x))


@_precise(double=lambda x: like(1.0, x) / (like(1.0, x) + tirx.exp(-x)))
def sigmoid(x: Expr, let: _Let) -> Expr:
    """1 / (1 + e^-x), from e^-|x| so that nothing overflows."""
    e = let(exp(like(0.0, x) - absolute(x)))
    return tirx.Select(x < like(0.0, x), e, like(1.0, x)) / (e + like(1.0, x))


@_precise()
def erf(x: Expr, let: _Let) -> Expr:
    """The error function: a polynomial near zero, 1 - e^p(|x|) elsewhere."""
    s, t = let(x * x), let(at_most(absolute(x), 10.0))
    near = _polynomial(s, (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1))
    near = near * x + x
    p = _polynomial(
        t,
        (-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1, -6.34846687e-1, -1.28717512e-1),
    )
    far = _with_sign_of(like(1.0, x) - exp(p * t - t), x)
    return tirx.Select(t > like(0.927734375, x), far, near)


@_pointwise
def gelu(x: Expr, let: _Let) -> Expr:
    """x Φ(x) = x (1 + erf(x / sqrt 2)) / 2."""
    x = let(at_least(x, -20.0))
    return x * like(0.5, x) * (like(1.0, x) + erf(x * like(math.sqrt(0.5), x)))


@_pointwise
def gelu_tanh(x: Expr, let: _Let) -> Expr:
    """The tanh form of gelu: x (1 + tanh(sqrt(2/π) (x + 0.044715 x³))) / 2 = x sigmoid(2 sqrt(2/π) (...))."""
    x = let(at_least(x, -20.0))
    inner = (x * x * like(0.044715, x) + like(1.0, x)) * x
    return x * sigmoid(inner * like(2.0 * math.sqrt(2.0 / math.pi), x))


_NEAR = 4.25
"""From here on gelu is x or zero as far as bfloat16 can tell."""


@_pointwise
def short_gelu(x: Expr, let: _Let) -> Expr:
    """gelu within 2^-14: x Φ(x) with Φ(x) - 1/2 an odd minimax polynomial, for what is stored in bfloat16."""
    return _short_gelu(
        x,
        let,
        (5.6194014e-11, -5.37226995e-09, 2.27076802e-07, -5.65536791e-06, 9.37419162e-05, -1.11071173e-03,
         9.824077e-03, -6.63596242e-02, 3.98912228e-01),
    )  # fmt: skip


@_pointwise
def short_gelu_tanh(x: Expr, let: _Let) -> Expr:
    """The tanh form of gelu within 2^-14, likewise."""
    return _short_gelu(
        x,
        let,
        (5.37469139e-11, -5.25391436e-09, 2.26471518e-07, -5.72221525e-06, 9.54724551e-05, -1.12865011e-03,
         9.9048306e-03, -6.64529929e-02, 3.98787765e-01),
    )  # fmt: skip


def _short_gelu(x: Expr, let: _Let, coefficients: Sequence[float]) -> Expr:
    x = let(at_least(x, -20.0))
    near = let(at_least(at_most(x, _NEAR), -_NEAR))
    return x * (near * _polynomial(let(near * near), coefficients) + like(0.5, x))


@_pointwise
def softplus(x: Expr, let: _Let) -> Expr:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)."""
    return at_least(x, 0.0) + log1p(exp(like(0.0, x) - absolute(x)))


@_pointwise
def silu(x: Expr, let: _Let) -> Expr:
    """x sigmoid(x)."""
    return at_least(x, -800.0) * sigmoid(x)


@_pointwise
def mish(x: Expr, let: _Let) -> Expr:
    """x tanh(softplus(x)) = x n / (n + 2) with n = e^x (e^x + 2)."""
    e = let(exp(at_most(x, 20.0)))
    n = let(e * (e + like(2.0, x)))
    return at_least(x, -800.0) * (n / (n + like(2.0, x)))


def relu(x: Expr) -> Expr:
    """max(x, 0)."""
    return at_least(x, 0.0)


def hard_sigmoid(x: Expr, alpha: float = 0.2, beta: float = 0.5) -> Expr:
    """max(0, min(1, alpha x + beta))."""
    return clip(x * like(alpha, x) + like(beta, x), 0.0, 1.0)


@_pointwise
def hard_swish(x: Expr, let: _Let) -> Expr:
    """x hard_sigmoid(x) with alpha = 1/6 and beta = 1/2."""
    return at_least(x, -4.0) * hard_sigmoid(x, 1.0 / 6.0, 0.5)


def elu(x: Expr, alpha: float = 1.0) -> Expr:
    """x where positive, else alpha (e^x - 1)."""
    return bound(lambda v, _: tirx.Select(v > like(0.0, v), v, expm1(v) * like(alpha, v)), x)


def selu(x: Expr, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Expr:
    """gamma elu(x, alpha)."""
    return elu(x, alpha) * like(gamma, x)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": exp,
    "log": log,
    "log1p": log1p,
    "expm1": expm1,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "erf": erf,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "softplus": softplus,
    "silu": silu,
    "mish": mish,
    "relu": relu,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "elu": elu,
    "selu": selu,
}
"""The functions of one argument by name."""
