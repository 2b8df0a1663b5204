"""Sorting and selection: sizes often depend on the values."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import DType, TensorType, fresh_dim
from . import dims
from .base import Op, attr_int, axis_of, check_rank, dim_of, dtype_of, fail, register, shape_of, type_of


@register
class TopK(Op):
    """X, K -> values, indices."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), check_rank(node, 0, 1)
        if shape is None:
            return [TensorType(dtype, None), TensorType(DType.I64, None)]
        axis, k = axis_of(node, attr_int(node, "axis", -1), len(shape)), dim_of(node, 1)
        size = shape[axis]
        if isinstance(k, int) and (k < 0 or (isinstance(size, int) and k > size)):
            fail(node, "K is larger than the axis", expected=f"at most {size}", found=k)
        out = (*shape[:axis], fresh_dim("k") if k is None else k, *shape[axis + 1 :])
        return [TensorType(dtype, out), TensorType(DType.I64, out)]


@register
class NonZero(Op):
    """The indices of the nonzero elements, (rank, count)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = shape_of(node, 0)
        # A scalar's result is (0, count) by the standard's text; ONNX Runtime and numpy take it as one element.
        rank = fresh_dim("rank") if shape is None else max(len(shape), 1)
        return [TensorType(DType.I64, (rank, fresh_dim("nonzero")))]


@register
class Unique(Op):
    """Y, and where its elements came from: indices, inverse_indices, counts."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, count = dtype_of(node, 0), shape_of(node, 0), fresh_dim("unique")
        found = TensorType(DType.I64, (count,))
        if node.attrs.get("axis") is None:
            whole = fresh_dim("all") if shape is None else dims.product(shape)
            return [TensorType(dtype, (count,)), found, TensorType(DType.I64, (whole,)), found]
        if shape is None:
            return [TensorType(dtype, None), found, TensorType(DType.I64, (fresh_dim("all"),)), found]
        axis = axis_of(node, attr_int(node, "axis", 0), len(shape))
        out = (*shape[:axis], count, *shape[axis + 1 :])
        return [TensorType(dtype, out), found, TensorType(DType.I64, (shape[axis],)), found]


@register
class NonMaxSuppression(Op):
    """boxes (batch, n, 4), scores (batch, classes, n) -> selected (count, 3) of batch, class and box index."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        check_rank(node, 0, 3, 3)
        check_rank(node, 1, 3, 3)
        type_of(node, 1)
        return [TensorType(DType.I64, (fresh_dim("selected"), 3))]
