"""Ops of domain com.microsoft that ONNX Runtime's optimizer and quantizer write into models.

Operand orders and attributes are those of ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..ir import Node, Value
from ..types import DType, Shape, TensorType
from .base import (
    Op,
    attr_int,
    axis_of,
    broadcast_shapes,
    check_rank,
    check_same_dtype,
    dtype_of,
    fail,
    family,
    register,
    shape_of,
    type_of,
)  # fmt: skip
from .conv import conv_shape
from .matmul import check_equal, matmul_shape
from .nhwc import permuted_type, to_nchw, to_nhwc
from .pointwise import FloatUnary
from .pool import pool_shape
from .quantize import DequantizeLinear, QuantizeLinear
from .recurrent import LSTM

DOMAIN = "com.microsoft"

family(FloatUnary, f"{DOMAIN}.Gelu", f"{DOMAIN}.QuickGelu")
family(QuantizeLinear, f"{DOMAIN}.QuantizeLinear")
family(DequantizeLinear, f"{DOMAIN}.DequantizeLinear")


class Biased(Op):
    """X and a bias along the last axis, optional for FastGelu: an activation of their sum."""

    pointwise = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        check_same_dtype(node)
        return [type_of(node, 0)]


family(Biased, f"{DOMAIN}.BiasGelu", f"{DOMAIN}.FastGelu")


@register
class FusedConv(Op):
    """X, W, B, Z: Conv, plus Z, then attribute `activation`."""

    name = f"{DOMAIN}.FusedConv"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(check_same_dtype(node), conv_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@register
class FusedMatMul(Op):
    """alpha times the product of A and B, their last two axes swapped where transA or transB says so."""

    name = f"{DOMAIN}.FusedMatMul"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        if attr_int(node, "transBatchA", 0) or attr_int(node, "transBatchB", 0):
            fail(node, "transBatchA and transBatchB are not supported")
        dtype, a, b = check_same_dtype(node), shape_of(node, 0), shape_of(node, 1)
        if a is not None and len(a) > 1 and attr_int(node, "transA", 0):
            a = (*a[:-2], a[-1], a[-2])
        if b is not None and len(b) > 1 and attr_int(node, "transB", 0):
            b = (*b[:-2], b[-1], b[-2])
        return [TensorType(dtype, matmul_shape(node, a, b))]


class SkipNorm(Op):
    """X and skip are added and normalized: the result, mean, inverse deviation (f32, last axis 1) and the sum."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = check_rank(node, 0, 1)
        statistics = TensorType(DType.F32, None if shape is None else (*shape[:-1], 1))
        return [type_of(node, 0), statistics, statistics, type_of(node, 0)]


family(SkipNorm, f"{DOMAIN}.SkipLayerNormalization", f"{DOMAIN}.SkipSimplifiedLayerNormalization")


class QLinearBinary(Op):
    """A, its scale and zero point, B, its scale and zero point, the output's scale and zero point."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        known = [s for s in (shape_of(node, 0), shape_of(node, 3)) if s is not None]
        shape = broadcast_shapes(node, known) if len(known) == 2 else None
        return [TensorType(check_same_dtype(node, 0, 3), shape)]


class QLinearUnary(Op):
    """X, its scale and zero point, the output's scale and zero point."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [type_of(node, 0)]


family(QLinearBinary, f"{DOMAIN}.QLinearAdd", f"{DOMAIN}.QLinearMul")
family(QLinearUnary, f"{DOMAIN}.QLinearLeakyRelu", f"{DOMAIN}.QLinearSigmoid", f"{DOMAIN}.QLinearSoftmax")


@register
class QLinearWhere(Op):
    """condition, then X, Y with scale and zero point each, the output's scale and zero point."""

    name = f"{DOMAIN}.QLinearWhere"

    def infer(self, node: Node) -> Sequence[TensorType]:
        known = [s for s in (shape_of(node, i) for i in (0, 1, 4)) if s is not None]
        return [TensorType(check_same_dtype(node, 1, 4), broadcast_shapes(node, known) if len(known) == 3 else None)]


