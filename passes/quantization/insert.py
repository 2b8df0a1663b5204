"""Writes a quantization into a graph: Q and DQ around activations, weights and biases as integers before a DQ.

The result is standard QDQ ONNX (activations u8 per tensor, weights s8 symmetric per output channel, biases int32),
which ONNX Runtime, OpenVINO and TensorRT read as well as our own backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...compiler.ir import Attr, Graph, Loc, Node, Use, Value
from .placement import Placement

_BIAS_LIMIT = 2**30
"""Largest bias in units of the sum: the other half of int32 is for the sum."""


@dataclass(frozen=True)
class Affine:
    """A u8 grid: the float is `scale * (q - zero_point)`."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Weights:
    """s8 weights of a layer and their scales, f32 [output channels]."""

    data: np.ndarray
    scale: np.ndarray

    def floats(self, axis: int) -> np.ndarray:
        """What they stand for; `axis` counts the output channels."""
        shape = [1] * self.data.ndim
        shape[axis] = -1
        return np.asarray(self.data * self.scale.reshape(shape), np.float32)


@dataclass(frozen=True)
class Choice:
    """A quantization of a float graph: the grid of each value, the weights of layers that are not just rounded to
    nearest, and what is added to the biases of layers, f64 [output channels]."""

    grids: Mapping[Value, Affine]
    weights: Mapping[Node, Weights] = field(default_factory=dict)
    shifts: Mapping[Node, np.ndarray] = field(default_factory=dict)

    def weights_of(self, node: Node) -> Weights:
        """The integers of a layer's weights."""
        return self.weights.get(node) or rounded_weights(node, self.grids[node.operand(0)].scale)


def channel_axis(node: Node) -> int:
    """The axis of a layer's weights that counts its output channels (within a group, for ConvTranspose)."""
    if node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0)):
        return 0
    return 1


def rounded_weights(node: Node, activation_scale: float) -> Weights:
    """A layer's weights rounded to the nearest of 255 steps a channel, which are larger where otherwise the bias
    would leave int32."""
    axis = channel_axis(node)
    array = np.asarray(node.operand(1).data, np.float32)
    bias = node.input(2)
    if bias is None or bias.data is None or bias.data.size != array.shape[axis]:
        return nearest(array, axis)
    return nearest(array, axis, np.abs(bias.data.astype(np.float64).reshape(-1)) / (_BIAS_LIMIT * activation_scale))


def nearest(array: np.ndarray, axis: int, least: np.ndarray | float = 0.0) -> Weights:
    """Weights rounded to the nearest of 255 steps along `axis`, of at least the sizes `least`. Zeros have a scale,
    too."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(others).astype(np.float64) / 127
    scale[scale == 0] = 1.0
    scale32 = np.maximum(np.maximum(scale, least), np.finfo(np.float32).tiny).astype(np.float32)
    return Weights(round_to(array, scale32, axis), scale32)


def round_to(array: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """`array` in steps of `scale` along `axis`, as s8 within [-127, 127]."""
    shape = [1] * array.ndim
    shape[axis] = -1
    return np.asarray(np.clip(np.rint(array / scale.reshape(shape)), -127, 127), np.int8)


def insert(graph: Graph, placement: Placement, choice: Choice) -> None:
    """Quantizes `graph` in place; values that the choice has no grid for stay float."""
    weights = {node: choice.weights_of(node) for node in placement.layers}
    scales = {node: np.float32(choice.grids[node.operand(0)].scale) for node in placement.layers}
    for value in placement.values:
        if value in choice.grids:
            _quantize_value(graph, value, placement, choice.grids[value])
    for node in placement.layers:
        if node in choice.shifts:
            _shift_bias(graph, node, choice.shifts[node])
        _quantize_weights(graph, node, weights[node], scales[node])


def applied(graph: Graph, placement: Placement, choice: Choice) -> Graph:
    """A quantized copy."""
    copies: dict[Value, Value] = {}
    copy = graph.clone(copies)
    nodes = {n: m for n, m in zip(graph.nodes, copy.nodes, strict=True)}
    readers = {
        copies[v]: tuple(Use(nodes[u.user] if isinstance(u.user, Node) else copy, u.slot) for u in uses)
        for v, uses in placement.readers.items()
    }
    groups = tuple(tuple(copies[v] for v in group) for group in placement.groups)
    layers = tuple(nodes[n] for n in placement.layers)
    moved = Choice(
        {copies[v]: grid for v, grid in choice.grids.items()},
        {nodes[n]: w for n, w in choice.weights.items()},
        {nodes[n]: s for n, s in choice.shifts.items()},
    )
    insert(copy, Placement(layers, groups, readers), moved)
    return copy


def quantized_operands(node: Node, choice: Choice) -> dict[int, Affine | Weights]:
    """What a layer computes with under a choice, by slot: its input's grid and its integer weights."""
    return {0: choice.grids[node.operand(0)], 1: choice.weights_of(node)}


