"""Pooling over the spatial axes of (N, C, spatial...)."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import DType, Shape, TensorType, fresh_dim
from .base import Op, attr_ints, check_rank, dtype_of, fail, family, ints, register
from .windows import Window, clamped_sizes


def pool_shape(node: Node) -> Shape | None:
    shape = check_rank(node, 0, 3)
    kernel = attr_ints(node, "kernel_shape")
    if kernel is None:
        fail(node, "attribute kernel_shape is required")
    if shape is None:
        return None
    if len(kernel) != len(shape) - 2:
        fail(node, "kernel_shape has the wrong length", expected=len(shape) - 2, found=list(kernel))
    return (*shape[:2], *clamped_sizes(Window.of(node, kernel).output_sizes(shape[2:])))


class Pool(Op):
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(dtype_of(node, 0), pool_shape(node))]


family(Pool, "AveragePool", "LpPool")


@register
class MaxPool(Op):
    """Also gives the flat index of each maximum."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = pool_shape(node)
        return [TensorType(dtype_of(node, 0), shape), TensorType(DType.I64, shape)]


class GlobalPool(Op):
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = check_rank(node, 0, 2)
        out = None if shape is None else (*shape[:2], *(1 for _ in shape[2:]))
        return [TensorType(dtype_of(node, 0), out)]


family(GlobalPool, "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")


@register
class MaxUnpool(Op):
    """X, I, output_shape (the whole shape, optional)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), check_rank(node, 0, 3)
        kernel = attr_ints(node, "kernel_shape")
        if kernel is None:
            fail(node, "attribute kernel_shape is required")
        if node.input(2) is not None:
            wanted = ints(node, 2)
            if wanted is not None:
                return [TensorType(dtype, tuple(wanted))]
            rest = [fresh_dim("unpool") for _ in kernel]
            return [TensorType(dtype, None if shape is None else (*shape[:2], *rest))]
        if shape is None:
            return [TensorType(dtype, None)]
        window = Window.of(node, kernel)
        rank = len(kernel)
        sizes = [
            (size - 1) * window.strides[i] + kernel[i] - window.pads[i] - window.pads[i + rank]
            for i, size in enumerate(shape[2:])
        ]
        return [TensorType(dtype, (*shape[:2], *sizes))]


@register
class MaxRoiPool(Op):
    """X (N, C, H, W), rois (R, 5) -> (R, C, *pooled_shape)."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, rois = check_rank(node, 0, 4, 4), check_rank(node, 1, 2, 2)
        pooled = attr_ints(node, "pooled_shape")
        if pooled is None:
            fail(node, "attribute pooled_shape is required")
        if shape is None or rois is None:
            return [TensorType(dtype_of(node, 0), None)]
        return [TensorType(dtype_of(node, 0), (rois[0], shape[1], *pooled))]
