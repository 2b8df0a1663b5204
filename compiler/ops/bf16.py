"""The products in bfloat16: operands in bf16, each product exact, sums in f32.

passes/precision.py makes them of float products. What follows them (a bias, an activation, a residual) is in f32, until
a Cast rounds what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import DType, TensorType
from .base import Op, attr_int, check_rank, fail, register
from .matmul import check_equal, matmul_shape
from .nhwc import ChannelsLast


def _check_dtypes(node: Node) -> None:
    wanted = (DType.BF16, DType.BF16, DType.F32)
    for i, (operand, dtype) in enumerate(zip(node.inputs, wanted, strict=False)):
        if operand is not None and operand.type.dtype is not dtype:
            fail(node, f"operand {i} has the wrong type", expected=dtype.name, found=operand.type.dtype.name)


@register
class ConvBF16(ChannelsLast):
    """X bf16 [N, spatial..., C], W bf16 [M, C / group, kernel...], B f32 [M] or absent.

    Y f32 [N, spatial..., M]: the sum of X * W, plus B. Attributes as Conv's.
    """

    name = "optc.ConvBF16"
    onnx = "Conv"

    def infer(self, node: Node) -> Sequence[TensorType]:
        _check_dtypes(node)
        twin = Node(self.name, node.inputs[:2], node.outputs, node.attrs, node.loc)
        return [t.with_dtype(DType.F32) for t in super().infer(twin)]


@register
class MatMulBF16(Op):
    """A bf16 [..., M, K], B bf16 [..., K, N], bias f32 [N] or absent; `transA`, `transB`: the last two dims swapped.

    Y f32 [..., M, N] = alpha * A B + bias.
    """

    name = "optc.MatMulBF16"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        _check_dtypes(node)
        a, b = check_rank(node, 0, 2), check_rank(node, 1, 2)
        a = (*a[:-2], a[-1], a[-2]) if a is not None and attr_int(node, "transA", 0) else a
        b = (*b[:-2], b[-1], b[-2]) if b is not None and attr_int(node, "transB", 0) else b
        bias = node.input(2)
        if bias is not None and b is not None and bias.type.shape is not None:
            check_equal(node, bias.type.dims[-1], b[-1], "bias and columns differ", b, bias.type.dims)
        return [TensorType(DType.F32, matmul_shape(node, a, b))]
