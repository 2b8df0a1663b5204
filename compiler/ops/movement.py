"""Moving elements: Concat, Split, Slice, Expand, Tile, Pad and other fixed rearrangements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Node
from ..types import Dim, TensorType, fresh_dim
from . import content as c
from . import dims
from .base import (
    Op,
    attr_int,
    axis_of,
    broadcast_shapes,
    check_rank,
    check_same_dtype,
    dtype_of,
    fail,
    ints,
    numbers,
    register,
    shape_of,
    type_of,
)  # fmt: skip
from .shape import target_dims

_FAR = 10**9  # bounds of this size mean "to the end": exporters write from this to 2**63 - 1


@register
class Concat(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = check_same_dtype(node)
        known = [v.type.shape for v in node.inputs if v is not None and v.type.shape is not None]
        if len(known) < len(node.inputs):
            return [TensorType(dtype, None)]
        full = [s for s in known if not any(isinstance(d, int) and d == 0 for d in s)] or known[:1]
        if len({len(s) for s in full}) > 1:
            fail(node, "operands must have one rank", found=", ".join(str(list(s)) for s in full))
        rank = len(full[0])
        axis = axis_of(node, attr_int(node, "axis", 0), rank)
        out: list[Dim] = []
        for i in range(rank):
            at = [s[i] for s in full]
            if i == axis:
                out.append(sum(at[1:], at[0]) if full is not known[:1] else sum((s[i] for s in known), 0))
                continue
            if len({d for d in at if isinstance(d, int)}) > 1:
                fail(node, f"operands differ along axis {i}", found=", ".join(str(list(s)) for s in full))
            out.append(min(at, key=dims.complexity))
        return [TensorType(dtype, tuple(out))]

    def content(self, node: Node) -> np.ndarray | None:
        arrays = c.inputs_of(node)
        if arrays is None or sum(a.size for a in arrays) > c.SMALL or len({a.ndim for a in arrays}) > 1:
            return None
        return np.concatenate(arrays, axis=attr_int(node, "axis", 0))


@register
class Split(Op):
    """Parts of the sizes in operand 1, or num_outputs parts of which the last may be smaller."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), check_rank(node, 0, 1)
        if shape is None:
            return [TensorType(dtype, None)] * len(node.outputs)
        axis = axis_of(node, attr_int(node, "axis", 0), len(shape))
        return [TensorType(dtype, (*shape[:axis], d, *shape[axis + 1 :])) for d in self._sizes(node, shape[axis])]

    @staticmethod
    def _sizes(node: Node, dim: Dim) -> list[Dim]:
        count = len(node.outputs)
        if node.input(1) is not None:
            sizes = ints(node, 1)
            if sizes is None:
                return [fresh_dim("part") for _ in range(count)]
            whole: Dim = sum(sizes[1:], sizes[0]) if sizes else 0
            if len(sizes) != count or (isinstance(whole, int) and isinstance(dim, int) and whole != dim):
                fail(node, "split does not fit", expected=f"{count} parts of {dim}", found=sizes)
            return sizes
        parts = attr_int(node, "num_outputs", count)
        if count > parts or parts < 1:
            fail(node, "num_outputs does not fit", expected=count, found=parts)
        part = dims.ceil_div(dim, parts)
        last = dims.larger(0, dim - part * (parts - 1))
        return [*[part] * (parts - 1), last][:count]

    def contents(self, node: Node) -> Sequence[np.ndarray | None]:
        array = c.content_of(node.input(0))
        axis = attr_int(node, "axis", 0)
        sizes = [None if v.type.shape is None else v.type.shape[axis] for v in node.outputs]
        if array is None or not all(isinstance(s, int) for s in sizes):
            return [None] * len(node.outputs)
        ends = np.cumsum(np.array(sizes, dtype=np.int64))
        return np.split(array, ends, axis=axis)[: len(sizes)]


