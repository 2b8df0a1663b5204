"""Where a value can lie: what the ranges of integers, their scales and clips say of the floats computed from them.

Interval arithmetic in float64 (Moore, "Interval Analysis", 1966); what float32 rounds on the way comes on top.
"""

from __future__ import annotations

import math

import numpy as np

from ...compiler.ir import Node, Value

Interval = tuple[float, float]
ANYWHERE: Interval = (-math.inf, math.inf)
"""Also said of what may be NaN."""
_UNIT: dict[str, Interval] = {"Erf": (-1.0, 1.0), "HardSigmoid": (0.0, 1.0), "Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0)}


def bounds(value: Value) -> Interval:
    """The least and the largest that an element can be."""
    if value.data is not None:
        array = np.asarray(value.data, np.float64)
        return (float(array.min()), float(array.max())) if array.size and np.isfinite(array).all() else ANYWHERE
    if value.type.dtype.is_int:
        info = np.iinfo(value.type.dtype.numpy)
        return float(info.min), float(info.max)
    node = value.producer
    if node is None:
        return ANYWHERE
    given = [bounds(v) for v in node.inputs if v is not None]
    if any(b == ANYWHERE for b in given):
        return ANYWHERE
    return _UNIT[node.op] if node.op in _UNIT else _computed(node, given)


def _computed(node: Node, given: list[Interval]) -> Interval:
    if node.op == "DequantizeLinear":
        return _product(_sum(given[0], _negative(given[2])) if len(given) > 2 else given[0], given[1])
    if node.op == "Mul":
        return _product(*given)
    if node.op == "Add":
        return _sum(*given)
    if node.op == "Sub":
        return _sum(given[0], _negative(given[1]))
    if node.op == "Relu":
        return max(given[0][0], 0.0), max(given[0][1], 0.0)
    if node.op == "Clip" and all(v is not None for v in node.inputs[1:]) and len(given) == 3:
        (low, high), bottom, top = given
        return min(max(low, bottom[0]), top[0]), min(max(high, bottom[1]), top[1])
    return ANYWHERE


def _negative(a: Interval) -> Interval:
    return -a[1], -a[0]


def _sum(a: Interval, b: Interval) -> Interval:
    return a[0] + b[0], a[1] + b[1]


def _product(a: Interval, b: Interval) -> Interval:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)
