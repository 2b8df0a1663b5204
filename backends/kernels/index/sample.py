"""Sampling at computed coordinates: GridSample, AffineGrid; and Col2Im, which sums what lands on a pixel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_int, attr_ints, attr_str, ints
from ...base import Element, Expr, Index, defines
from .. import exprs
from ..compose import Operand
from ..exprs import cast_raw, like, select
from .base import clamp, i64, to_i64, zero

MOST_TAPS = 256


@defines("GridSample")
def grid_sample(node: Node, inputs: Sequence[Any]) -> Sequence[Element]:
    """grid[n, ..., k] in [-1, 1] addresses spatial axis rank - 1 - k."""
    x, grid = inputs
    rank = x.type.rank
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
        attr_str(node, "mode", "linear"), attr_str(node, "mode", "linear")
    )

    def element(index: Index) -> Expr:
        places = []
        for axis in range(2, rank):
            at = grid([index[0], *index[2:], i64(rank - 1 - axis)])
            places.append(x.name(_pixel(node, at, x.shape[axis])))
        taps = [_axis_taps(node, mode, x, p, x.shape[axis]) for axis, p in enumerate(places, 2)]
        total: Expr | None = None
        for combination in itertools.product(*taps):
            value = x([*index[:2], *(p for p, _, _ in combination)])
            weight: Expr = like(1.0, value)
            for _, w, inside in combination:
                weight = weight * cast_raw(w, exprs.dtype_of(value))
                if inside is not None:
                    value = select(inside, value, like(0, value))
            total = x.name(value * weight if total is None else total + value * weight)
        return exprs.rounded_to(total, node.outputs[0].type.dtype)

    return [element]


def _pixel(node: Node, at: Expr, extent: Expr) -> Expr:
    """A coordinate in [-1, 1] as a pixel position; beyond the border reflected, if so asked."""
    size = cast_raw(extent, exprs.dtype_of(at))
    one, half = like(1.0, at), like(0.5, at)
    corners = attr_int(node, "align_corners", 0)
    p = (at + one) * half * (size - one) if corners else ((at + one) * size - one) * half
    if attr_str(node, "mode", "linear") == "nearest":
        p = exprs.round_even(p)
    padding = attr_str(node, "padding_mode", "zeros")
    low, high = (like(0.0, at), size - one) if corners else (like(-0.5, at), size - half)
    if padding == "reflection":
        return exprs.let(p, lambda v: _reflect(v, low, high))
    if padding == "border":  # a coordinate between the outermost pixel's centre and its edge stays

        def bounded(v: Expr) -> Expr:
            inside = tirx.max(tirx.min(v, size - one), like(0.0, v))
            return select(tirx.Or(tirx.LT(v, low), tirx.GT(v, high)), inside, v)

        return exprs.let(p, bounded)
    return p


def _reflect(p: Expr, low: Expr, high: Expr) -> Expr:
    """p folded into [low, high] by mirrors at both ends."""
    span = tirx.max(high - low, like(1e-6, p))
    period = span * like(2.0, p)
    t = p - low
    t = t - tirx.floor(t / period) * period
    return low + tirx.min(t, period - t)


def _axis_taps(node: Node, mode: str, x: Operand, p: Expr, extent: Expr) -> list[tuple[Expr, Expr, Expr | None]]:
    """(position, weight, whether it is inside) of the pixels that a coordinate draws from."""
    padding = attr_str(node, "padding_mode", "zeros")
    if mode == "nearest":
        places, weights = [exprs.round_even(p)], [like(1.0, p)]
    else:
        base = x.name(tirx.floor(p))
        t = x.name(p - base)
        offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
        places = [base + like(float(o), p) for o in offsets]
        distances = [tirx.abs(t - like(float(o), p)) for o in offsets]
        weights = [like(1.0, d) - d if mode == "linear" else _cubic(x.name(d)) for d in distances]
    out = []
    for place, weight in zip(places, weights, strict=True):
        if padding == "reflection":
            size = cast_raw(extent, exprs.dtype_of(place))
            corners = attr_int(node, "align_corners", 0)
            one, half = like(1.0, place), like(0.5, place)
            low, high = (like(0.0, place), size - one) if corners else (like(-0.5, place), size - half)
            place = exprs.round_even(_reflect(place, low, high)) if mode != "nearest" else place
        at = x.name(to_i64(place))
        inside = tirx.And(tirx.GE(at, zero()), tirx.LT(at, extent)) if padding == "zeros" else None
        out.append((x.name(clamp(at, extent)), x.name(weight), None if inside is None else x.name(inside)))
    return out


def _cubic(d: Expr) -> Expr:
    """Keys' kernel with a = -0.75."""
    a = -0.75
    near = (like(a + 2, d) * d - like(a + 3, d)) * d * d + like(1.0, d)
    far = ((like(a, d) * d - like(5 * a, d)) * d + like(8 * a, d)) * d - like(4 * a, d)
    return select(tirx.LE(d, like(1.0, d)), near, far)


