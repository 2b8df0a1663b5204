"""Reductions over axes, and running sums along one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ..ir import Node
from ..types import DType, Shape, TensorType, fresh_dim
from . import content as c
from . import dims
from .base import (
    Op,
    attr_int,
    axis_of,
    check_rank,
    dtype_of,
    fail,
    family,
    int_of,
    numbers,
    register,
    shape_of,
    type_of,
)  # fmt: skip


def reduced_axes(node: Node, rank: int) -> list[int] | None:
    """The axes a Reduce* node removes, counted from the front; None if they are computed at run time."""
    if node.input(1) is None:
        return [] if attr_int(node, "noop_with_empty_axes", 0) else list(range(rank))
    axes = numbers(node, 1)
    if axes is None:
        return None
    if not axes:
        return [] if attr_int(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted({axis_of(node, a, rank) for a in axes})


class Reduction(Op):
    """Axes from operand 1 (all, or none by noop_with_empty_axes, if there are none)."""

    reduction = True
    function: ClassVar[Callable[..., Any] | None] = None  # of a list of elements

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(dtype_of(node, 0), self._shape(node))]

    @staticmethod
    def _shape(node: Node) -> Shape | None:
        shape = shape_of(node, 0)
        if shape is None:
            return None
        keep = attr_int(node, "keepdims", 1)
        axes = reduced_axes(node, len(shape))
        if axes is not None:
            return tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)
        if keep:
            return tuple(d if isinstance(d, int) and d == 1 else fresh_dim("r") for d in shape)
        count = type_of(node, 1).shape  # each of that many axes goes, if none is named twice
        if count is None or len(count) != 1 or not isinstance(count[0], int) or count[0] == 0:
            return None
        return tuple(fresh_dim("r") for _ in range(len(shape) - count[0]))

    def content(self, node: Node) -> np.ndarray | None:
        function, array = type(self).function, c.content_of(node.input(0))
        if function is None or array is None or array.ndim > 1 or node.outputs[0].type.shape is None:
            return None
        if reduced_axes(node, array.ndim) != list(range(array.ndim)):
            return None
        result = function(list(array.flat))
        shape = (1,) * node.outputs[0].type.rank
        return None if result is None else c.as_array([result], shape)


family(Reduction, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceSumSquare")


@register
class ReduceSum(Reduction):
    function = staticmethod(lambda elements: sum(elements))


@register
class ReduceProd(Reduction):
    function = staticmethod(dims.product)


@register
class ReduceMax(Reduction):
    function = staticmethod(lambda elements: _fold(dims.larger, elements))


@register
class ReduceMin(Reduction):
    function = staticmethod(lambda elements: _fold(dims.smaller, elements))


def _fold(function: Callable[..., Any], elements: list[Any]) -> Any:
    if not elements:
        return None
    result = elements[0]
    for element in elements[1:]:
        result = function(result, element)
    return result


class ArgReduction(Op):
    """The index of the extreme element along one axis."""

    reduction = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = check_rank(node, 0, 1)
        if shape is None:
            return [TensorType(DType.I64, None)]
        axis = axis_of(node, attr_int(node, "axis", 0), len(shape))
        keep = attr_int(node, "keepdims", 1)
        return [TensorType(DType.I64, (*shape[:axis], *((1,) if keep else ()), *shape[axis + 1 :]))]


family(ArgReduction, "ArgMax", "ArgMin")


class Running(Op):
    """A running sum or product along the axis operand 1 names."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, axis = shape_of(node, 0), int_of(node, 1)
        if node.input(1) is None:
            fail(node, "operand 1 (the axis) is required")
        if shape is not None and axis is not None:
            axis_of(node, axis, len(shape))
        return [type_of(node, 0)]


family(Running, "CumProd", "CumSum")