@register
class Slice(Op):
    """data, starts, ends, axes, steps."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), check_rank(node, 0, 1)
        if shape is None:
            return [TensorType(dtype, None)]
        bounds = self._bounds(node, len(shape))
        if bounds is None:
            return [TensorType(dtype, tuple(fresh_dim("slice") for _ in shape))]
        out = list(shape)
        for axis, (start, end, step) in bounds.items():
            if isinstance(step, int) and step == 0:
                fail(node, "a step of 0")
            found = None
            if start is not None and end is not None and isinstance(step, int):
                found = slice_length(shape[axis], start, end, step)
            out[axis] = fresh_dim("slice") if found is None else found
        return [TensorType(dtype, tuple(out))]

    @staticmethod
    def _bounds(node: Node, rank: int) -> dict[int, tuple[Dim | None, Dim | None, Dim | None]] | None:
        """(start, end, step) of each sliced axis, None where unknown; None if the axes are."""
        starts, ends = ints(node, 1), ints(node, 2)
        length = shape_of(node, 1) or shape_of(node, 2)
        if starts is None and ends is None and (length is None or not isinstance(length[0], int)):
            return None
        count = len(starts or ends or range(int(length[0]) if length else 0))
        axes = list(range(count)) if node.input(3) is None else numbers(node, 3)
        if axes is None:
            return None
        steps = [1] * count if node.input(4) is None else ints(node, 4)
        columns = [starts or [None] * count, ends or [None] * count, steps or [None] * count]
        if any(len(column) != len(axes) for column in columns):
            fail(node, "starts, ends, axes and steps must have one length", found=[len(axes), *map(len, columns)])
        return {axis_of(node, a, rank): (s, e, p) for a, s, e, p in zip(axes, *columns, strict=True)}

    def content(self, node: Node) -> np.ndarray | None:
        array = c.content_of(node.input(0))
        bounds = None if array is None else self._bounds(node, array.ndim)
        if array is None or bounds is None:
            return None
        window = [slice(None)] * array.ndim
        for axis, (start, end, step) in bounds.items():
            if not (isinstance(start, int) and isinstance(end, int) and isinstance(step, int)):
                return None
            first, last, step = slice_bounds(array.shape[axis], start, end, step)
            window[axis] = slice(first, None if last < 0 else last, step)
        return array[tuple(window)]


def slice_bounds(dim: int, start: int, end: int, step: int) -> tuple[int, int, int]:
    """Slice's bounds counted from the front and clamped; the end is -1 where a backward slice runs to the front."""
    start, end = (start + dim if start < 0 else start), (end + dim if end < 0 else end)
    if step > 0:
        return min(max(start, 0), dim), min(max(end, 0), dim), step
    return min(max(start, 0), max(dim - 1, 0)), min(max(end, -1), dim - 1), step


def slice_length(dim: Dim, start: Dim, end: Dim, step: int) -> Dim | None:
    """The number of elements; None if that depends on the sign of a symbolic bound."""
    if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice_bounds(dim, start, end, step)))
    first, last = _from_front(dim, start), _from_front(dim, end)
    if first is None or last is None:
        return None
    if step > 0:
        span = dims.clamped(last, 0, dim) - dims.clamped(first, 0, dim)
        return dims.larger(0, dims.ceil_div(span, step))
    span = dims.clamped(first, 0, dim - 1) - dims.clamped(last, -1, dim - 1)
    return dims.larger(0, dims.ceil_div(span, -step))


def _from_front(dim: Dim, bound: Dim) -> Dim | None:
    if isinstance(bound, int) and abs(bound) >= _FAR:
        return dim if bound > 0 else -1
    if dims.is_nonnegative(bound):
        return bound
    return dim + bound if dims.is_nonnegative(-1 - bound) else None


