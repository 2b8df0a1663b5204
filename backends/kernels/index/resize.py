"""Resize and Upsample: an output element is a weighted sum of taps, the taps of each axis multiplied together.

Coordinates are computed in float64, as the specification's reference does, so that ties fall alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_float, attr_int, attr_ints, attr_str, const
from ....compiler.types import DType, same_dim
from ...base import Element, Expr, Index, defines
from .. import exprs
from ..compose import Operand
from ..exprs import cast_raw, like, select
from .base import clamp, i64, to_i64, zero
from .cast import saturate

MOST_TAPS = 512
"""Sums of more taps than this are left to the C op."""


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized: output position to source coordinate."""

    scale: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class _Tap:
    position: Expr
    weight: Expr | None


@defines("Resize", "Upsample")
def resize(node: Node, inputs: Sequence[Any]) -> Sequence[Element] | None:
    x = inputs[0]
    mode = attr_str(node, "mode", "nearest")
    axes = _axes(node, x)
    if axes is None or not x.type.is_static or not node.outputs[0].type.is_static:
        return None
    taps = math.prod(_count(node, mode, axis) for axis in axes.values())
    if taps > MOST_TAPS:
        return None
    dtype = node.outputs[0].type.dtype

    def element(index: Index) -> Expr:
        found: list[list[_Tap]] = []
        outside: Expr | None = None
        for axis, place in axes.items():
            have, want = x.type.static_shape[axis], node.outputs[0].type.static_shape[axis]
            coordinate = x.name(_source(node, place, index[axis], have, want))
            if attr_str(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
                beyond = tirx.Or(
                    tirx.LT(coordinate, like(0, coordinate)), tirx.GT(coordinate, like(have - 1, coordinate))
                )
                outside = beyond if outside is None else tirx.Or(outside, beyond)
            found.append(_taps(node, mode, x, coordinate, place, have))
        value = _sum(x, index, list(axes), found, dtype)
        if outside is not None:
            value = select(outside, like(attr_float(node, "extrapolation_value", 0.0), value), value)
        return exprs.rounded_to(value, dtype)

    return [element]


def _axes(node: Node, x: Operand) -> dict[int, _Axis] | None:
    """What happens along each axis that is resized; None if not known when compiling."""
    rank = x.type.rank
    out = node.outputs[0].type.dims
    chosen = [a % rank for a in attr_ints(node, "axes") or range(rank)]
    old = node.op == "Upsample"
    scales, sizes = const(node, 1 if old else 2), None if old else const(node, 3)
    if "scales" in node.attrs:
        scales = np.asarray(node.attrs["scales"], "float32")
    if sizes is not None and sizes.size == 0:
        sizes = None
    if scales is not None and scales.size == 0:
        scales = None
    if scales is None and sizes is None:
        return None
    roi = const(node, 1) if attr_str(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize" else None
    if scales is not None:
        factors = [float(s) for s in scales]
    else:
        factors = [int(sizes[n]) / int(x.type.dims[a]) for n, a in enumerate(chosen)]  # type: ignore[index]
        policy = attr_str(node, "keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [min(factors) if policy == "not_larger" else max(factors)] * len(chosen)
    found = {}
    for n, axis in enumerate(chosen):
        region = (0.0, 1.0) if roi is None else (float(roi[n]), float(roi[n + len(chosen)]))
        if not (same_dim(out[axis], x.type.dims[axis]) and factors[n] == 1.0 and region == (0.0, 1.0)):
            found[axis] = _Axis(factors[n], *region)
    return found


def _source(node: Node, axis: _Axis, position: Expr, have: int, want: int) -> Expr:
    """The source coordinate, float64, of an output position (Resize, coordinate_transformation_mode)."""
    default = "asymmetric" if node.op == "Upsample" else "half_pixel"
    mode = attr_str(node, "coordinate_transformation_mode", default)
    p = cast_raw(position, "float64")
    scaled = axis.scale * have

    def number(value: float) -> Expr:
        return like(value, p)

    if mode == "asymmetric":
        return p / number(axis.scale)
    if mode == "align_corners":
        return number(0.0) if scaled == 1 else p * number(have - 1) / number(scaled - 1)
    if mode == "tf_crop_and_resize":
        span = (axis.end - axis.start) * (have - 1)
        offset = number(axis.start * (have - 1))
        if scaled == 1:
            return number(span / 2) + offset
        return p * number(axis.end - axis.start) * number(have - 1) / number(scaled - 1) + offset
    if mode == "pytorch_half_pixel" and scaled == 1:
        return number(-0.5)
    out = (p + number(0.5)) / number(axis.scale) - number(0.5)
    if mode == "half_pixel_symmetric":
        return number(have / 2 * (1 - want / scaled)) + out
    return out


def _support(node: Node, axis: _Axis) -> float:
    """By how much an antialiasing filter is stretched: 1 / scale when shrinking."""
    return 1.0 / min(axis.scale, 1.0) if attr_int(node, "antialias", 0) else 1.0


def _count(node: Node, mode: str, axis: _Axis) -> int:
    if mode == "nearest":
        return 1
    radius = 2 if mode == "cubic" else 1
    return 2 - 2 * int(math.floor(-radius * _support(node, axis)) + 1)


def _taps(node: Node, mode: str, x: Operand, coordinate: Expr, axis: _Axis, have: int) -> list[_Tap]:
    extent = i64(have)
    if mode == "nearest":
        return [_Tap(x.name(clamp(to_i64(_nearest(node, coordinate)), extent)), None)]
    base = x.name(tirx.ceil(coordinate) - like(1.0, coordinate))  # the ratio lies in (0, 1]
    ratio = x.name(coordinate - base)
    count = _count(node, mode, axis)
    stretch = _support(node, axis)
    weights, positions = [], []
    for n in range(count):
        offset = n - (count // 2 - 1)
        distance = vabs(ratio - like(float(offset), ratio)) / like(stretch, ratio)
        weights.append(x.name(_cubic(node, x.name(distance)) if mode == "cubic" else _linear(distance)))
        positions.append(x.name(to_i64(base) + i64(offset)))
    if attr_int(node, "exclude_outside", 0):
        inside = [tirx.And(tirx.GE(p, zero()), tirx.LT(p, extent)) for p in positions]
        weights = [x.name(select(i, w, like(0.0, w))) for i, w in zip(inside, weights, strict=True)]
    if attr_int(node, "exclude_outside", 0) or attr_int(node, "antialias", 0):
        total = weights[0]
        for w in weights[1:]:
            total = total + w
        total = x.name(total)
        weights = [x.name(w / total) for w in weights]
    return [_Tap(x.name(clamp(p, extent)), w) for p, w in zip(positions, weights, strict=True)]


def vabs(value: Expr) -> Expr:
    return tirx.abs(value)


def _nearest(node: Node, coordinate: Expr) -> Expr:
    default = "floor" if node.op == "Upsample" else "round_prefer_floor"
    mode = attr_str(node, "nearest_mode", default)
    half = like(0.5, coordinate)
    if mode == "floor":
        return tirx.floor(coordinate)
    if mode == "ceil":
        return tirx.ceil(coordinate)
    return tirx.ceil(coordinate - half) if mode == "round_prefer_floor" else tirx.floor(coordinate + half)


def _linear(distance: Expr) -> Expr:
    return tirx.max(like(1.0, distance) - distance, like(0.0, distance))


def _cubic(node: Node, d: Expr) -> Expr:
    """Keys' kernel with parameter a."""
    a = attr_float(node, "cubic_coeff_a", -0.75)
    near = (like(a + 2, d) * d - like(a + 3, d)) * d * d + like(1.0, d)
    far = ((like(a, d) * d - like(5 * a, d)) * d + like(8 * a, d)) * d - like(4 * a, d)
    return select(tirx.LE(d, like(1.0, d)), near, select(tirx.LT(d, like(2.0, d)), far, like(0.0, d)))


def _sum(x: Operand, index: Index, axes: Sequence[int], taps: Sequence[Sequence[_Tap]], dtype: DType) -> Expr:
    """Σ over the product of the axes' taps; float64 for float64, integers rounded to nearest even in the end."""
    compute = "float64" if dtype is DType.F64 or not dtype.is_float else "float32"
    total: Expr | None = None
    for combination in itertools.product(*taps):
        at = list(index)
        weight: Expr | None = None
        for axis, tap in zip(axes, combination, strict=True):
            at[axis] = tap.position
            if tap.weight is not None:
                weight = tap.weight if weight is None else weight * tap.weight
        value = x(at)
        if weight is None:
            return value
        term = cast_raw(value, compute) * cast_raw(weight, compute)
        total = term if total is None else x.name(total + term)
    if total is None:
        return x(index)
    return total if dtype.is_float else saturate(tirx.trunc(total), dtype)
