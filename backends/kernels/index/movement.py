"""Ops that move elements: Transpose, Reshape and its kin, Slice, Concat, Split, Pad, Expand, Tile, DepthToSpace..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_int, attr_ints, attr_str, ints
from ....compiler.types import Dim, same_dim
from ...base import Element, Expr, Index, defines
from .. import exprs
from ..compose import Operand
from .base import broadcast, clamp, i64, permuted, zero

Inputs = Sequence[Any]
Elements = Sequence[Element]


@defines("Transpose")
def transpose(node: Node, inputs: Inputs) -> Elements:
    x = inputs[0]
    rank = x.type.rank
    perm = attr_ints(node, "perm") or tuple(reversed(range(rank)))
    back = [perm.index(axis) for axis in range(rank)]
    return [lambda index: x(permuted(index, back))]


@defines("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: Node, inputs: Inputs) -> Elements:
    x = inputs[0]
    return [lambda index: x(reshaped(index, node.outputs[0].type.dims, x))]


def reshaped(index: Index, shape: Sequence[Dim], x: Operand) -> list[Expr]:
    """Where in x an element of x's bytes seen as `shape` lies; dims that the shapes share pass through."""
    source = x.type.dims
    out: list[Expr] = []
    a = b = 0
    while b < len(source):
        first_a, first_b = a, b
        b += 1
        have: Dim = source[first_b]
        want: Dim = 1
        while not same_dim(have, want) and (a < len(shape) or b < len(source)):
            shorter = isinstance(have, int) and isinstance(want, int) and have < want
            if b < len(source) and (shorter or a == len(shape)):
                have, b = have * source[b], b + 1
            elif a < len(shape):
                want, a = want * shape[a], a + 1
        out += _regrouped(index[first_a:a], shape[first_a:a], source[first_b:b], x)
    return out


def _regrouped(index: Index, shape: Sequence[Dim], source: Sequence[Dim], x: Operand) -> list[Expr]:
    """The index in dims `source` of what lies at `index` in dims `shape`, both of one size."""
    pairs = [(i, d) for i, d in zip(index, shape, strict=True) if d != 1]
    wide = [d for d in source if d != 1]
    if len(pairs) == 1 and len(wide) == 1:
        return [zero() if d == 1 else pairs[0][0] for d in source]
    flat: Expr = zero()
    for position, dim in pairs:
        flat = flat * x.dims.expr(dim) + position
    out: list[Expr] = []
    left = len(wide)
    for dim in reversed(source):
        if dim == 1:
            out.append(zero())
            continue
        left -= 1
        extent = x.dims.expr(dim)
        out.append(tirx.floormod(flat, extent) if left else flat)
        flat = tirx.floordiv(flat, extent)
    return out[::-1]


@defines("Slice")
def slice_(node: Node, inputs: Inputs) -> Elements | None:
    """Element i along an axis is element start + i step; needs starts, axes and steps known when compiling."""
    x = inputs[0]
    rank = x.type.rank
    starts = attr_ints(node, "starts") or ints(node, 1)
    if starts is None:
        return None
    axes = attr_ints(node, "axes") or ints(node, 3) or range(len(starts))
    steps = ints(node, 4) or [1] * len(starts)
    if any(not isinstance(v, int) for v in (*axes, *steps)) or (node.input(3) and ints(node, 3) is None):
        return None
    if node.input(4) is not None and ints(node, 4) is None:
        return None
    places = {int(a) % rank: (s, int(step)) for a, s, step in zip(axes, starts, steps, strict=True)}

    def element(index: Index) -> Expr:
        out = list(index)
        for axis, (start, step) in places.items():
            out[axis] = _start(x, x.type.dims[axis], start, step) + index[axis] * i64(step)
        return x(out)

    return [element]


def _start(x: Operand, dim: Dim, start: Dim, step: int) -> Expr:
    """The first position of a slice, counted from the front and within the tensor."""
    if isinstance(dim, int) and isinstance(start, int):
        start = start + dim if start < 0 else start
        return i64(min(max(start, 0), dim if step > 0 else dim - 1))
    extent, place = x.dims.expr(dim), x.dims.expr(start)
    if isinstance(start, int):
        place = place if start >= 0 else tirx.max(extent + place, zero())
        return place if step > 0 else tirx.min(place, extent - i64(1))
    place = tirx.Select(tirx.LT(place, zero()), place + extent, place)
    return tirx.max(tirx.min(place, extent if step > 0 else extent - i64(1)), zero())


@defines("Concat")
def concat(node: Node, inputs: Inputs) -> Elements:
    rank = inputs[0].type.rank
    axis = attr_int(node, "axis", 0) % rank
    parts = [x for x in inputs if x.type.dims[axis] != 0]

    def element(index: Index) -> Expr:
        def from_part(number: int, offset: Expr) -> Expr:
            part = parts[number]
            at = [*index[:axis], index[axis] - offset, *index[axis + 1 :]]
            if number == len(parts) - 1:
                return part(at)
            end = offset + part.shape[axis]
            return part.inside(index[axis], None, end, lambda: part(at), lambda: from_part(number + 1, end))

        return from_part(0, zero())

    return [element]


@defines("Split")
def split(node: Node, inputs: Inputs) -> Elements:
    x = inputs[0]
    axis = attr_int(node, "axis", 0) % x.type.rank

    def part(offset: Dim) -> Element:
        return lambda index: x([*index[:axis], index[axis] + x.dims.expr(offset), *index[axis + 1 :]])

    out: list[Element] = []
    offset: Dim = 0
    for value in node.outputs:
        out.append(part(offset))
        offset = offset + value.type.dims[axis]
    return out


