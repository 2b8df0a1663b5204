"""Pruning rules of ops that move elements: views, transposes, concatenations, slices, resizing.

A Reshape is read block by block: [N, S, 768] -> [N, S, 12, 64] keeps N and S and splits the block (768) into
(12, 64). Within a block, the output axis along which every slab has one label carries the labels on, as where
[C, H, W] becomes [C*H*W]: a channel is then a run of features. Where a channel axis is split there is none, and one
of the new axes is chosen whose slabs are tied: the last but one if the block ends the tensor (attention: heads, not
the elements of each head), else the widest (channel shuffle: the channels, not their groups).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...compiler.ir import Node, Value
from ...compiler.ops.base import attr_int, attr_str
from ...compiler.ops.dims import product
from ...compiler.types import Dim, free_symbols, same_dim, substitute
from ..facts import known_ints, perm_of, reshape_vector
from .channels import Axes, Channels, Kept, Labels
from .rules import refuse, rule


@rule("Identity")
def identity(node: Node, channels: Channels) -> Sequence[Axes]:
    return [channels.of(node.operand(0))]


@rule("Transpose")
def transpose(node: Node, channels: Channels) -> Sequence[Axes]:
    axes = channels.of(node.operand(0))
    return [tuple(axes[p] for p in perm_of(node) or ())]


# --- views -------------------------------------------------------------------------------------------------------


@rule("Flatten", "Squeeze", "Unsqueeze")
def view(node: Node, channels: Channels) -> Sequence[Axes]:
    return [_refolded(node, channels)]


@rule("Reshape")
def reshape(node: Node, channels: Channels) -> Sequence[Axes]:
    """The shape operand is rewritten where the channels change what it says."""
    source, out, given = node.operand(0), node.output, node.operand(1)
    plain = reshape_vector(source.type, out.type) is not None
    if not given.is_constant and not plain and not _names_its_numbers(given):
        return refuse(node, channels, f"{channels.title(node)} computes its shape")
    axes = _refolded(node, channels)

    def change(kept: Kept) -> None:
        before = source.type.with_shape(channels.shape_after(source, kept))
        after = out.type.with_shape(channels.shape_after(out, kept))
        if (before, after) == (source.type, out.type):
            return
        if given.data is not None:
            _set_ints(node, 1, _updated(given.data, after.dims), channels)
        elif plain:
            _set_ints(node, 1, reshape_vector(before, after), channels)
        else:
            _set_parts(node, given, after.dims, channels)

    channels.fix(change)
    return [axes]


def _updated(given: np.ndarray, dims: Sequence[Dim]) -> list[int]:
    """A shape operand for new dims: -1 stays what is left, 0 (a copy) stays where the dim is no number."""
    return [
        int(dim) if isinstance(dim, int) and size >= 0 else int(size) for size, dim in zip(given, dims, strict=True)
    ]


def _names_its_numbers(shape: Value) -> bool:
    """True for a Concat of vectors that are constant or hold no known number."""
    if shape.producer is None or shape.producer.op != "Concat":
        return False
    return all(
        part.is_constant or (part.content is not None and not any(isinstance(d, int) for d in part.content.reshape(-1)))
        for part in shape.producer.inputs
        if part is not None
    )


def _set_parts(node: Node, shape: Value, dims: Sequence[Dim], channels: Channels) -> None:
    """Gives a Reshape a copy of the Concat that makes its shape, with the constant parts updated."""
    if shape.producer is None:
        return
    parts: list[Value | None] = []
    start = 0
    for part in shape.producer.inputs:
        if part is None:
            continue
        stop = start + int(part.type.static_shape[0])
        if part.data is not None:
            part = channels.graph.constant(np.array(_updated(part.data, dims[start:stop]), np.int64), part.name)
        parts.append(part)
        start = stop
    joined = channels.graph.emit("Concat", parts, shape.producer.attrs, before=node, loc=shape.producer.loc)
    channels.graph.set_input(node, 1, joined.output)


def _set_ints(node: Node, slot: int, values: Sequence[int] | np.ndarray | None, channels: Channels) -> None:
    """Gives a node other constant integers as an operand."""
    old = node.input(slot)
    hint = old.name if old is not None else f"{node.outputs[0].name}_sizes"
    channels.graph.set_input(node, slot, channels.graph.constant(np.array(values, np.int64), hint))


def _refolded(node: Node, channels: Channels) -> Axes:
    """The labels of a view's output."""
    source, out = node.operand(0), node.outputs[0]
    axes = channels.of(source)
    found: list[Labels | None] = [None] * out.type.rank
    for old, new in _blocks(source.type.dims, out.type.dims):
        if all(axes[i] is None for i in old):
            continue
        elements = _elements(source, out, axes, old, new)
        if elements is None:
            for i in old:
                channels.pin(axes[i], f"{channels.title(node)} mixes them with other axes")
            continue
        last = bool(new) and all(d == 1 for d in out.type.dims[new[-1] + 1 :])
        _carry(node, channels, elements, new, last, found)
    return tuple(found)


