"""Pruning rules of norms, pools and reductions: what is computed over channels must keep them all."""

from __future__ import annotations

from collections.abc import Sequence

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int
from ..facts import axes_of
from .channels import Axes, Channels
from .rules import count_groups, refuse, rule, spatial, whole_axes


@rule("BatchNormalization")
def batch_norm(node: Node, channels: Channels) -> Sequence[Axes]:
    axes = channels.of(node.operand(0))
    for slot in (1, 2, 3, 4):
        channels.match(node, slot, 0, axes[1])
    return [axes]


@rule("InstanceNormalization")
def instance_norm(node: Node, channels: Channels) -> Sequence[Axes]:
    batch, data = whole_axes(node, channels, 2)
    for slot in (1, 2):
        channels.match(node, slot, 0, data)
    return [spatial(node, batch, data)]


@rule("GroupNormalization")
def group_norm(node: Node, channels: Channels) -> Sequence[Axes]:
    """A group is normalized as a whole, so it goes as a whole."""
    batch, data = whole_axes(node, channels, 2)
    if data is not None:
        block = channels.tie(data.reshape(attr_int(node, "num_groups", 1), -1))
        count_groups(node, channels, block, "num_groups")
    for slot in (1, 2):
        channels.match(node, slot, 0, data)
    return [spatial(node, batch, data)]


@rule("LayerNormalization", "RMSNormalization")
def layer_norm(node: Node, channels: Channels) -> Sequence[Axes]:
    """What is normalized over must stay; scale and bias may still lie along other axes."""
    rank = node.operand(0).type.rank
    first = attr_int(node, "axis", -1) % rank
    axes = _pinned(node, channels, range(first, rank), "normalizes over them")
    for slot in (1, 2):
        channels.match_trailing(node, slot, axes)
    statistics = (*axes[:first], *(None for _ in axes[first:]))
    return [axes, statistics, statistics][: len(node.outputs)]


@rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
def along_axis(node: Node, channels: Channels) -> Sequence[Axes]:
    rank = node.operand(0).type.rank
    return [_pinned(node, channels, [attr_int(node, "axis", -1) % rank], "normalizes over them")]


@rule("LRN")
def local_response(node: Node, channels: Channels) -> Sequence[Axes]:
    return [_pinned(node, channels, [1], "normalizes over them")]


def _pinned(node: Node, channels: Channels, over: Sequence[int], does: str) -> Axes:
    """The axes of operand 0, those in `over` pinned."""
    axes = channels.of(node.operand(0))
    for axis in over:
        channels.pin(axes[axis], f"{channels.title(node)} {does}")
    return axes


@rule(
    *("AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"),
)
def pool(node: Node, channels: Channels) -> Sequence[Axes]:
    batch, data = whole_axes(node, channels, 2)
    if len(node.outputs) > 1 and node.outputs[1].uses:  # MaxPool's indices count elements of all channels
        return refuse(node, channels, f"{channels.title(node)} gives indices over all channels")
    return [spatial(node, batch, data)]


@rule(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin"),
)
def reduction(node: Node, channels: Channels) -> Sequence[Axes]:
    """The axes reduced over must stay."""
    rank = node.operand(0).type.rank
    if node.op.startswith("Arg"):
        over = [attr_int(node, "axis", 0) % rank]
    else:
        given = axes_of(node)
        if given is None and node.input(1) is not None:
            return refuse(node, channels, f"{channels.title(node)} computes its axes")
        empty = [] if attr_int(node, "noop_with_empty_axes", 0) else list(range(rank))
        over = [a % rank for a in given] if given else empty
    axes = _pinned(node, channels, over, "reduces over them")
    if attr_int(node, "keepdims", 1):
        return [tuple(None if axis in over else labels for axis, labels in enumerate(axes))]
    return [tuple(labels for axis, labels in enumerate(axes) if axis not in over)]


@rule("CumSum", "CumProd")
def running(node: Node, channels: Channels) -> Sequence[Axes]:
    axis = node.operand(1).data
    if axis is None:
        return refuse(node, channels, f"{channels.title(node)} computes its axis")
    return [_pinned(node, channels, [int(axis.reshape(-1)[0]) % node.operand(0).type.rank], "sums over them")]
