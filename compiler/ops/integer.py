"""The products in integers: u8 activations times s8 weights, summed in int32.

passes/quantization/integers.py makes them from DequantizeLinear, a float product and its bias. They know no scale and
no zero point: what the activation's zero point adds to every sum is a constant of the weights, and is in the bias.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import DType, TensorType
from .base import Op, check_rank, fail, register
from .matmul import check_equal, matmul_shape
from .nhwc import ChannelsLast


def _check_dtypes(node: Node) -> None:
    wanted = (DType.U8, DType.I8, DType.I32, DType.U8)
    for i, (operand, dtype) in enumerate(zip(node.inputs, wanted, strict=False)):
        if operand is not None and operand.type.dtype is not dtype:
            fail(node, f"operand {i} has the wrong type", expected=dtype.name, found=operand.type.dtype.name)


@register
class ConvInteger(ChannelsLast):
    """X u8 [N, spatial..., C], W s8 [M, C / group, kernel...], B s32 [M] or absent, pad u8 scalar or absent (0).

    Y s32 [N, spatial..., M] = sum of X * W, X padded with `pad`, plus B; modulo 2^32. Attributes as Conv's.
    """

    name = "optc.ConvInteger"
    onnx = "ConvInteger"

    def infer(self, node: Node) -> Sequence[TensorType]:
        _check_dtypes(node)
        twin = Node(self.name, node.inputs[:2], node.outputs, node.attrs, node.loc)
        return super().infer(twin)


@register
class MatMulInteger(Op):
    """A u8 [..., M, K], B s8 [K, N], bias s32 [N] or absent: Y s32 [..., M, N] = A B + bias, modulo 2^32."""

    name = "optc.MatMulInteger"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        _check_dtypes(node)
        a, b = check_rank(node, 0, 2), check_rank(node, 1, 2, 2)
        bias = node.input(2)
        if bias is not None and b is not None and bias.type.shape is not None:
            check_equal(node, bias.type.dims[-1], b[-1], "bias and columns differ", b, bias.type.dims)
        return [TensorType(DType.I32, matmul_shape(node, a, b))]
