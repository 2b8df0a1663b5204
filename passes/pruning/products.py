"""Pruning rules of convolutions and matrix products: where channels are made and read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int, attr_str
from .channels import Axes, Channels, Labels
from .rules import count_groups, refuse, rule, spatial, whole_axes


@rule("Conv")
def conv(node: Node, channels: Channels) -> Sequence[Axes]:
    """Depthwise and finely grouped convolutions lose whole groups, others the same channels of each group."""
    groups, weight = attr_int(node, "group", 1), node.operand(1)
    if not weight.is_constant:
        channels.left[node] = "its weights are computed"
        return refuse(node, channels, f"{channels.title(node)} has computed weights")
    batch, data = whole_axes(node, channels, 2)
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
            count_groups(node, channels, block)
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
    return [spatial(node, batch, out)]


@rule("ConvTranspose")
def conv_transpose(node: Node, channels: Channels) -> Sequence[Axes]:
    """Weights are [inputs, outputs / groups, ...]; grouped ones lose whole groups."""
    groups, weight = attr_int(node, "group", 1), node.operand(1)
    if not weight.is_constant:
        channels.left[node] = "its weights are computed"
        return refuse(node, channels, f"{channels.title(node)} has computed weights")
    batch, data = whole_axes(node, channels, 2)
    out: Labels | None = None
    if groups == 1:
        out = channels.source(node, 1, 1)
        channels.match(node, 1, 0, data, "reads")
    elif data is not None:
        block = channels.tie(data.reshape(groups, -1))
        out = np.repeat(block, weight.type.static_shape[1])
        channels.cut(node, 1, 0, data, "makes")
        count_groups(node, channels, block)
    channels.match(node, 2, 0, out)
    return [spatial(node, batch, out)]


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


@rule("Einsum")
def einsum(node: Node, channels: Channels) -> Sequence[Axes]:
    """A letter is one axis; constants make channels along letters that the output keeps and nobody else has."""
    left, _, right = attr_str(node, "equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in left or not right or any(len(set(term)) < len(term) for term in terms):
        return refuse(node, channels, f"{channels.title(node)} has an equation of another form")
    found: dict[str, Labels | None] = {}
    for letter in dict.fromkeys(left.replace(",", "")):
        places = [(slot, term.index(letter)) for slot, term in enumerate(terms) if letter in term]
        wide = [(slot, axis) for slot, axis in places if node.operand(slot).type.dims[axis] != 1]
        if len(places) == 1 and letter in right:
            (found[letter],) = _free_axis(node, channels, *places[0])
        elif len(places) == 1:
            slot, axis = places[0]
            channels.pin(channels.of(node.operand(slot))[axis], f"{channels.title(node)} reduces over them")
        else:
            found[letter] = channels.together(node, wide, "follows" if letter in right else "reads")
    return [tuple(found[letter] for letter in right)]
