"""Pruning rules of Reshape and other views, Transpose, and Shape.

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
from ...compiler.ops.base import attr_int
from ...compiler.ops.dims import product
from ...compiler.types import Dim, free_symbols, same_dim, substitute
from ..facts import perm_of, reshape_vector
from .channels import Axes, Channels, Kept, Labels
from .rules import refuse, rule, set_ints


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
            set_ints(node, 1, _updated(given.data, after.dims), channels)
        elif plain:
            set_ints(node, 1, reshape_vector(before, after), channels)
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


@rule("Shape")
def shape(node: Node, channels: Channels) -> Sequence[Axes]:
    """Sizes that are known were folded before, so what still reads them must be a Reshape, whose shape is rewritten."""
    axes = channels.of(node.operand(0))
    read = axes[attr_int(node, "start", 0) : attr_int(node, "end", len(axes))]
    if all(labels is None for labels in read):
        return [(None,)]
    readers = _reshapes_that_read(node.output)
    if readers is None:
        for labels in read:
            channels.pin(labels, f"{channels.title(node)} gives their number to other nodes")
        return [(None,)]

    def change(kept: Kept) -> None:
        if all(labels is None or kept.where(labels).all() for labels in read):
            return
        for reader in readers:
            source, out = (v.type.with_shape(channels.shape_after(v, kept)) for v in (reader.operand(0), reader.output))
            set_ints(reader, 1, reshape_vector(source, out), channels)

    channels.fix(change)
    return [(None,)]


_PICKS = frozenset({"Gather", "Slice", "Concat", "Identity", "Cast", "Squeeze", "Unsqueeze", "Split"})


def _reshapes_that_read(shape: Value) -> list[Node] | None:
    """The Reshapes in which numbers of a shape vector end; None if they end elsewhere too."""
    if shape.is_output:
        return None
    if shape.content is not None and not any(isinstance(d, int) for d in shape.content.reshape(-1)):
        return []
    found: list[Node] = []
    for user, slot in shape.uses:
        if not isinstance(user, Node):
            return None
        if user.op == "Reshape" and slot == 1:
            if reshape_vector(user.operand(0).type, user.output.type) is None:
                return None
            found.append(user)
        elif user.op in _PICKS:
            further = [_reshapes_that_read(out) for out in user.outputs]
            if any(nodes is None for nodes in further):
                return None
            found += [node for nodes in further for node in nodes or ()]
        else:
            return None
    return found
