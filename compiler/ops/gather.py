"""Reading and writing at computed indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Node
from ..types import DType, TensorType, fresh_dim
from . import content as c
from .base import (
    Op,
    attr_int,
    axis_of,
    check_rank,
    check_same_dtype,
    dim_of,
    dtype_of,
    fail,
    numbers,
    register,
    shape_of,
    type_of,
)  # fmt: skip


@register
class Gather(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, indices = dtype_of(node, 0), check_rank(node, 0, 1), shape_of(node, 1)
        if shape is None or indices is None:
            return [TensorType(dtype, None)]
        axis = axis_of(node, attr_int(node, "axis", 0), len(shape))
        return [TensorType(dtype, (*shape[:axis], *indices, *shape[axis + 1 :]))]

    def content(self, node: Node) -> np.ndarray | None:
        array, indices, index_type = c.content_of(node.input(0)), numbers(node, 1), type_of(node, 1)
        if array is None or indices is None or not index_type.is_static:
            return None
        axis = axis_of(node, attr_int(node, "axis", 0), array.ndim)
        size = array.shape[axis]
        if any(not -size <= i < size for i in indices):
            return None  # an error only if it runs: exporters guard it by an If
        picked = np.array(indices, dtype=np.int64).reshape(index_type.static_shape)
        result = np.asarray(np.take(array, picked, axis=axis), dtype=object)
        return result if result.size <= c.SMALL else None


@register
class GatherElements(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, indices = check_rank(node, 0, 1), check_rank(node, 1, 1)
        if shape is not None and indices is not None and len(shape) != len(indices):
            fail(node, "data and indices must have one rank", found=f"{list(shape)} and {list(indices)}")
        return [TensorType(dtype_of(node, 0), indices)]


@register
class GatherND(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, indices = dtype_of(node, 0), check_rank(node, 0, 1), check_rank(node, 1, 1)
        if shape is None or indices is None or not isinstance(indices[-1], int):
            return [TensorType(dtype, None)]
        batch, depth = attr_int(node, "batch_dims", 0), indices[-1]
        if batch >= min(len(shape), len(indices)) or batch + depth > len(shape):
            fail(node, f"indices reach too deep with batch_dims={batch}", found=f"{list(indices)} into {list(shape)}")
        return [TensorType(dtype, (*indices[:-1], *shape[batch + depth :]))]


class ScatterLike(Op):
    """data, indices, updates: the data, overwritten in places."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        check_same_dtype(node, 0, 2)
        return [type_of(node, 0)]


@register
class ScatterElements(ScatterLike):
    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, indices, updates = check_rank(node, 0, 1), check_rank(node, 1, 1), check_rank(node, 2, 1)
        ranks = {len(s) for s in (shape, indices, updates) if s is not None}
        if len(ranks) > 1:
            fail(node, "data, indices and updates must have one rank", found=sorted(ranks))
        if shape is not None:
            axis_of(node, attr_int(node, "axis", 0), len(shape))
        return super().infer(node)


@register
class ScatterND(ScatterLike):
    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, indices = check_rank(node, 0, 1), check_rank(node, 1, 1)
        if shape is not None and indices is not None and isinstance(indices[-1], int) and indices[-1] > len(shape):
            fail(node, "indices reach too deep", found=f"{list(indices)} into {list(shape)}")
        return super().infer(node)


@register
class TensorScatter(Op):
    """past_cache, update, write_indices."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        check_same_dtype(node, 0, 1)
        return [type_of(node, 0)]


@register
class OneHot(Op):
    """indices, depth, values (off, on)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 2), shape_of(node, 0)
        if shape is None:
            return [TensorType(dtype, None)]
        axis = attr_int(node, "axis", -1)
        if not -len(shape) - 1 <= axis <= len(shape):
            fail(node, "axis out of range", expected=f"in [{-len(shape) - 1}, {len(shape)}]", found=axis)
        axis += len(shape) + 1 if axis < 0 else 0
        depth = dim_of(node, 1)
        return [TensorType(dtype, (*shape[:axis], fresh_dim("depth") if depth is None else depth, *shape[axis:]))]


@register
class Compress(Op):
    """The slices along `axis` (the elements, flattened, without it) where the condition holds."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), check_rank(node, 0, 1)
        if dtype_of(node, 1) is not DType.BOOL:
            fail(node, "the condition must be bool", found=dtype_of(node, 1).text)
        if node.attrs.get("axis") is None:
            return [TensorType(dtype, (fresh_dim("kept"),))]
        if shape is None:
            return [TensorType(dtype, None)]
        axis = axis_of(node, attr_int(node, "axis", 0), len(shape))
        return [TensorType(dtype, (*shape[:axis], fresh_dim("kept"), *shape[axis + 1 :]))]