def bias_place(node: Node) -> tuple[Node, int] | None:
    """The operand that is, or may become, a layer's bias [output channels]: its own, or a following Add's constant.
    None if there is no such place."""
    channels = _channels(node)
    if node.op != "MatMul":
        bias = node.input(2)
        grouped = node.op == "ConvTranspose" and node.attrs.get("group", 1) != 1  # `channels` are those of one group
        return (node, 2) if not grouped and (bias is None or _is_row(bias, channels)) else None
    add = node.output.single_user
    if add is None or add.op != "Add":
        return None
    slot = 1 if add.operand(0) is node.output else 0
    return (add, slot) if _is_row(add.operand(slot), channels) else None


def _channels(node: Node) -> int:
    """Output channels of a layer (within a group, for ConvTranspose)."""
    return int(node.operand(1).type.static_shape[channel_axis(node)])


def _is_row(value: Value, channels: int) -> bool:
    """A constant, one element an output channel along the last axis."""
    return value.data is not None and value.data.size == channels == (value.type.dims or (0,))[-1]


def _shift_bias(graph: Graph, node: Node, shift: np.ndarray) -> None:
    place = bias_place(node)
    assert place is not None
    user, slot = place
    old = user.input(slot)
    shape = shift.shape if old is None else old.type.dims
    data = shift if old is None or old.data is None else old.data.reshape(-1) + shift
    hint = f"{node.name}.bias" if old is None else old.name
    graph.set_input(user, slot, graph.constant(data.astype(np.float32).reshape(shape), hint))


def _quantize_value(graph: Graph, value: Value, placement: Placement, grid: Affine) -> None:
    uses = placement.readers[value]
    after = first_after(graph, value)
    scale = graph.constant(np.float32(grid.scale), f"{value.name}_scale")
    zero = graph.constant(np.uint8(grid.zero_point), f"{value.name}_zero_point")
    loc = Loc((f"{value.name}_quantize",))
    q = graph.emit("QuantizeLinear", [value, scale, zero], names=[f"{value.name}_quantized"], before=after, loc=loc)
    loc = Loc((f"{value.name}_dequantize",))
    names = [f"{value.name}_dequantized"]
    d = graph.emit("DequantizeLinear", [q.output, scale, zero], names=names, before=after, loc=loc)
    for use in uses:
        if isinstance(use.user, Node):
            graph.set_input(use.user, use.slot, d.output)


def first_after(graph: Graph, value: Value) -> Node | None:
    """The node to insert before, so that what is inserted comes right after `value` is made."""
    if value.producer is None:
        return next(iter(graph.nodes), None)
    return value.producer._next


def _quantize_weights(graph: Graph, node: Node, weights: Weights, activation_scale: np.floating) -> None:
    name = node.operand(1).name
    graph.set_input(node, 1, _dequantize(graph, node, name, weights.data, weights.scale, channel_axis(node)))
    bias = node.input(2)
    if bias is not None and bias.data is not None and bias.data.size == weights.scale.size:
        step = (np.float32(activation_scale) * weights.scale).astype(np.float32)
        units = np.rint(bias.data.astype(np.float64).reshape(-1) / step)
        data = np.clip(units, -(2**31), 2**31 - 1).astype(np.int32)
        graph.set_input(node, 2, _dequantize(graph, node, bias.name, data, step, 0))


def _dequantize(graph: Graph, node: Node, name: str, data: np.ndarray, scale: np.ndarray, axis: int) -> Value:
    operands: Sequence[Value | None] = [
        graph.constant(data, f"{name}_quantized"),
        graph.constant(scale, f"{name}_scale"),
        graph.constant(np.zeros(scale.shape, data.dtype), f"{name}_zero_point"),
    ]
    attrs: dict[str, Attr] = {"axis": axis}
    made = graph.emit("DequantizeLinear", operands, attrs, names=[f"{name}_dequantized"], before=node, loc=node.loc)
    return made.output
