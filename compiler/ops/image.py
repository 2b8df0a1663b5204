"""Resampling and regions of images (N, C, spatial...)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Node
from ..types import Dim, Shape, TensorType, fresh_dim
from . import dims
from .base import (
    Op,
    attr_int,
    attr_ints,
    attr_str,
    axis_of,
    check_rank,
    check_same_dtype,
    const,
    dtype_of,
    fail,
    ints,
    register,
    shape_of,
)  # fmt: skip
from .content import content_of


@register
class Resize(Op):
    """X, roi, scales, sizes: one of the last two, for the axes of attribute `axes` (default: all)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), shape_of(node, 0)
        if shape is None:
            return [TensorType(dtype, None)]
        rank = len(shape)
        axes = [axis_of(node, a, rank) for a in attr_ints(node, "axes") or range(rank)]
        by_sizes = _is_given(node, 3)
        if by_sizes == _is_given(node, 2):
            fail(node, "either scales or sizes must be given, and not both")
        found = self._by_sizes(node, shape, axes) if by_sizes else self._by_scales(node, shape, axes)
        if len(found) != len(axes):
            fail(node, "scales or sizes must have an entry an axis", expected=len(axes), found=len(found))
        out = list(shape)
        for axis, dim in zip(axes, found, strict=True):
            out[axis] = dim
        return [TensorType(dtype, tuple(out))]

    @staticmethod
    def _by_scales(node: Node, shape: Shape, axes: list[int]) -> list[Dim]:
        scales, roi = const(node, 2), const(node, 1)
        crops = attr_str(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        if scales is None:
            return _symbolic_scales(node, shape, axes)
        factors = np.asarray(scales, dtype=np.float32).reshape(-1)
        if crops:
            if roi is None or roi.size != 2 * len(axes):
                return [fresh_dim("resize") for _ in axes]
            factors = factors * (roi[len(axes) :] - roi[: len(axes)]).astype(np.float32)
        if len(factors) != len(axes):
            fail(node, "scales must have an entry an axis", expected=len(axes), found=factors.tolist())
        return [dims.scaled(shape[a], float(f)) for a, f in zip(axes, factors, strict=True)]

    @staticmethod
    def _by_sizes(node: Node, shape: Shape, axes: list[int]) -> list[Dim]:
        sizes = ints(node, 3)
        policy = attr_str(node, "keep_aspect_ratio_policy", "stretch")
        if sizes is None:
            return [fresh_dim("resize") for _ in axes]
        if policy == "stretch":
            return sizes
        given = [(s, shape[a]) for s, a in zip(sizes, axes, strict=False)]
        pairs = [(s, d) for s, d in given if isinstance(s, int) and isinstance(d, int)]
        if len(pairs) < len(axes):
            return [fresh_dim("resize") for _ in axes]
        scale = (min if policy == "not_larger" else max)(s / d for s, d in pairs)
        return [int(np.floor(scale * d + 0.5)) for _, d in pairs]


def _is_given(node: Node, index: int) -> bool:
    """True if an optional operand is there and not the empty tensor that stands for an omitted one."""
    value = node.input(index)
    return value is not None and value.type.shape != (0,)


def _symbolic_scales(node: Node, shape: Shape, axes: list[int]) -> list[Dim]:
    """Sizes for scales computed in the graph, as by exporters that divide a wanted size by the input's."""
    factors = content_of(node.input(2))
    if factors is None or factors.size != len(axes):
        return [fresh_dim("resize") for _ in axes]
    return [dims.floor(dims.simplified(shape[a] * f)) for a, f in zip(axes, factors.flat, strict=True)]


@register
class Upsample(Op):
    """X, scales. Deprecated in favour of Resize."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape, scales = dtype_of(node, 0), shape_of(node, 0), const(node, 1)
        if shape is None:
            return [TensorType(dtype, None)]
        if scales is None:
            return [TensorType(dtype, tuple(fresh_dim("resize") for _ in shape))]
        if scales.size != len(shape):
            fail(node, "scales must have an entry an axis", expected=len(shape), found=scales.tolist())
        return [TensorType(dtype, tuple(dims.scaled(d, float(s)) for d, s in zip(shape, scales.flat, strict=True)))]


@register
class GridSample(Op):
    """X (N, C, spatial...), grid (N, out..., spatial rank) -> (N, C, out...)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, x, grid = dtype_of(node, 0), check_rank(node, 0, 3), check_rank(node, 1, 3)
        if x is None or grid is None:
            return [TensorType(dtype, None)]
        last = grid[-1]
        if len(x) != len(grid) or (isinstance(last, int) and last != len(x) - 2):
            fail(node, "the grid does not fit X", expected=f"(N, out..., {len(x) - 2})", found=list(grid))
        return [TensorType(dtype, (*x[:2], *grid[1:-1]))]


@register
class AffineGrid(Op):
    """theta (N, d, d + 1), size (N, C, spatial...) -> (N, spatial..., d), d the spatial rank."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, theta = dtype_of(node, 0), check_rank(node, 0, 3, 3)
        size, entries = ints(node, 1), check_rank(node, 1, 1, 1)
        if size is not None:
            return [TensorType(dtype, (size[0], *size[2:], len(size) - 2))]
        spatial = theta[1] if theta else None
        if not isinstance(spatial, int):
            spatial = entries[0] - 2 if entries and isinstance(entries[0], int) else None
        if spatial is None:
            return [TensorType(dtype, None)]
        return [TensorType(dtype, (fresh_dim("n"), *(fresh_dim("grid") for _ in range(spatial)), spatial))]


@register
class RoiAlign(Op):
    """X (N, C, H, W), rois (R, 4), batch_indices (R) -> (R, C, output_height, output_width)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = check_same_dtype(node, 0, 1)
        x, rois = check_rank(node, 0, 4, 4), check_rank(node, 1, 2, 2)
        indices = check_rank(node, 2, 1, 1)
        count = rois[0] if rois else indices[0] if indices else fresh_dim("rois")
        size = (attr_int(node, "output_height", 1), attr_int(node, "output_width", 1))
        return [TensorType(dtype, (count, x[1] if x else fresh_dim("c"), *size))]
