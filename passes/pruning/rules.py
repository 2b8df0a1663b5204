"""How channels pass through ops: ADD A PRUNING RULE by a function decorated with `@rule(op, ...)`.

A rule is asked about nodes that have a labelled input and about those that make channels (MAKERS). It tells the
`Channels` which operands go along with which labels, and returns the axes of the outputs. A node without a rule pins
whatever reaches it. views.py has the rules of ops that move elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...compiler.ir import Graph, Node, Value, captures
from ...compiler.ops.base import attr_int, op_of
from ..facts import axes_of
from .channels import Axes, Channels, Kept, Labels

Rule = Callable[[Node, Channels], Sequence[Axes]]
RULES: dict[str, Rule] = {}
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MAKERS = _LAYERS | {"Gather"}
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Registers a rule for ops."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return register


def find_channels(graph: Graph) -> Channels:
    """Carries labels through a graph, in order, and pins those that reach its outputs or a nested graph."""
    from . import views  # noqa: F401  (registers its rules)

    channels = Channels(graph)
    for node in graph.nodes:
        for value, axes in zip(node.outputs, _outputs(node, channels), strict=False):
            channels.axes[value] = axes
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        channels.pin_value(value, f"they are output {name}")
    return channels


def _outputs(node: Node, channels: Channels) -> Sequence[Axes]:
    for name, sub in node.subgraphs.items():
        for value in captures(sub):
            channels.pin_value(value, f"{channels.title(node)} reads them in its graph {name}")
        for inner in sub.all_nodes():
            if inner.op in _RECURRENT or (inner.op in _LAYERS and inner.operand(1).is_constant):
                channels.left[inner] = f"it lies in a graph of {channels.title(node)}"
    if node.op in _RECURRENT:
        channels.left[node] = "recurrent layers keep their size"
    reached = any(labels is not None for v in node.inputs for labels in channels.of(v))
    if not reached and node.op not in MAKERS:
        return ()
    found = RULES.get(node.op) or (pointwise if op_of(node).pointwise else None)
    if found is None:
        return refuse(node, channels, f"{channels.title(node)} has no pruning rule")
    if any(v is not None and v.type.shape is None for v in (*node.inputs, *node.outputs)):
        return refuse(node, channels, f"{channels.title(node)} has an operand of unknown rank")
    return found(node, channels)


def refuse(node: Node, channels: Channels, reason: str) -> Sequence[Axes]:
    """Pins all that reaches a node."""
    for value in node.inputs:
        channels.pin_value(value, reason)
    return ()


# --- pointwise ---------------------------------------------------------------------------------------------------


def pointwise(node: Node, channels: Channels) -> Sequence[Axes]:
    """Operands broadcast; those that share an axis share its labels."""
    axes = broadcast(node, channels, range(len(node.inputs)), node.outputs[0].type.rank)
    return [axes] * len(node.outputs)


def broadcast(node: Node, channels: Channels, slots: Sequence[int], rank: int) -> Axes:
    """The axes of operands broadcast to `rank` axes, which are joined."""
    axes = []
    for axis in range(rank):
        places = [(slot, at) for slot in slots if (at := _aligned(node.input(slot), axis, rank)) is not None]
        axes.append(channels.together(node, places))
    return tuple(axes)


def _aligned(value: Value | None, axis: int, rank: int) -> int | None:
    """Which axis of an operand lies at `axis` of the result; None if it has none there, or one of size 1."""
    if value is None:
        return None
    at = axis - rank + value.type.rank
    return at if at >= 0 and value.type.dims[at] != 1 else None


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(node: Node, channels: Channels) -> Sequence[Axes]:
    """Scales and zero points of rank 1 lie along `axis`."""
    axes = channels.of(node.operand(0))
    for slot in (1, 2):
        value = node.input(slot)
        if value is not None and value.type.rank > 1:
            return refuse(node, channels, f"{channels.title(node)} quantizes in blocks")
        if value is not None and value.type.rank == 1:
            channels.match(node, slot, 0, axes[attr_int(node, "axis", 1)])
    return [axes]


# --- convolutions and products -----------------------------------------------------------------------------------


def _whole_axes(node: Node, channels: Channels, first: int) -> Axes:
    """The axes of operand 0; labels from axis `first` on are pinned, as the op mixes elements there."""
    axes = channels.of(node.operand(0))
    for labels in axes[first:]:
        channels.pin(labels, f"{channels.title(node)} slides along them")
    return axes[:first]


@rule("Conv")
def conv(node: Node, channels: Channels) -> Sequence[Axes]:
    """Depthwise and finely grouped convolutions lose whole groups, others the same channels of each group."""
    groups, weight = attr_int(node, "group", 1), node.operand(1)
    if not weight.is_constant:
        channels.left[node] = "its weights are computed"
        return refuse(node, channels, f"{channels.title(node)} has computed weights")
    batch, data = _whole_axes(node, channels, 2)
    made, read = weight.type.static_shape[:2]
    out: Labels | None
    if groups > 1 and groups >= read:
        out = None
        if data is None:
            channels.left[node] = "it has the groups of an input that cannot shrink"
        else:
            block = channels.tie(data.reshape(groups, read))
            out = np.repeat(block, made // groups)
            channels.cut(node, 1, 0, out, "makes")
            _count_groups(node, channels, block)
    else:
        out = channels.source(node, 1, 0)
        inside = data
        if groups > 1:
            if out is not None:
                channels.tie(out.reshape(groups, -1).T)
            if data is not None:
                inside = channels.tie(data.reshape(groups, -1).T)
        channels.match(node, 1, 1, inside, "reads")
    channels.match(node, 2, 0, out)
    return [_spatial(node, batch, out)]


@rule("ConvTranspose")
def conv_transpose(node: Node, channels: Channels) -> Sequence[Axes]:
    """Weights are [inputs, outputs / groups, ...]; grouped ones lose whole groups."""
    groups, weight = attr_int(node, "group", 1), node.operand(1)
    if not weight.is_constant:
        channels.left[node] = "its weights are computed"
        return refuse(node, channels, f"{channels.title(node)} has computed weights")
    batch, data = _whole_axes(node, channels, 2)
    out: Labels | None = None
    if groups == 1:
        out = channels.source(node, 1, 1)
        channels.match(node, 1, 0, data, "reads")
    elif data is not None:
        block = channels.tie(data.reshape(groups, -1))
        out = np.repeat(block, weight.type.static_shape[1])
        channels.cut(node, 1, 0, data, "makes")
        _count_groups(node, channels, block)
    channels.match(node, 2, 0, out)
    return [_spatial(node, batch, out)]


def _count_groups(node: Node, channels: Channels, block: Labels, attr: str = "group") -> None:
    def change(kept: Kept) -> None:
        node.attrs[attr] = kept.count(block)

    channels.fix(change)


def _spatial(node: Node, batch: Labels | None, out: Labels | None) -> Axes:
    return (batch, out, *(None for _ in node.outputs[0].type.dims[2:]))


@rule("MatMul")
def matmul(node: Node, channels: Channels) -> Sequence[Axes]:
    ranks = [node.operand(slot).type.rank for slot in (0, 1)]
    _contract(node, channels, (0, ranks[0] - 1), (1, max(ranks[1] - 2, 0)))
    rows = _free_axis(node, channels, 0, ranks[0] - 2) if ranks[0] > 1 else ()
    columns = _free_axis(node, channels, 1, ranks[1] - 1) if ranks[1] > 1 else ()
    batch = []
    for back in range(max(*ranks, 2) - 2, 0, -1):
        places = [(slot, ranks[slot] - 2 - back) for slot in (0, 1) if ranks[slot] - 2 - back >= 0]
        wide = [(slot, axis) for slot, axis in places if node.operand(slot).type.dims[axis] != 1]
        batch.append(channels.together(node, wide))
    return [(*batch, *rows, *columns)]


@rule("Gemm")
def gemm(node: Node, channels: Channels) -> Sequence[Axes]:
    a, b = attr_int(node, "transA", 0), attr_int(node, "transB", 0)
    _contract(node, channels, (0, 0 if a else 1), (1, 1 if b else 0))
    axes = (*_free_axis(node, channels, 0, 1 if a else 0), *_free_axis(node, channels, 1, 0 if b else 1))
    channels.match_trailing(node, 2, axes)
    return [axes]


def _contract(node: Node, channels: Channels, left: tuple[int, int], right: tuple[int, int]) -> None:
    """Two operands' axes, as (slot, axis), are summed over together."""
    for (slot, axis), other in ((left, right), (right, left)):
        labels = channels.of(node.operand(slot))[axis]
        if labels is not None:
            channels.match(node, *other, labels, "reads")
            return