@register
class Expand(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, target = dtype_of(node, 0), shape_of(node, 0), target_dims(node, 1)
        if shape is None or target is None:
            return [TensorType(dtype, None)]
        return [TensorType(dtype, broadcast_shapes(node, [shape, tuple(target)]))]

    def content(self, node: Node) -> np.ndarray | None:
        array, out = c.content_of(node.input(0)), node.outputs[0].type
        if array is None or not out.is_static or dims.product(out.dims) > c.SMALL:
            return None
        return np.broadcast_to(array, out.static_shape)


@register
class Tile(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, repeats = dtype_of(node, 0), shape_of(node, 0), ints(node, 1)
        if shape is None:
            return [TensorType(dtype, None)]
        if repeats is None:
            return [TensorType(dtype, tuple(fresh_dim("tile") for _ in shape))]
        if len(repeats) != len(shape):
            fail(node, "repeats must have an entry an axis", expected=len(shape), found=repeats)
        return [TensorType(dtype, tuple(d * r for d, r in zip(shape, repeats, strict=True)))]

    def content(self, node: Node) -> np.ndarray | None:
        array, repeats = c.content_of(node.input(0)), numbers(node, 1)
        if array is None or repeats is None or array.size * int(np.prod(repeats)) > c.SMALL:
            return None
        return np.tile(array, repeats)


@register
class Pad(Op):
    """data, pads (all begins, then all ends; negative ones crop), constant_value, axes."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, pads = dtype_of(node, 0), shape_of(node, 0), ints(node, 1)
        if shape is None:
            return [TensorType(dtype, None)]
        axes = list(range(len(shape))) if node.input(3) is None else numbers(node, 3)
        if axes is None:
            return [TensorType(dtype, tuple(fresh_dim("pad") for _ in shape))]
        axes = [axis_of(node, a, len(shape)) for a in axes]
        out = list(shape)
        if pads is not None and len(pads) != 2 * len(axes):
            fail(node, "pads must have two entries an axis", expected=2 * len(axes), found=pads)
        for i, axis in enumerate(axes):
            out[axis] = fresh_dim("pad") if pads is None else shape[axis] + pads[i] + pads[i + len(axes)]
            if isinstance(out[axis], int) and out[axis] < 0:
                fail(node, f"axis {axis} is cropped below 0", found=f"{pads} for {list(shape)}")
        return [TensorType(dtype, tuple(out))]


@register
class DepthToSpace(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, block = check_rank(node, 0, 4, 4), attr_int(node, "blocksize", 0)
        if block < 1:
            fail(node, "attribute blocksize must be positive", found=block)
        if shape is None:
            return [type_of(node, 0)]
        channels = dims.exact_div(shape[1], block * block)
        if channels is None:
            fail(node, "channels must be a multiple of blocksize squared", expected=block * block, found=shape[1])
        return [type_of(node, 0).with_shape((shape[0], channels, shape[2] * block, shape[3] * block))]


@register
class SpaceToDepth(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, block = check_rank(node, 0, 4, 4), attr_int(node, "blocksize", 0)
        if block < 1:
            fail(node, "attribute blocksize must be positive", found=block)
        if shape is None:
            return [type_of(node, 0)]
        height, width = dims.exact_div(shape[2], block), dims.exact_div(shape[3], block)
        if height is None or width is None:
            fail(node, "height and width must be multiples of blocksize", expected=block, found=list(shape))
        return [type_of(node, 0).with_shape((shape[0], shape[1] * block * block, height, width))]


@register
class Trilu(Op):
    """Zeroes one side of the innermost matrices; operand 1 is the diagonal."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        check_rank(node, 0, 2)
        return [type_of(node, 0)]


@register
class ReverseSequence(Op):
    """input, sequence_lens (one a batch entry)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, lengths = check_rank(node, 0, 2), check_rank(node, 1, 1, 1)
        batch, time = attr_int(node, "batch_axis", 1), attr_int(node, "time_axis", 0)
        if shape is not None:
            axes = {axis_of(node, batch, len(shape)), axis_of(node, time, len(shape))}
            if len(axes) == 1:
                fail(node, "batch_axis and time_axis must differ", found=batch)
            if lengths is not None:
                broadcast_shapes(node, [(shape[batch],), lengths])
        return [type_of(node, 0)]
