"""Activations and elementary functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_float, attr_int, attr_str
from ...base import Element, Expr, Index, defines
from .. import exprs, vmath
from ..exprs import dtype_of, is_float, let, like, select
from .base import pointwise, stored_short

Args = Sequence[Any]


def _function(op: str, function: Callable[[Expr], Expr]) -> None:
    @pointwise(op)
    def apply(node: Node, args: Args) -> Expr:
        return let(args[0], function)


_function("Exp", vmath.exp)
_function("Log", vmath.log)
_function("Tanh", vmath.tanh)
_function("Sigmoid", vmath.sigmoid)
_function("Erf", vmath.erf)
_function("Softplus", vmath.softplus)
_function("Mish", vmath.mish)
_function("HardSwish", vmath.hard_swish)
for _name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"):
    _function(_name.capitalize(), functools.partial(exprs.libm, _name))


@pointwise("Relu")
def relu(node: Node, args: Args) -> Expr:
    x = args[0]
    return vmath.relu(x) if is_float(dtype_of(x)) else tirx.max(x, like(0, x))


@pointwise("LeakyRelu")
def leaky_relu(node: Node, args: Args) -> Expr:
    x, alpha = args[0], attr_float(node, "alpha", 0.01)
    return select(tirx.LT(x, like(0.0, x)), x * like(alpha, x), x)


@pointwise("PRelu")
def prelu(node: Node, args: Args) -> Expr:
    x, slope = args
    return select(tirx.LT(x, like(0, x)), x * slope, x)


@pointwise("Elu")
def elu(node: Node, args: Args) -> Expr:
    return let(args[0], lambda x: vmath.elu(x, attr_float(node, "alpha", 1.0)))


@pointwise("Selu")
def selu(node: Node, args: Args) -> Expr:
    alpha = attr_float(node, "alpha", 1.67326319217681884765625)
    gamma = attr_float(node, "gamma", 1.05070102214813232421875)
    return let(args[0], lambda x: vmath.selu(x, alpha, gamma))


@pointwise("Celu")
def celu(node: Node, args: Args) -> Expr:
    """max(0, x) + min(0, alpha (e^(x / alpha) - 1))."""
    alpha = attr_float(node, "alpha", 1.0)

    def define(x: Expr) -> Expr:
        curve = let(x / like(alpha, x), vmath.expm1) * like(alpha, x)
        return select(tirx.LT(x, like(0.0, x)), curve, x)

    return let(args[0], define)


@pointwise("ThresholdedRelu")
def thresholded_relu(node: Node, args: Args) -> Expr:
    x = args[0]
    return select(tirx.GT(x, like(attr_float(node, "alpha", 1.0), x)), x, like(0.0, x))


@pointwise("HardSigmoid")
def hard_sigmoid(node: Node, args: Args) -> Expr:
    return vmath.hard_sigmoid(args[0], attr_float(node, "alpha", 0.2), attr_float(node, "beta", 0.5))


@pointwise("Softsign")
def softsign(node: Node, args: Args) -> Expr:
    x = args[0]
    return x / (like(1.0, x) + vmath.absolute(x))


@pointwise("Gelu", "com.microsoft.Gelu", "com.microsoft.FastGelu")
def gelu(node: Node, args: Args) -> Expr:
    """`approximate` chooses between erf and tanh; FastGelu takes a bias as well."""
    x = args[0] if len(args) < 2 or args[1] is None else args[0] + args[1]
    fast = node.op.endswith("FastGelu") or attr_str(node, "approximate", "none") == "tanh"
    if stored_short(node):
        return let(x, vmath.short_gelu_tanh if fast else vmath.short_gelu)
    return let(x, vmath.gelu_tanh if fast else vmath.gelu)


@pointwise("com.microsoft.QuickGelu", "Swish")
def swish(node: Node, args: Args) -> Expr:
    """x sigmoid(alpha x)."""
    alpha = attr_float(node, "alpha", 1.0 if node.op == "Swish" else 1.702)
    if alpha == 1.0:
        return let(args[0], vmath.silu)
    return let(args[0], lambda x: x * let(x * like(alpha, x), vmath.sigmoid))


@pointwise("Shrink")
def shrink(node: Node, args: Args) -> Expr:
    """x + bias below -lambd, x - bias above lambd, 0 between; integers as float."""
    x, bias, lambd = args[0], attr_float(node, "bias", 0.0), attr_float(node, "lambd", 0.5)
    dtype = dtype_of(x)
    wide = dtype if is_float(dtype) else "float32"
    v = exprs.cast_raw(x, wide)
    above = select(tirx.GT(v, like(lambd, v)), v - like(bias, v), like(0.0, v))
    return exprs.cast_raw(select(tirx.LT(v, like(-lambd, v)), v + like(bias, v), above), dtype)


@defines("BatchNormalization")
def batch_normalization(node: Node, inputs: Sequence[Any]) -> Sequence[Element] | None:
    """Inference form: (x - mean) scale / sqrt(variance + epsilon) + bias, per channel (axis 1)."""
    if attr_int(node, "training_mode", 0) or len(node.outputs) > 1:
        return None
    epsilon = attr_float(node, "epsilon", 1e-5)

    def element(index: Index) -> Expr:
        x = inputs[0](index)
        scale, bias, mean, variance = (exprs.cast_raw(p([index[1]]), dtype_of(x)) for p in inputs[1:5])
        factor = scale / tirx.sqrt(variance + like(epsilon, variance))
        return exprs.rounded_to((x - mean) * factor + bias, node.outputs[0].type.dtype)

    return [element]
