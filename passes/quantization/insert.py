"""Writes a quantization into a graph: Q and DQ around activations, weights and biases as integers before a DQ.

The result is standard QDQ ONNX (activations u8 per tensor, weights s8 symmetric per output channel, biases int32),
which ONNX Runtime, OpenVINO and TensorRT read as well as our own backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.ir import Attr, Graph, Loc, Node, Value
from .integers import dequantized
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


def channel_axis(node: Node) -> int:
    """The axis of a layer's weights that counts its output channels (within a group, for ConvTranspose)."""
    if node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0)):
        return 0
    return 1


def rounded_weights(node: Node, activation_scale: float) -> Weights:
    """Weights rounded to the nearest of 255 steps a channel.

    A channel of zeros gets a scale all the same, and a channel whose bias would leave int32 a larger one.
    """
    axis = channel_axis(node)
    array = np.asarray(node.operand(1).data, np.float32)
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(others).astype(np.float64) / 127
    scale[scale == 0] = 1.0
    bias = node.input(2)
    if bias is not None and bias.data is not None and bias.data.size == scale.size:
        least = np.abs(bias.data.astype(np.float64).reshape(-1)) / (_BIAS_LIMIT * activation_scale)
        scale = np.maximum(scale, least)
    scale32 = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
    return Weights(round_to(array, scale32, axis), scale32)


def round_to(array: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """`array` in steps of `scale` along `axis`, as s8 within [-127, 127]."""
    shape = [1] * array.ndim
    shape[axis] = -1
    return np.asarray(np.clip(np.rint(array / scale.reshape(shape)), -127, 127), np.int8)


def insert(
    graph: Graph, placement: Placement, grids: Mapping[Value, Affine], weights: Mapping[Node, Weights] | None = None
) -> None:
    """Quantizes `graph` in place. `weights` replaces the rounding to nearest for the layers it has."""
    for value in placement.values:
        _quantize_value(graph, value, placement, grids[value])
    for node in placement.layers:
        x = dequantized(node.operand(0))
        assert x is not None
        scale = x.scale[0]
        chosen = (weights or {}).get(node) or rounded_weights(node, float(scale))
        _quantize_weights(graph, node, chosen, scale)


def _quantize_value(graph: Graph, value: Value, placement: Placement, grid: Affine) -> None:
    uses = placement.readers[value]
    after = _first_after(graph, value)
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


def _first_after(graph: Graph, value: Value) -> Node | None:
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
