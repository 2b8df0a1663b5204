"""Convolutions.

X is (N, C, spatial...), weights are (M, C/group, kernel...), those of ConvTranspose (C, M/group, kernel...).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import Dim, DType, Shape, TensorType, fresh_dim
from . import dims
from .base import (
    Op,
    attr_int,
    attr_ints,
    check_rank,
    check_same_dtype,
    dtype_of,
    fail,
    ints,
    register,
    shape_of,
)  # fmt: skip
from .windows import Window, clamped_sizes


def conv_kernel(node: Node, weights: Shape) -> Shape:
    """The spatial sizes of the weights; raises ShapeError if kernel_shape says otherwise."""
    declared = attr_ints(node, "kernel_shape")
    if not declared:
        return weights[2:]
    same = len(declared) == len(weights) - 2 and all(
        d == w or not isinstance(w, int) for d, w in zip(declared, weights[2:], strict=True)
    )
    if not same:
        fail(node, "kernel_shape contradicts the weights", expected=list(weights[2:]), found=list(declared))
    return declared


def conv_shape(node: Node, x: Shape | None, weights: Shape | None) -> Shape | None:
    """(N, M, out...); raises ShapeError if ranks, channels or group do not fit."""
    if x is None or weights is None:
        return None
    if len(x) != len(weights) or len(x) < 3:
        fail(node, "input and weights must have one rank, 3 or more", found=f"{list(x)} and {list(weights)}")
    group = attr_int(node, "group", 1)
    channels, per_group, filters = x[1], weights[1], weights[0]
    if isinstance(channels, int) and isinstance(per_group, int) and channels != per_group * group:
        fail(
            node,
            f"input channels do not fit the weights with group={group}",
            expected=per_group * group,
            found=channels,
        )
    if isinstance(filters, int) and filters % group:
        fail(node, "filters must be a multiple of group", expected=f"a multiple of {group}", found=filters)
    window = Window.of(node, conv_kernel(node, weights))
    sizes = window.output_sizes(x[2:])
    if any(isinstance(d, int) and d <= 0 and s != 0 for d, s in zip(sizes, x[2:], strict=True)):
        fail(node, "the window is larger than the padded input", expected=list(window.extents), found=list(x[2:]))
    return (x[0], filters, *clamped_sizes(sizes))


@register
class Conv(Op):
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = check_same_dtype(node)
        return [TensorType(dtype, conv_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@register
class ConvInteger(Op):
    """x, w, x_zero_point, w_zero_point; the sum is int32."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(DType.I32, conv_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@register
class QLinearConv(Op):
    """x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(dtype_of(node, 7), conv_shape(node, shape_of(node, 0), shape_of(node, 3)))]


@register
class DeformConv(Op):
    """X, W, offset, B, mask."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = check_same_dtype(node)
        return [TensorType(dtype, conv_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@register
class ConvTranspose(Op):
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = check_same_dtype(node)
        x, weights = check_rank(node, 0, 3), check_rank(node, 1, 3)
        if x is None or weights is None:
            return [TensorType(dtype, None)]
        if len(x) != len(weights):
            fail(node, "input and weights must have one rank", found=f"{list(x)} and {list(weights)}")
        if isinstance(x[1], int) and isinstance(weights[0], int) and x[1] != weights[0]:
            fail(node, "input channels do not fit the weights", expected=weights[0], found=x[1])
        group = attr_int(node, "group", 1)
        return [TensorType(dtype, (x[0], weights[1] * group, *self._sizes(node, x[2:], weights)))]

    @staticmethod
    def _sizes(node: Node, spatial: Shape, weights: Shape) -> Shape:
        window = Window.of(node, conv_kernel(node, weights))
        rank = len(spatial)
        wanted = attr_ints(node, "output_shape")
        if wanted:
            return wanted[-rank:]  # some exporters give the batch and channels too
        extra = attr_ints(node, "output_padding") or (0,) * rank
        if len(extra) != rank:
            fail(node, "attribute output_padding has the wrong length", expected=rank, found=list(extra))
        sizes: list[Dim] = []
        for axis, size in enumerate(spatial):
            stride = window.strides[axis]
            if window.auto_pad.startswith("SAME"):
                sizes.append(size * stride)
                continue
            pads = 0 if window.auto_pad == "VALID" else window.pads[axis] + window.pads[axis + rank]
            sizes.append(stride * (size - 1) + extra[axis] + window.extents[axis] - pads)
        if any(isinstance(d, int) and d <= 0 and s != 0 for d, s in zip(sizes, spatial, strict=True)):
            fail(node, "the pads leave no output", found=f"sizes {sizes} of {list(spatial)}")
        return tuple(sizes)


@register
class Col2Im(Op):
    """input (N, C * block cells, L), image_shape, block_shape -> (N, C, image...)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = check_rank(node, 0, 3, 3)
        image, block = ints(node, 1), ints(node, 2)
        if image is None:
            count = shape_of(node, 1)
            if count is None or not isinstance(count[0], int):
                return [TensorType(dtype_of(node, 0), None)]
            image = [fresh_dim("image") for _ in range(count[0])]
        if shape is None:
            return [TensorType(dtype_of(node, 0), (fresh_dim("n"), fresh_dim("c"), *image))]
        channels = None if block is None else dims.exact_div(shape[1], dims.product(block))
        if block is not None and channels is None:
            fail(node, "channels must be a multiple of the block", expected=block, found=shape[1])
        return [TensorType(dtype_of(node, 0), (shape[0], fresh_dim("c") if channels is None else channels, *image))]