@defines("AffineGrid")
def affine_grid(node: Node, inputs: Sequence[Any]) -> Sequence[Element] | None:
    """theta times (x, y[, z], 1), the coordinates evenly spread over [-1, 1]."""
    theta = inputs[0]
    out = node.outputs[0].type
    if not out.is_static:
        return None
    spatial = out.static_shape[1:-1]
    corners = attr_int(node, "align_corners", 0)

    def element(index: Index) -> Expr:
        total = theta([index[0], index[-1], i64(len(spatial))])
        for k, (position, size) in enumerate(zip(reversed(index[1:-1]), reversed(spatial), strict=True)):
            p = cast_raw(position, exprs.dtype_of(total))
            step = 2.0 / max(size - 1, 1) if corners else 2.0 / size
            start = -1.0 if corners else -1.0 + 1.0 / size
            at = p * like(step, p) + like(start if size > 1 or not corners else 0.0, p)
            total = total + theta([index[0], index[-1], i64(k)]) * at
        return exprs.rounded_to(total, out.dtype)

    return [element]


@defines("Col2Im")
def col2im(node: Node, inputs: Sequence[Any]) -> Sequence[Element] | None:
    """Sums, for every place in the kernel, the column whose block covers the pixel there."""
    x = inputs[0]
    image, block = ints(node, 1), ints(node, 2)
    if image is None or block is None or any(not isinstance(v, int) for v in (*image, *block)):
        return None
    if math.prod(int(b) for b in block) > MOST_TAPS:
        return None
    rank = len(image)
    dilations = attr_ints(node, "dilations") or (1,) * rank
    strides = attr_ints(node, "strides") or (1,) * rank
    pads = attr_ints(node, "pads") or (0,) * (2 * rank)
    counts = [
        (int(image[d]) + pads[d] + pads[d + rank] - dilations[d] * (int(block[d]) - 1) - 1) // strides[d] + 1
        for d in range(rank)
    ]
    size = math.prod(int(b) for b in block)

    def element(index: Index) -> Expr:
        total: Expr | None = None
        for number, place in enumerate(itertools.product(*(range(int(b)) for b in block))):
            column: Expr = zero()
            covered: Expr | None = None
            for d, offset in enumerate(place):
                shifted = index[2 + d] + i64(pads[d] - offset * dilations[d])
                step = tirx.floordiv(shifted, i64(strides[d]))
                fits = tirx.And(tirx.GE(step, zero()), tirx.LT(step, i64(counts[d])))
                if strides[d] > 1:
                    fits = tirx.And(fits, tirx.EQ(tirx.floormod(shifted, i64(strides[d])), zero()))
                covered = fits if covered is None else tirx.And(covered, fits)
                column = column * i64(counts[d]) + clamp(step, i64(counts[d]))
            value = x([index[0], index[1] * i64(size) + i64(number), column])
            value = select(covered, value, like(0, value))
            total = x.name(value if total is None else total + value)
        return exprs.rounded_to(total, node.outputs[0].type.dtype)

    return [element]
