"""Normalizations and softmax: the output has the input's type."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import DType, Shape, TensorType
from .base import (
    Op,
    attr_dtype,
    attr_int,
    axis_of,
    broadcast_shapes,
    check_rank,
    dtype_of,
    fail,
    family,
    register,
    shape_of,
    type_of,
)  # fmt: skip


class AlongAxis(Op):
    """One operand, normalized along attribute `axis`."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = shape_of(node, 0)
        if shape:
            axis_of(node, attr_int(node, "axis", -1), len(shape))
        return [type_of(node, 0)]


family(AlongAxis, "Softmax", "LogSoftmax", "Hardmax", "LpNormalization")


@register
class LRN(Op):
    """Local response normalization across channels."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        check_rank(node, 0, 3)
        return [type_of(node, 0)]


def _check_channels(node: Node, shape: Shape | None, *indices: int) -> None:
    """Raises ShapeError if a per-channel operand does not have a value for each of the channels (axis 1)."""
    for index in indices:
        given = check_rank(node, index, 1, 1)
        if shape is None or given is None:
            continue
        channels, count = shape[1] if len(shape) > 1 else 1, given[0]
        if isinstance(channels, int) and isinstance(count, int) and channels != count:
            fail(node, f"operand {index} must have a value a channel", expected=channels, found=count)


@register
class BatchNormalization(Op):
    """X, scale, B, mean, var; in training mode also the running mean and variance."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        _check_channels(node, check_rank(node, 0, 1), 1, 2, 3, 4)
        return [type_of(node, 0), type_of(node, 3), type_of(node, 4)]


@register
class InstanceNormalization(Op):
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        _check_channels(node, check_rank(node, 0, 3), 1, 2)
        return [type_of(node, 0)]


@register
class GroupNormalization(Op):
    """X, scale, bias, both with a value a channel."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, groups = check_rank(node, 0, 2), attr_int(node, "num_groups", 0)
        if groups < 1:
            fail(node, "attribute num_groups must be positive", found=groups)
        if shape is not None and isinstance(shape[1], int) and shape[1] % groups:
            fail(node, "channels must be a multiple of num_groups", expected=f"a multiple of {groups}", found=shape[1])
        _check_channels(node, shape, 1, 2)
        return [type_of(node, 0)]


def _normalized(node: Node) -> tuple[Shape, int] | None:
    """The shape and the first normalized axis; raises ShapeError if scale or bias does not broadcast to the input."""
    shape = shape_of(node, 0)
    if shape is None:
        return None
    for index in (1, 2):
        given = shape_of(node, index) if node.input(index) is not None else None
        if given is not None and len(broadcast_shapes(node, [shape, given])) > len(shape):
            fail(node, f"operand {index} has more dims than X", expected=list(shape), found=list(given))
    return shape, axis_of(node, attr_int(node, "axis", -1), len(shape))


@register
class LayerNormalization(Op):
    """Normalizes over the axes from `axis` on; also gives mean and inverse deviation, those axes kept as 1."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        found = _normalized(node)
        stash = attr_dtype(node, "stash_type", DType.F32)
        if found is None:
            return [type_of(node, 0), TensorType(stash, None), TensorType(stash, None)]
        shape, axis = found
        statistics = TensorType(stash, (*shape[:axis], *(1 for _ in shape[axis:])))
        return [type_of(node, 0), statistics, statistics]


@register
class RMSNormalization(Op):
    """Normalizes over the axes from `axis` on; the output has the scale's dtype."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        _normalized(node)
        return [type_of(node, 0).with_dtype(dtype_of(node, 1))]
