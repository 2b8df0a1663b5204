"""Shapes themselves, and ops that keep the elements in order: Reshape and its kin; Transpose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Node
from ..types import Dim, DType, Shape, TensorType, fresh_dim
from . import content as c
from . import dims
from .base import (
    Op,
    attr_int,
    attr_ints,
    axis_of,
    dtype_of,
    fail,
    ints,
    numbers,
    register,
    shape_of,
    type_of,
)  # fmt: skip


class ShapeView(Op):
    """The same bytes under another shape: a known content keeps its elements."""

    view = True

    def content(self, node: Node) -> np.ndarray | None:
        array, out = c.content_of(node.input(0)), node.outputs[0].type
        if array is None or not out.is_static or out.numel != array.size:
            return None
        return array.reshape(out.static_shape)


@register
class Identity(ShapeView):
    def infer(self, node: Node) -> Sequence[TensorType]:
        return [type_of(node, 0)]


@register
class Shape_(Op):
    name = "Shape"

    def infer(self, node: Node) -> Sequence[TensorType]:
        kept = self._kept(node)
        return [TensorType(DType.I64, (fresh_dim("rank") if kept is None else len(kept),))]

    def content(self, node: Node) -> np.ndarray | None:
        kept = self._kept(node)
        return None if kept is None else c.as_array(list(kept))

    @staticmethod
    def _kept(node: Node) -> Shape | None:
        """The dims in [start, end), both clamped."""
        shape = shape_of(node, 0)
        if shape is None:
            return None
        return shape[attr_int(node, "start", 0) : attr_int(node, "end", len(shape))]


@register
class Size(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(DType.I64, ())]

    def content(self, node: Node) -> np.ndarray | None:
        shape = shape_of(node, 0)
        return None if shape is None else c.as_array([dims.product(shape)], ())


def target_dims(node: Node, index: int) -> list[Dim] | None:
    """Operand `index` as a shape: its elements, or as many new data symbols; None if even its length is unknown."""
    elements = ints(node, index)
    if elements is not None:
        return elements
    shape = shape_of(node, index)
    if shape is not None and len(shape) != 1:
        fail(node, f"operand {index} must have rank 1", found=list(shape))
    if shape is None or not isinstance(shape[0], int):
        return None
    return [fresh_dim("d") for _ in range(shape[0])]


@register
class Reshape(ShapeView):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, target = dtype_of(node, 0), shape_of(node, 0), target_dims(node, 1)
        if target is None:
            return [TensorType(dtype, None)]
        out = self._copied(node, shape, target)
        count = None if shape is None else dims.product(shape)
        holes = [i for i, d in enumerate(out) if isinstance(d, int) and d == -1]
        if len(holes) > 1 or any(isinstance(d, int) and d < -1 for d in out):
            fail(node, "the new shape may hold one -1 and no other negative number", found=target)
        if holes:
            rest = dims.product(d for d in out if not (isinstance(d, int) and d == -1))
            found: Dim | None = fresh_dim("d") if count is None else dims.exact_div(count, rest)
            if found is None:
                if count != 0:
                    fail(
                        node,
                        "the elements do not fill the new shape",
                        expected=target,
                        found=f"shape {list(shape or ())}",
                    )
                found = 0
            out[holes[0]] = found
        elif isinstance(count, int) and all(isinstance(d, int) for d in out) and dims.product(out) != count:
            fail(node, "the new shape has another number of elements", expected=count, found=target)
        return [TensorType(dtype, self._completed(out, count, node))]

    @staticmethod
    def _copied(node: Node, shape: Shape | None, target: list[Dim]) -> list[Dim]:
        """The target with each 0 replaced by the input's dim (unless allowzero)."""
        out = list(target)
        if attr_int(node, "allowzero", 0):
            return out
        for axis, dim in enumerate(target):
            if isinstance(dim, int) and dim == 0:
                if shape is not None and axis >= len(shape):
                    fail(node, f"the new shape copies dim {axis}, which the input has not", found=list(shape))
                out[axis] = fresh_dim("d") if shape is None else shape[axis]
        return out

    @staticmethod
    def _completed(out: list[Dim], count: Dim | None, node: Node) -> Shape:
        """Where one dim alone is unknown (a number computed at run time), the number of elements gives it."""
        if ints(node, 1) is None and len(out) == 1 and count is not None:
            return (count,)
        return tuple(out)


@register
class Flatten(ShapeView):
    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = shape_of(node, 0)
        if shape is None:
            return [TensorType(dtype_of(node, 0), (fresh_dim("rows"), fresh_dim("columns")))]
        axis = attr_int(node, "axis", 1)
        if not -len(shape) <= axis <= len(shape):
            fail(node, "axis out of range", expected=f"in [{-len(shape)}, {len(shape)}]", found=axis)
        axis += len(shape) if axis < 0 else 0
        return [TensorType(dtype_of(node, 0), (dims.product(shape[:axis]), dims.product(shape[axis:])))]


@register
class Squeeze(ShapeView):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), shape_of(node, 0)
        if shape is None:
            return [TensorType(dtype, None)]
        if node.input(1) is None:
            if any(not isinstance(d, int) for d in shape):
                return [TensorType(dtype, None)]  # a symbolic dim might be 1
            return [TensorType(dtype, tuple(d for d in shape if d != 1))]
        axes = numbers(node, 1)
        if axes is None:
            return [TensorType(dtype, None)]
        gone = {axis_of(node, a, len(shape)) for a in axes}
        for axis in gone:
            dim = shape[axis]
            if isinstance(dim, int) and dim != 1:
                fail(node, f"axis {axis} cannot be squeezed", expected=1, found=f"{dim} in {list(shape)}")
        return [TensorType(dtype, tuple(d for i, d in enumerate(shape) if i not in gone))]


@register
class Unsqueeze(ShapeView):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, axes = dtype_of(node, 0), shape_of(node, 0), numbers(node, 1)
        if shape is None or axes is None:
            return [TensorType(dtype, None)]
        rank = len(shape) + len(axes)
        new = {axis_of(node, a, rank) for a in axes}
        if len(new) < len(axes):
            fail(node, "an axis is named twice", found=axes)
        rest = iter(shape)
        return [TensorType(dtype, tuple(1 if i in new else next(rest) for i in range(rank)))]


@register
class Transpose(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), shape_of(node, 0)
        if shape is None:
            return [TensorType(dtype, None)]
        perm = attr_ints(node, "perm") if "perm" in node.attrs else None
        perm = tuple(reversed(range(len(shape)))) if perm is None else tuple(perm)
        if sorted(perm) != list(range(len(shape))):
            fail(node, "perm is no permutation of the axes", expected=f"{len(shape)} axes", found=list(perm))
        return [TensorType(dtype, tuple(shape[p] for p in perm))]

    def content(self, node: Node) -> np.ndarray | None:
        array, perm = c.content_of(node.input(0)), attr_ints(node, "perm")
        return None if array is None else array.transpose(perm)
