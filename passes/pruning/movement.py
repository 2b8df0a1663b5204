"""Pruning rules of ops that join, cut, pick or resize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int, attr_str
from ...compiler.types import same_dim
from ..facts import known_ints
from .channels import Axes, Channels, Kept, Labels
from .rules import refuse, rule, set_ints


@rule("Concat")
def concat(node: Node, channels: Channels) -> Sequence[Axes]:
    """Along its axis the labels stand in a row; parts that cannot shrink get labels that are pinned."""
    rank = node.output.type.rank
    axis = attr_int(node, "axis", 0) % rank
    out: list[Labels | None] = []
    for at in range(rank):
        if at != axis:
            out.append(channels.together(node, [(slot, at) for slot in range(len(node.inputs))]))
            continue
        parts = [(channels.of(v)[at], v.type.dims[at]) for v in node.inputs if v is not None]
        if all(labels is None for labels, _ in parts):
            out.append(None)
        elif not all(isinstance(dim, int) for _, dim in parts):
            for labels, _ in parts:
                channels.pin(labels, f"{channels.title(node)} joins them with parts of unknown size")
            out.append(None)
        else:
            out.append(np.concatenate([_or_fixed(labels, int(dim), node, channels) for labels, dim in parts]))
    return [tuple(out)]


def _or_fixed(labels: Labels | None, size: int, node: Node, channels: Channels) -> Labels:
    if labels is not None:
        return labels
    fixed = np.arange(channels.size, channels.size + size)
    channels.size += size
    channels.pin(fixed, f"{channels.title(node)} joins them with an axis that cannot shrink")
    return fixed


@rule("Split")
def split(node: Node, channels: Channels) -> Sequence[Axes]:
    axes = channels.of(node.operand(0))
    axis = attr_int(node, "axis", 0) % len(axes)
    labels = axes[axis]
    if labels is None:
        return [axes] * len(node.outputs)
    sizes = [value.type.dims[axis] for value in node.outputs]
    if not all(isinstance(size, int) for size in sizes) or sum(sizes) != len(labels):
        return refuse(node, channels, f"{channels.title(node)} has computed parts")
    parts = np.split(labels, np.cumsum(sizes)[:-1])

    def change(kept: Kept) -> None:
        after = [kept.count(part) for part in parts]
        if after != sizes:
            node.attrs.pop("num_outputs", None)
            set_ints(node, 1, after, channels)

    channels.fix(change)
    return [(*axes[:axis], part, *axes[axis + 1 :]) for part in parts]


@rule("Slice")
def slice_(node: Node, channels: Channels) -> Sequence[Axes]:
    axes = list(channels.of(node.operand(0)))
    operands = [known_ints(node.input(slot)) if node.input(slot) is not None else [] for slot in range(1, 5)]
    starts, ends, over, steps = operands
    if starts is None or ends is None or over is None or steps is None:
        return refuse(node, channels, f"{channels.title(node)} computes its bounds")
    over = [a % len(axes) for a in over] or list(range(len(starts)))
    bounds: dict[int, tuple[Labels, int, int]] = {}  # by position
    for position, axis in enumerate(over):
        labels = axes[axis]
        if labels is None:
            continue
        if steps and steps[position] != 1:
            channels.pin(labels, f"{channels.title(node)} takes every {steps[position]}th of them")
            axes[axis] = None
            continue
        first, last, _ = slice(starts[position], ends[position]).indices(len(labels))
        bounds[position] = labels, first, max(first, last)
        axes[axis] = labels[first:last]

    def change(kept: Kept) -> None:
        changed = {at: b for at, b in bounds.items() if not kept.where(b[0]).all()}
        for position, (labels, first, last) in changed.items():
            starts[position], ends[position] = kept.count(labels[:first]), kept.count(labels[:last])
        if changed:
            set_ints(node, 1, starts, channels)
            set_ints(node, 2, ends, channels)

    channels.fix(change)
    return [tuple(axes)]


@rule("Gather")
def gather(node: Node, channels: Channels) -> Sequence[Axes]:
    """A table of floats makes channels along the axes that are not looked up."""
    data, indices = node.operand(0), node.operand(1)
    channels.pin_value(indices, f"{channels.title(node)} uses them as indices")
    if data.type.shape is None or indices.type.shape is None:
        return refuse(node, channels, f"{channels.title(node)} has an operand of unknown rank")
    axis = attr_int(node, "axis", 0) % data.type.rank
    if data.is_constant:
        whole = [None if a == axis or not data.type.dtype.is_float else channels.source(node, 0, a)
                 for a in range(data.type.rank)]  # fmt: skip
    else:
        whole = list(channels.of(data))
    picked = _picked(node, channels, whole[axis])
    return [(*whole[:axis], *picked, *whole[axis + 1 :])]


def _picked(node: Node, channels: Channels, labels: Labels | None) -> Axes:
    """The labels of the axes that the indices make, out of those of the axis they pick from."""
    indices = node.operand(1)
    fixed: Axes = (None,) * indices.type.rank
    if labels is None:
        return fixed
    known = indices.data
    if known is None:
        channels.pin(labels, f"{channels.title(node)} picks them by computed indices")
        return fixed
    places = known.astype(np.int64) % len(labels)
    if places.ndim != 1:
        channels.pin(labels[places.reshape(-1)], f"{channels.title(node)} picks them one by one")

    def change(kept: Kept) -> None:
        if kept.where(labels).all():
            return
        position = np.cumsum(kept.where(labels)) - 1
        inside = places[kept.where(labels[places])] if places.ndim == 1 else places
        set_ints(node, 1, position[inside], channels)

    channels.fix(change)
    return (labels[places],) if places.ndim == 1 else fixed


@rule("Pad", "Tile")
def pad(node: Node, channels: Channels) -> Sequence[Axes]:
    """Axes that are neither padded nor repeated carry on."""
    axes = list(channels.of(node.operand(0)))
    amounts = known_ints(node.operand(1))
    over = range(len(axes)) if node.op == "Tile" or node.input(3) is None else known_ints(node.input(3))
    if amounts is None or over is None:
        return refuse(node, channels, f"{channels.title(node)} computes its amounts")
    for position, axis in enumerate(over):
        still = amounts[position] == 1 if node.op == "Tile" else not any(amounts[position :: len(over)])
        if not still:
            channels.pin(axes[axis], f"{channels.title(node)} repeats or pads them")
            axes[axis % len(axes)] = None
    return [tuple(axes)]


@rule("Expand")
def expand(node: Node, channels: Channels) -> Sequence[Axes]:
    target = known_ints(node.operand(1))
    if target is None or not node.operand(1).is_constant:
        return refuse(node, channels, f"{channels.title(node)} computes its shape")
    axes = channels.of(node.operand(0))
    out: Axes = (*(None,) * (node.output.type.rank - len(axes)), *axes)
    sizes = list(target)
    wide = {at: labels for at, labels in enumerate(out[len(out) - len(sizes) :]) if labels is not None}

    def change(kept: Kept) -> None:
        after = [kept.count(wide[at]) if at in wide and size != 1 else size for at, size in enumerate(sizes)]
        if after != sizes:
            set_ints(node, 1, after, channels)

    channels.fix(change)
    return [out]


@rule("Resize")
def resize(node: Node, channels: Channels) -> Sequence[Axes]:
    """Channels are not resized; where sizes are given for all axes, theirs is updated."""
    data, out = node.operand(0), node.output
    axes = list(channels.of(data))
    title = channels.title(node)
    if attr_str(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return refuse(node, channels, f"{title} crops")
    for axis, labels in enumerate(axes):
        if labels is not None and not same_dim(data.type.dims[axis], out.type.dims[axis]):
            channels.pin(labels, f"{title} resizes them")
            axes[axis] = None
    given = node.input(3)
    if given is None:
        return [tuple(axes)]
    chosen = node.attrs.get("axes")
    over = [int(a) % len(axes) for a in chosen] if isinstance(chosen, tuple) else list(range(len(axes)))
    wide = {at: labels for at, axis in enumerate(over) if (labels := axes[axis]) is not None}
    sizes = known_ints(given)
    if wide and (sizes is None or not given.is_constant):
        return refuse(node, channels, f"{title} computes its sizes")

    def change(kept: Kept) -> None:
        after = [kept.count(wide[at]) if at in wide else size for at, size in enumerate(sizes or [])]
        if after != sizes:
            set_ints(node, 3, after, channels)

    if wide:
        channels.fix(change)
    return [tuple(axes)]


@rule("DepthToSpace")
def depth_to_space(node: Node, channels: Channels) -> Sequence[Axes]:
    """blocksize^2 channels make one: they go together."""
    axes = channels.of(node.operand(0))
    for labels in axes[2:]:
        channels.pin(labels, f"{channels.title(node)} mixes them with other axes")
    labels, block = axes[1], attr_int(node, "blocksize", 1) ** 2
    if labels is None:
        return [(axes[0], None, None, None)]
    columns = labels.reshape(block, -1).T if attr_str(node, "mode", "DCR") == "DCR" else labels.reshape(-1, block)
    return [(axes[0], channels.tie(columns), None, None)]


@rule("SpaceToDepth")
def space_to_depth(node: Node, channels: Channels) -> Sequence[Axes]:
    axes = channels.of(node.operand(0))
    for labels in axes[2:]:
        channels.pin(labels, f"{channels.title(node)} mixes them with other axes")
    labels = axes[1]
    out = None if labels is None else np.tile(labels, attr_int(node, "blocksize", 1) ** 2)
    return [(axes[0], out, None, None)]
