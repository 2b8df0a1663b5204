"""Products with compressed weights: the weights are codes of a few bits, decoded where they are used."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import Dim, DType, Shape, TensorType
from .base import Op, attr_int, check_rank, dtype_of, fail, register, shape_of
from .matmul import check_equal, matmul_shape


@register
class MatMulPacked(Op):
    """A f32 [..., M, K], codes [K, N], scales [blocks, N], codebook f32 or absent, zeros [blocks, N] or absent:
    Y f32 [..., M, N] = A W.

    W[k, n] = (value(codes[k, n]) - zeros[k // block, n]) * scales[k // block, n], with blocks = ceil(K / block).

    Codes that are u8 are places in the codebook, which has 2^bits elements; those that are s8 are values themselves,
    -2^(bits - 1) to 2^(bits - 1) - 1. A code takes a byte here and `bits` (2 to 8) in the artifact. Scales are bf16 or
    f32, zeros s8 or f32. All but A are constants. Attributes: `bits`, `block` (K or more: one block).
    """

    name = "optc.MatMulPacked"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        if dtype_of(node, 0) is not DType.F32:
            fail(node, "A has the wrong type", expected="f32", found=dtype_of(node, 0).text)
        bits, block = attr_int(node, "bits", 0), attr_int(node, "block", 0)
        if not 2 <= bits <= 8 or block < 1:
            fail(node, "bits or block out of range", expected="2 to 8 bits, a block of 1 or more", found=(bits, block))
        if (dtype_of(node, 1) is DType.U8) != (node.input(3) is not None):
            fail(node, "u8 codes need a codebook, s8 codes are values", found=dtype_of(node, 1).text)
        a, codes = check_rank(node, 0, 1), check_rank(node, 1, 2, 2)
        if codes is not None:
            _check_blocks(node, codes, block)
        if node.input(3) is not None:
            self._check_codebook(node, bits)
        return [TensorType(DType.F32, matmul_shape(node, a, codes))]

    def _check_codebook(self, node: Node, bits: int) -> None:
        shape = shape_of(node, 3)
        if shape is not None and shape != (1 << bits,):
            fail(node, "the codebook has the wrong size", expected=[1 << bits], found=list(shape))


def _check_blocks(node: Node, codes: Shape, block: int) -> None:
    rows: Dim = -(-codes[0] // block) if isinstance(codes[0], int) else codes[0]
    for index in (2, 4):
        shape = check_rank(node, index, 2, 2) if node.input(index) is not None else None
        if shape is not None and isinstance(rows, int):
            check_equal(node, shape[0], rows, "not one row a block", codes, shape)
            check_equal(node, shape[1], codes[1], "not one column a column", codes, shape)


@register
class MatMulNBits(Op):
    """ONNX Runtime's form: A [..., M, K], B u8 [N, blocks, bytes of a block], scales, zero_points, g_idx, bias.

    Attributes K, N, bits, block_size; see ContribOperators.md. passes/quantization/weights/imports.py rewrites it.
    """

    name = "com.microsoft.MatMulNBits"
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape, k, n = check_rank(node, 0, 1), attr_int(node, "K", 0), attr_int(node, "N", 0)
        if shape is None:
            return [TensorType(dtype_of(node, 0), None)]
        check_equal(node, shape[-1], k, "A's last dim is not K", shape, (k, n))
        return [TensorType(dtype_of(node, 0), (*shape[:-1], n))]
