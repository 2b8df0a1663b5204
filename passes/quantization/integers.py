"""From quantized form to integer arithmetic: a product of dequantized operands becomes a product of integers.

    Conv(s_x (x - z_x), s_w[c] w) + b = s_x s_w[c] (ConvInteger(x, w) + round(b / (s_x s_w[c])) - z_x sum(w[c]))

in exact integers up to the rounding of the bias to int32, half a unit of the sum (Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 2.4). What follows (an
activation, a residual, the next QuantizeLinear) stays pointwise on the dequantized sum and is done in its registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.ir import Attr, Graph, Node, Value
from ...compiler.ops.base import attr_float, attr_int
from ...compiler.types import DType
from ..base import PassContext, register_pass

PRODUCTS = ("optc.Conv", "MatMul", "Gemm", "optc.MatMul")


@dataclass(frozen=True)
class Quantized:
    """A dequantized value: `data` holds integers, the float is `scale * (data - zero_point)`.

    `scale` and `zero_point` are arrays of one element, or of one a channel along `axis`.
    """

    data: Value
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


def dequantized(value: Value | None) -> Quantized | None:
    """What a DequantizeLinear with constant parameters makes, None for any other value (a blocked scale included)."""
    node = None if value is None else value.producer
    if node is None or node.op != "DequantizeLinear" or attr_int(node, "block_size", 0):
        return None
    x, scale, zero = node.operand(0), node.operand(1).data, node.input(2)
    if scale is None or (zero is not None and zero.data is None) or x.type.shape is None:
        return None
    point = np.zeros(1, np.int64) if zero is None or zero.data is None else zero.data.reshape(-1).astype(np.int64)
    axis = attr_int(node, "axis", 1)
    return Quantized(x, scale.reshape(-1).astype(np.float32), point, axis + x.type.rank if axis < 0 else axis)


@dataclass(frozen=True)
class Layer:
    """A product whose operands are quantized as the integer ops want them."""

    node: Node
    x: Quantized
    w: Quantized
    bias: np.ndarray | None

    @property
    def weights(self) -> np.ndarray:
        """s8, [c_out, c_in / group, kernel...] for a convolution and [k, n] for a matrix product."""
        data = np.asarray(self.w.data.data)
        return data.T if self.node.op != "optc.Conv" and attr_int(self.node, "transB", 0) else data

    @property
    def channels(self) -> int:
        """Output channels."""
        return int(self.weights.shape[0 if self.node.op == "optc.Conv" else -1])

    @property
    def scale(self) -> np.ndarray:
        """What a unit of the sum is worth: f32 [channels]."""
        return np.array(np.broadcast_to(self.x.scale * self.w.scale, (self.channels,)), np.float32)

    @property
    def sums(self) -> np.ndarray:
        """The sum of each output channel's weights, int64."""
        weights = self.weights.astype(np.int64)
        axes = tuple(range(1, weights.ndim)) if self.node.op == "optc.Conv" else tuple(range(weights.ndim - 1))
        return np.asarray(np.sum(weights, axes), np.int64)

    def integer_bias(self) -> np.ndarray:
        """int32 [channels]: the bias in units of the sum, and what the activation's zero point adds, taken off."""
        limits = np.iinfo(np.int32)
        bias = np.zeros(self.channels, np.float64)
        if self.bias is not None:
            bias = np.rint(self.bias.astype(np.float64) / self.scale)
        bias = np.clip(bias, limits.min, limits.max).astype(np.int64)
        total = bias - int(self.x.zero_point[0]) * self.sums
        return np.asarray(total.astype(np.int32))  # sums are modulo 2^32 anyway


def layer_of(node: Node) -> Layer | None:
    """The node as a quantized layer, or None if its form is not one."""
    if node.op not in PRODUCTS or attr_int(node, "transA", 0) or attr_float(node, "alpha", 1.0) != 1.0:
        return None
    x, w = dequantized(node.input(0)), dequantized(node.input(1))
    if x is None or w is None or w.data.data is None or x.data.type.rank < 2:
        return None
    if (x.data.type.dtype, w.data.type.dtype) != (DType.U8, DType.I8) or x.scale.size != 1 or w.zero_point.any():
        return None
    if node.op != "optc.Conv" and w.data.type.rank != 2:
        return None
    transposed = node.op == "optc.Conv" or attr_int(node, "transB", 0)
    if w.scale.size != 1 and w.axis != (0 if transposed else 1):
        return None
    bias = _bias(node)
    return None if isinstance(bias, str) else Layer(node, x, w, bias)


def _bias(node: Node) -> np.ndarray | str | None:
    """The bias as float64 per channel, None if there is none, a reason if it is not a constant vector."""
    operand = node.input(2)
    if operand is None:
        return None
    if attr_float(node, "beta", 1.0) != 1.0:
        return "beta"
    if operand.data is not None:
        array = np.asarray(operand.data, np.float64)
    else:
        found = dequantized(operand)
        if found is None or found.data.data is None:
            return "not constant"
        array = (found.data.data.astype(np.float64) - found.zero_point) * found.scale
    if array.ndim > 1 and any(d != 1 for d in array.shape[:-1]):
        return "not a row"
    return array.reshape(-1)


@register_pass
@dataclass(frozen=True)
class IntegerProducts:
    """Rewrites every quantized layer that `pays` (the backend's word: this ISA does it faster in integers)."""

    name: ClassVar[str] = "integer-products"
    pays: Callable[[Layer], bool] = lambda layer: True

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        changed = 0
        for node in graph.nodes:
            for sub in node.subgraphs.values():
                changed += self.run(sub, ctx)
            layer = layer_of(node)
            if layer is not None and self.pays(layer):
                _rewrite(graph, layer)
                changed += 1
        ctx.count(self.name, changed)
        return changed > 0


def _rewrite(graph: Graph, layer: Layer) -> None:
    node, x = layer.node, layer.x
    bias = graph.constant(layer.integer_bias(), f"{layer.w.data.name}.bias")
    inputs: list[Value | None] = [x.data, layer.w.data, bias]
    attrs: dict[str, Attr] = {}
    if node.op == "optc.Conv":
        op = "optc.ConvInteger"
        inputs.append(graph.constant(x.zero_point.astype(np.uint8).reshape(()), "pad"))
        attrs = dict(node.attrs)
    else:
        op = "optc.MatMulInteger"
        if attr_int(node, "transB", 0):
            inputs[1] = graph.constant(np.ascontiguousarray(layer.weights), layer.w.data.name)
    total = graph.emit(op, inputs, attrs, before=node, loc=node.loc).output
    scale = graph.constant(layer.scale, f"{layer.w.data.name}.scale")
    attrs = {"axis": total.type.rank - 1}
    result = graph.emit("DequantizeLinear", [total, scale], attrs, names=[node.output.name], before=node, loc=node.loc)
    readers = [v.producer for v in node.inputs if v is not None]
    graph.replace(node, [result.output])
    for reader in readers:
        if reader is not None and reader.graph is not None and not any(v.uses for v in reader.outputs):
            graph.erase(reader)
