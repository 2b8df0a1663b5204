"""Spatial ops with the channels last: [N, spatial..., C] in and out, weights and attributes as in ONNX's own op.

passes/layout.py makes them; exported, each is its ONNX op between two Transposes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..ir import Node, Value
from ..types import TensorType
from .base import OPS, Op, register


def to_nhwc(rank: int) -> tuple[int, ...]:
    """The Transpose perm from channels first to channels last."""
    return (0, *range(2, rank), 1)


def to_nchw(rank: int) -> tuple[int, ...]:
    """The Transpose perm from channels last to channels first."""
    return (0, rank - 1, *range(1, rank - 1))


def permuted_type(type: TensorType, perm: Sequence[int]) -> TensorType:
    return type.with_shape(type.dims[p] for p in perm)


class ChannelsLast(Op):
    """Types come from the ONNX op over the transposed input."""

    anchor = True
    onnx: ClassVar[str]

    def infer(self, node: Node) -> Sequence[TensorType]:
        x = node.operand(0)
        rank = x.type.rank
        first = Value(x.name, permuted_type(x.type, to_nchw(rank)))
        twin = Node(self.onnx, (first, *node.inputs[1:]), node.outputs, node.attrs, node.loc)
        return [permuted_type(t, to_nhwc(rank)) for t in OPS[self.onnx].infer(twin)]


@register
class Conv(ChannelsLast):
    name = "optc.Conv"
    onnx = "Conv"


@register
class ConvTranspose(ChannelsLast):
    name = "optc.ConvTranspose"
    onnx = "ConvTranspose"


@register
class MaxPool(ChannelsLast):
    name = "optc.MaxPool"
    onnx = "MaxPool"


@register
class AveragePool(ChannelsLast):
    name = "optc.AveragePool"
    onnx = "AveragePool"


@register
class DepthToSpace(ChannelsLast):
    """Channels (by, bx, c) spread over space: y[n, h b + by, w b + bx, c] = x[n, h, w, (by b + bx) C + c]."""

    name = "optc.DepthToSpace"
    onnx = "DepthToSpace"
    anchor = False