def _free_axis(node: Node, channels: Channels, slot: int, axis: int) -> Axes:
    """An axis of a factor that the product keeps: a constant makes channels there."""
    value = node.operand(slot)
    if value.is_constant and value.type.dtype.is_float:
        return (channels.source(node, slot, axis),)
    return (channels.of(value)[axis],)


# --- norms, pools, reductions ------------------------------------------------------------------------------------


@rule("BatchNormalization")
def batch_norm(node: Node, channels: Channels) -> Sequence[Axes]:
    axes = channels.of(node.operand(0))
    for slot in (1, 2, 3, 4):
        channels.match(node, slot, 0, axes[1])
    return [axes]


@rule("InstanceNormalization")
def instance_norm(node: Node, channels: Channels) -> Sequence[Axes]:
    batch, data = _whole_axes(node, channels, 2)
    for slot in (1, 2):
        channels.match(node, slot, 0, data)
    return [_spatial(node, batch, data)]


@rule("GroupNormalization")
def group_norm(node: Node, channels: Channels) -> Sequence[Axes]:
    """A group is normalized as a whole, so it goes as a whole."""
    batch, data = _whole_axes(node, channels, 2)
    if data is not None:
        block = channels.tie(data.reshape(attr_int(node, "num_groups", 1), -1))
        _count_groups(node, channels, block, "num_groups")
    for slot in (1, 2):
        channels.match(node, slot, 0, data)
    return [_spatial(node, batch, data)]


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
    batch, data = _whole_axes(node, channels, 2)
    if len(node.outputs) > 1 and node.outputs[1].uses:  # MaxPool's indices count elements of all channels
        return refuse(node, channels, f"{channels.title(node)} gives indices over all channels")
    return [_spatial(node, batch, data)]


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
