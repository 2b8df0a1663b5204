"""Scales that move between a value's maker and its readers without changing the function.

    W (x)  =  (W diag(s)) (x / s)          and x / s is had by scaling what makes x

where that is a product, a LayerNormalization or a constant factor, be it before a positively homogeneous activation
(f(x / s) = f(x) / s for s > 0: ReLU, LeakyReLU, PReLU, pools). Between two layers this is cross-layer equalization
(Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1). With
weights scaled per output channel the first layer pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.ops.base import attr_int, attr_ints
from .insert import bias_place, channel_axis
from .placement import is_layer

_HOMOGENEOUS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "MaxPool", "PRelu", "Relu"})
_SPATIAL = ("Conv", "ConvTranspose")


def input_axis(node: Node) -> int:
    """The axis of a layer's input, and of its output, that counts channels."""
    return 1 if node.op in _SPATIAL else node.operand(0).type.rank - 1


def scale_input(graph: Graph, node: Node, by: np.ndarray) -> None:
    """Multiplies a layer's weights as if each input channel were `by` [channels] times as large."""
    graph.set_input(node, 1, graph.constant(scaled_weights(node, by), node.operand(1).name))


def scaled_weights(node: Node, by: np.ndarray) -> np.ndarray:
    """The layer's weights, those that read input channel c times by[c]."""
    weights = np.asarray(node.operand(1).data, np.float32)
    return np.asarray(weights * _over_inputs(node, by.astype(np.float32)))


def weight_range(node: Node) -> np.ndarray:
    """The greatest |w| that reads each input channel, [channels]."""
    size = np.abs(np.asarray(node.operand(1).data, np.float32))
    if node.op == "Conv":
        groups = attr_int(node, "group", 1)
        by_group = size.reshape(groups, size.shape[0] // groups, size.shape[1], -1)
        return np.asarray(by_group.max((1, 3)).reshape(-1))
    axis = 1 if channel_axis(node) == 0 else 0
    return np.asarray(size.max(tuple(i for i in range(size.ndim) if i != axis)))


def _over_inputs(node: Node, by: np.ndarray) -> np.ndarray:
    """`by` [input channels] in a shape that multiplies the weights."""
    shape = node.operand(1).type.static_shape
    if node.op == "Conv":  # [outputs, inputs of a group, kernel...]
        groups = attr_int(node, "group", 1)
        rows = np.repeat(by.reshape(groups, -1), shape[0] // groups, 0)
        return rows.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))
    return by.reshape(1, -1) if channel_axis(node) == 0 else by.reshape(-1, *[1] * (len(shape) - 1))


def absorb(graph: Graph, value: Value, by: np.ndarray, axis: int) -> bool:
    """Multiplies `value` by `by` > 0 along `axis` by changing constants before it; False if there are none to change.

    Whoever reads the value sees the change.
    """
    node = value.producer
    if node is None or value.type.shape is None:
        return False
    if is_layer(node) and axis == input_axis(node) + (value.type.rank - node.operand(0).type.rank):
        return _absorb_in_layer(graph, node, by)
    if node.op in _HOMOGENEOUS:
        return _passes(graph, node.operand(0), by, axis)
    if node.op == "Transpose":
        perm = attr_ints(node, "perm") or tuple(reversed(range(value.type.rank)))
        return _passes(graph, node.operand(0), by, perm[axis])
    if node.op == "LayerNormalization" and axis == value.type.rank - 1 == _axis(node, value.type.rank):
        return _scale_constants(graph, node, [i for i in (1, 2) if node.input(i) is not None], by)
    if node.op not in ("Mul", "Add") or not any(v is not None and v.is_constant for v in node.inputs):
        return False
    slot = 1 if node.operand(1).is_constant else 0
    if node.operand(slot).type.rank > value.type.rank:
        return False
    if node.op == "Add" and not _passes(graph, node.operand(1 - slot), by, axis):
        return False
    shape = [1] * value.type.rank
    shape[axis] = -1
    return _scale_constants(graph, node, [slot], by.reshape(shape))


def _passes(graph: Graph, value: Value, by: np.ndarray, axis: int) -> bool:
    """`absorb` for a value that nobody else reads."""
    return len(value.uses) == 1 and value.type.shape is not None and absorb(graph, value, by, axis)


def _axis(node: Node, rank: int) -> int:
    return attr_int(node, "axis", -1) % rank


def _absorb_in_layer(graph: Graph, node: Node, by: np.ndarray) -> bool:
    grouped = node.op == "ConvTranspose" and attr_int(node, "group", 1) != 1
    place = bias_place(node)
    if grouped or (node.op != "MatMul" and place is None):
        return False
    shape = [1] * node.operand(1).type.rank
    shape[channel_axis(node)] = -1
    if node.op != "MatMul" and node.input(2) is not None:
        _scale_constants(graph, node, [2], by)
    return _scale_constants(graph, node, [1], by.reshape(shape))


def _scale_constants(graph: Graph, node: Node, slots: Sequence[int], by: np.ndarray) -> bool:
    """Multiplies constant operands; False, and nothing changed, if one is not constant."""
    if any(node.operand(slot).data is None for slot in slots):
        return False
    for slot in slots:
        old = node.operand(slot)
        data = np.asarray(np.asarray(old.data, np.float64) * by, np.float32)
        graph.set_input(node, slot, graph.constant(data, old.name))
    return True