def _carry(
    node: Node, channels: Channels, elements: np.ndarray, new: Sequence[int], last: bool, found: list[Labels | None]
) -> None:
    """Puts the labels of a block's elements on one of its new axes."""
    dims = node.outputs[0].type.dims
    wide = [at for at, axis in enumerate(new) if isinstance(dims[axis], int) and elements.shape[at] > 1]
    slabs = {at: np.moveaxis(elements, at, 0).reshape(elements.shape[at], -1) for at in wide}
    exact = [at for at in wide if np.array_equal(slabs[at], np.broadcast_to(slabs[at][:, :1], slabs[at].shape))]
    if exact:
        found[new[exact[0]]] = slabs[exact[0]][:, 0]
    elif wide:
        chosen = wide[max(len(wide) - 2, 0)] if last else max(wide, key=lambda at: elements.shape[at])
        found[new[chosen]] = channels.tie(slabs[chosen])
    else:
        channels.pin(elements.reshape(-1), f"{channels.title(node)} mixes them with other axes")


def _elements(source: Value, out: Value, axes: Axes, old: Sequence[int], new: Sequence[int]) -> np.ndarray | None:
    """The label of each element of a block, in the output's shape; None if it has no single one.

    Elements lie in the same pattern whatever the symbolic dims are, so an example will do.
    """
    labelled = [at for at, axis in enumerate(old) if axes[axis] is not None]
    labels = axes[old[labelled[0]]]
    sizes, wanted = _example([source.type.dims[i] for i in old], [out.type.dims[i] for i in new])
    if len(labelled) > 1 or labels is None or np.prod(sizes) != np.prod(wanted):
        return None
    spread = labels.reshape([-1 if at == labelled[0] else 1 for at in range(len(old))])
    return np.broadcast_to(spread, sizes).reshape(wanted)


def _example(*shapes: Sequence[Dim]) -> list[list[int]]:
    """Shapes with one small number for all symbols, large enough that no symbolic dim is below 2."""
    found: list[list[int]] = []
    for number in (2, 8, 32, 128, 512):
        found = [[int(d) if isinstance(d, int) else _at(d, number) for d in shape] for shape in shapes]
        dims = [(d, f) for shape, sizes in zip(shapes, found, strict=True) for d, f in zip(shape, sizes, strict=True)]
        if all(size >= 2 for dim, size in dims if not isinstance(dim, int)):
            break
    return found


def _at(dim: Dim, number: int) -> int:
    return int(substitute((dim,), {s: number for s in free_symbols((dim,))})[0])


def _blocks(old: Sequence[Dim], new: Sequence[Dim]) -> Iterator[tuple[list[int], list[int]]]:
    """Axes of two shapes of one size, cut into the smallest pairs of runs that have equal products."""
    i = j = 0
    while i < len(old) and j < len(new):
        spans = [(a, b) for a in range(i + 1, len(old) + 1) for b in range(j + 1, len(new) + 1)]
        fits = (s for s in sorted(spans, key=sum) if same_dim(product(old[i : s[0]]), product(new[j : s[1]])))
        a, b = next(fits, (len(old), len(new)))
        yield list(range(i, a)), list(range(j, b))
        i, j = a, b
    if i < len(old):
        yield list(range(i, len(old))), []


# --- joining and cutting -----------------------------------------------------------------------------------------


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
            _set_ints(node, 1, after, channels)

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
            _set_ints(node, 1, starts, channels)
            _set_ints(node, 2, ends, channels)

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
        _set_ints(node, 1, position[inside], channels)

    channels.fix(change)
    return (labels[places],) if places.ndim == 1 else fixed


# --- sizes -------------------------------------------------------------------------------------------------------


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
            _set_ints(node, 1, after, channels)

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
            _set_ints(node, 3, after, channels)

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


@rule("Shape")
def shape(node: Node, channels: Channels) -> Sequence[Axes]:
    """Sizes that are known were folded before, so what still reads them must be a Reshape, which is rewritten."""
    axes = channels.of(node.operand(0))
    read = axes[attr_int(node, "start", 0) : attr_int(node, "end", len(axes))]
    if any(labels is not None for labels in read) and not _only_reshapes(node.output):
        for labels in read:
            channels.pin(labels, f"{channels.title(node)} gives their number to other nodes")
    return [(None,)]


_PICKS = frozenset({"Gather", "Slice", "Concat", "Identity", "Cast", "Squeeze", "Unsqueeze", "Split"})


def _only_reshapes(value: Value) -> bool:
    """True if the numbers in a shape vector end in Reshape targets, or are dropped on the way."""
    if value.is_output:
        return False
    if value.content is not None and not any(isinstance(d, int) for d in value.content.reshape(-1)):
        return True
    for user, slot in value.uses:
        if not isinstance(user, Node):
            return False
        if user.op == "Reshape" and slot == 1:
            continue
        if user.op not in _PICKS or not all(_only_reshapes(out) for out in user.outputs):
            return False
    return True