class Spatial(Op):
    """An op whose input has its channels last where attribute `channels_last` says so, and its output then too."""

    anchor = True
    channels_last: ClassVar[int] = 0  # the default

    def spatial_shape(self, node: Node) -> Shape | None:
        """The output shape of a node with the channels first."""
        raise NotImplementedError

    def infer(self, node: Node) -> Sequence[TensorType]:
        x = node.operand(0)
        if x.type.shape is None or not attr_int(node, "channels_last", self.channels_last):
            return [x.type.with_shape(self.spatial_shape(node))]
        rank = x.type.rank
        first = Value(x.name, permuted_type(x.type, to_nchw(rank)))
        twin = Node(node.op, (first, *node.inputs[1:]), node.outputs, node.attrs, node.loc)
        shape = self.spatial_shape(twin)
        return [x.type.with_shape(None if shape is None else [shape[p] for p in to_nhwc(rank)])]


@register
class QLinearAveragePool(Spatial):
    name = f"{DOMAIN}.QLinearAveragePool"

    def spatial_shape(self, node: Node) -> Shape | None:
        return pool_shape(node)


@register
class QLinearGlobalAveragePool(Spatial):
    name = f"{DOMAIN}.QLinearGlobalAveragePool"

    def spatial_shape(self, node: Node) -> Shape | None:
        shape = check_rank(node, 0, 3)
        return None if shape is None else (*shape[:2], *(1 for _ in shape[2:]))


@register
class NhwcMaxPool(Spatial):
    name = f"{DOMAIN}.NhwcMaxPool"
    channels_last = 1

    def spatial_shape(self, node: Node) -> Shape | None:
        return pool_shape(node)


@register
class QLinearConv(Spatial):
    """As ONNX's; the weights are [M, C / group, kernel...] wherever the channels of x are."""

    name = f"{DOMAIN}.QLinearConv"

    def spatial_shape(self, node: Node) -> Shape | None:
        return conv_shape(node, shape_of(node, 0), shape_of(node, 3))

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [t.with_dtype(dtype_of(node, 7)) for t in super().infer(node)]


@register
class QLinearConcat(Op):
    """The output's scale and zero point, then a tensor, its scale and its zero point for each part."""

    name = f"{DOMAIN}.QLinearConcat"

    def infer(self, node: Node) -> Sequence[TensorType]:
        parts = range(2, len(node.inputs), 3)
        shapes = [s for s in (check_rank(node, i, 1) for i in parts) if s is not None]
        if not shapes or len(shapes) < len(parts):
            return [TensorType(dtype_of(node, 1), None)]
        if len({len(s) for s in shapes}) > 1:
            fail(node, "operands must have one rank", found=", ".join(str(list(s)) for s in shapes))
        axis = axis_of(node, attr_int(node, "axis", 0), len(shapes[0]))
        whole = sum((s[axis] for s in shapes[1:]), shapes[0][axis])
        return [TensorType(dtype_of(node, 1), (*shapes[0][:axis], whole, *shapes[0][axis + 1 :]))]


@register
class QGemm(Op):
    """A, a_scale, a_zero_point, B, b_scale, b_zero_point, C, y_scale, y_zero_point; f32 without the last two."""

    name = f"{DOMAIN}.QGemm"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = DType.F32 if node.input(8) is None else dtype_of(node, 8)
        a, b = check_rank(node, 0, 2, 2), check_rank(node, 3, 2, 2)
        if a is None or b is None:
            return [TensorType(dtype, None)]
        m, k = a[::-1] if attr_int(node, "transA", 0) else a
        k_of_b, n = b[::-1] if attr_int(node, "transB", 0) else b
        check_equal(node, k, k_of_b, "inner dims differ", a, b)
        return [TensorType(dtype, (m, n))]


@register
class MatMulIntegerToFloat(Op):
    """A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias."""

    name = f"{DOMAIN}.MatMulIntegerToFloat"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(dtype_of(node, 2), matmul_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@register
class DynamicQuantizeMatMul(Op):
    """A (float, quantized on the fly), B, b_scale, b_zero_point, bias."""

    name = f"{DOMAIN}.DynamicQuantizeMatMul"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(dtype_of(node, 0), matmul_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@register
class DynamicQuantizeLSTM(Op):
    """LSTM's operands with W and R transposed, then their scales and zero points: of W, of R."""

    name = f"{DOMAIN}.DynamicQuantizeLSTM"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        operands: list[Value | None] = [node.operand(0)]
        for index in (1, 2):
            shape = check_rank(node, index, 3, 3)
            turned = None if shape is None else (shape[0], shape[2], shape[1])
            operands.append(Value(node.operand(index).name, TensorType(DType.F32, turned)))
        return LSTM().infer(Node(self.name, operands, node.outputs, node.attrs, node.loc))
