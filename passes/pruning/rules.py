"""How channels pass through ops: ADD A PRUNING RULE by a function decorated with `@rule(op, ...)`.

A rule is asked about nodes that have a labelled input and about those that make channels (MAKERS). It tells the
`Channels` which operands go along with which labels, and returns the axes of the outputs. A node without a rule pins
whatever reaches it. Rules lie in products.py, norms.py, views.py and movement.py; pointwise ops need none of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...compiler.ir import Graph, Node, Value, captures
from ...compiler.ops.base import attr_int, op_of
from .channels import Axes, Channels, Kept, Labels

Rule = Callable[[Node, Channels], Sequence[Axes]]
RULES: dict[str, Rule] = {}
MAKERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Gather"})


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Registers a rule for ops."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return register


def find_channels(graph: Graph) -> Channels:
    """Carries labels through a graph, in order, and pins those that reach its outputs or a nested graph."""
    from . import movement, norms, products, views  # noqa: F401  (these register their rules)

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
            if _has_weights(inner):
                channels.left[inner] = f"it lies in a graph of {channels.title(node)}"
    if node.op not in RULES and _has_weights(node):
        channels.left[node] = f"{node.op} has no pruning rule"
    reached = any(labels is not None for v in node.inputs for labels in channels.of(v))
    if not reached and node.op not in MAKERS:
        return ()
    found = RULES.get(node.op) or (pointwise if op_of(node).pointwise else None)
    if found is None:
        return refuse(node, channels, f"{channels.title(node)} has no pruning rule")
    if any(v is not None and v.type.shape is None for v in (*node.inputs, *node.outputs)):
        return refuse(node, channels, f"{channels.title(node)} has an operand of unknown rank")
    return found(node, channels)


def _has_weights(node: Node) -> bool:
    """True for convolutions, products and recurrent nodes that read a constant matrix."""
    return op_of(node).anchor and any(v is not None and v.is_constant and v.type.rank > 1 for v in node.inputs)


def refuse(node: Node, channels: Channels, reason: str) -> Sequence[Axes]:
    """Pins all that reaches a node."""
    for value in node.inputs:
        channels.pin_value(value, reason)
    return ()


# --- pointwise ---------------------------------------------------------------------------------------------------


def pointwise(node: Node, channels: Channels) -> Sequence[Axes]:
    """Operands broadcast; those that share an axis share its labels."""
    rank = node.outputs[0].type.rank
    axes = []
    for axis in range(rank):
        aligned = [(slot, _aligned(value, axis, rank)) for slot, value in enumerate(node.inputs)]
        axes.append(channels.together(node, [(slot, at) for slot, at in aligned if at is not None]))
    return [tuple(axes)] * len(node.outputs)


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


# --- what rules of ops with spatial axes share ---------------------------------------------------------------------


def whole_axes(node: Node, channels: Channels, first: int) -> Axes:
    """The axes of operand 0; labels from axis `first` on are pinned, as the op mixes elements there."""
    axes = channels.of(node.operand(0))
    for labels in axes[first:]:
        channels.pin(labels, f"{channels.title(node)} slides along them")
    return axes[:first]


def count_groups(node: Node, channels: Channels, block: Labels, attr: str = "group") -> None:
    """An attribute is the number of groups, of which `block` has a label each."""

    def change(kept: Kept) -> None:
        node.attrs[attr] = kept.count(block)

    channels.fix(change)


def spatial(node: Node, batch: Labels | None, out: Labels | None) -> Axes:
    """The axes of output 0: batch, channels, and spatial ones, which are fixed."""
    return (batch, out, *(None for _ in node.outputs[0].type.dims[2:]))


def set_ints(node: Node, slot: int, values: Sequence[int] | np.ndarray | None, channels: Channels) -> None:
    """Gives a node other constant integers as an operand."""
    old = node.input(slot)
    hint = old.name if old is not None else f"{node.outputs[0].name}_sizes"
    channels.graph.set_input(node, slot, channels.graph.constant(np.array(values, np.int64), hint))