@defines("Pad")
def pad(node: Node, inputs: Inputs) -> Elements | None:
    x = inputs[0]
    rank = x.type.rank
    pads = attr_ints(node, "pads") or attr_ints(node, "paddings") or ints(node, 1)
    axes = ints(node, 3) if node.input(3) is not None else list(range(rank))
    if pads is None or axes is None:
        return None
    mode = attr_str(node, "mode", "constant")
    begins = {int(axis) % rank: x.dims.expr(pads[n]) for n, axis in enumerate(axes)}
    if mode != "constant":
        reach = {"edge": clamp, "reflect": _mirrored, "wrap": tirx.floormod}[mode]

        def folded(index: Index) -> Expr:
            places = [reach(i - begins[d], x.shape[d]) if d in begins else i for d, i in enumerate(index)]
            return x(places)

        return [folded]
    fill = inputs[2] if len(inputs) > 2 else None

    def element(index: Index) -> Expr:
        at = [i - begins[d] if d in begins else i for d, i in enumerate(index)]
        dtype = exprs.load_type(x.type.dtype)
        filled = (lambda: fill([zero()] * fill.type.rank)) if fill is not None else _constant(node, dtype)

        def along(axis: int) -> Expr:
            if axis == rank:
                return x(at)
            return x.inside(at[axis], zero(), x.shape[axis], lambda: along(axis + 1), filled)

        return along(0)

    return [element]


def _constant(node: Node, dtype: str) -> Any:
    value = node.attrs.get("value", 0.0)  # an attribute before opset 11
    return lambda: exprs.const(value, dtype)  # type: ignore[arg-type]


def _mirrored(position: Expr, extent: Expr) -> Expr:
    """Reflection at the first and last element, as often as needed."""
    period = tirx.max(extent * i64(2) - i64(2), i64(1))
    place = tirx.floormod(position, period)
    return tirx.min(place, tirx.max(period - place, zero())) if not _is_one(extent) else zero()


def _is_one(extent: Expr) -> bool:
    return isinstance(extent, tirx.IntImm) and int(extent) == 1


@defines("Expand")
def expand(node: Node, inputs: Inputs) -> Elements:
    x = inputs[0]
    return [lambda index: x(broadcast(index, x))]


@defines("Tile")
def tile(node: Node, inputs: Inputs) -> Elements:
    x = inputs[0]
    same = [same_dim(a, b) for a, b in zip(x.type.dims, node.outputs[0].type.dims, strict=True)]
    return [
        lambda index: x([i if kept else tirx.floormod(i, n) for i, n, kept in zip(index, x.shape, same, strict=True)])
    ]


@defines("DepthToSpace")
def depth_to_space(node: Node, inputs: Inputs) -> Elements:
    """mode DCR: channel (by b + bx) c' + c; CRD: channel (c b + by) b + bx."""
    x, block = inputs[0], attr_int(node, "blocksize", 1)
    crd = attr_str(node, "mode", "DCR") == "CRD"

    def element(index: Index) -> Expr:
        n, c, height, width = index
        size = i64(block)
        by, bx = tirx.floormod(height, size), tirx.floormod(width, size)
        kept = x.dims.expr(node.outputs[0].type.dims[1])
        channel = (c * size + by) * size + bx if crd else (by * size + bx) * kept + c
        return x([n, channel, tirx.floordiv(height, size), tirx.floordiv(width, size)])

    return [element]


@defines("SpaceToDepth")
def space_to_depth(node: Node, inputs: Inputs) -> Elements:
    """The inverse of DepthToSpace, in both modes."""
    x, block = inputs[0], attr_int(node, "blocksize", 1)
    crd = attr_str(node, "mode", "DCR") == "CRD"

    def element(index: Index) -> Expr:
        n, c, height, width = index
        size, depth = i64(block), x.shape[1]
        outer = size * size if crd else depth
        part = tirx.floormod(c, outer) if crd else tirx.floordiv(c, outer)
        channel = tirx.floordiv(c, outer) if crd else tirx.floormod(c, outer)
        by, bx = tirx.floordiv(part, size), tirx.floormod(part, size)
        return x([n, channel, height * size + by, width * size + bx])

    return [element]


@defines("CenterCropPad")
def center_crop_pad(node: Node, inputs: Inputs) -> Elements:
    """Crops or pads every axis around its middle; the odd element goes to the end."""
    x = inputs[0]
    out_dims = node.outputs[0].type.dims

    def element(index: Index) -> Expr:
        at = list(index)
        for axis, (want, have) in enumerate(zip(out_dims, x.type.dims, strict=True)):
            if not same_dim(want, have):
                w, h = x.dims.expr(want), x.dims.expr(have)
                two = i64(2)
                shift = tirx.Select(tirx.GT(h, w), tirx.floordiv(h - w, two), i64(0) - tirx.floordiv(w - h, two))
                at[axis] = index[axis] + shift
        dtype = exprs.load_type(x.type.dtype)

        def along(axis: int) -> Expr:
            if axis == len(at):
                return x(at)
            return x.inside(at[axis], zero(), x.shape[axis], lambda: along(axis + 1), lambda: exprs.const(0, dtype))

        return along(0)

    return [element]


@defines("ReverseSequence")
def reverse_sequence(node: Node, inputs: Inputs) -> Elements:
    """The first lengths[b] elements along the time axis, back to front."""
    x, lengths = inputs[0], inputs[1]
    batch, time = attr_int(node, "batch_axis", 1), attr_int(node, "time_axis", 0)

    def element(index: Index) -> Expr:
        length, t = lengths([index[batch]]), index[time]
        at = list(index)
        at[time] = clamp(exprs.select(tirx.LT(t, length), length - i64(1) - t, t), x.shape[time])
        return x(at)

    return [element]
