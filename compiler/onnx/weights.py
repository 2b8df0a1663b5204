"""What a product with compressed weights means in ONNX.

optc.MatMulPacked(a, codes, scales)  = MatMul(a, DequantizeLinear(codes, scales))          codes that are numbers
                                     = MatMulNBits(a, codes, scales)                       of 4 bits, in blocks
                                     = MatMul(a, (codebook[codes] - zeros) * scales)       any other form

MatMulNBits is ONNX Runtime's (domain com.microsoft); it alone stores 4 bits in 4 bits. The others take a byte a code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import UnsupportedError
from ..ir import Attr, Graph, Node, Value
from ..ops.base import attr_int
from ..types import DType
from .expand import expands


@expands("optc.MatMulPacked")
def _packed(graph: Graph, node: Node) -> Sequence[Value]:
    """Raises UnsupportedError if a weight is not constant."""
    given = [node.input(i) for i in range(1, 5)]
    if any(v is not None and v.data is None for v in given):
        raise UnsupportedError("compressed weights that are not constant", node=node.name)
    codes, scales, codebook, zeros = (None if v is None or v.data is None else np.asarray(v.data) for v in given)
    assert codes is not None
    assert scales is not None
    scales = scales.astype(np.float32)
    bits, block = attr_int(node, "bits", 0), attr_int(node, "block", 0)
    whole_zeros = zeros is None or zeros.dtype == np.int8
    if codebook is None and whole_zeros and bits == 4 and len(scales) > 1 and block >= 16 and block & (block - 1) == 0:
        return [_n_bits(graph, node, codes, scales, zeros, block)]

    def emit(op: str, *inputs: Value, **attrs: Attr) -> Value:
        return graph.emit(op, inputs, attrs, before=node, loc=node.loc).output

    if codebook is None and whole_zeros:
        operands = [codes, scales, *([] if zeros is None else [zeros])]
        axis: dict[str, Attr] = {"axis": 0, "block_size": block}
        if len(scales) == 1:
            operands, axis = [codes, *(a.reshape(-1) for a in operands[1:])], {"axis": 1}
        weights = emit("DequantizeLinear", *map(graph.constant, operands), **axis)
        return [emit("MatMul", node.operand(0), weights)]

    def by_row(array: np.ndarray) -> Value:
        value = graph.constant(array.astype(np.float32))
        return (
            emit("Gather", value, graph.constant(np.arange(len(codes)) // block), axis=0) if len(array) > 1 else value
        )

    value = graph.constant(codes)
    if codebook is None:
        weights = emit("Cast", value, to=DType.F32)
    else:
        weights = emit("Gather", graph.constant(codebook), emit("Cast", value, to=DType.I32), axis=0)
    if zeros is not None:
        weights = emit("Sub", weights, by_row(zeros))
    return [emit("MatMul", node.operand(0), emit("Mul", weights, by_row(scales)))]


def _n_bits(
    graph: Graph, node: Node, codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, block: int
) -> Value:
    """Codes count from 0 here, columns come first, two codes lie in a byte, the first in its lower half."""
    (k, n), blocks = codes.shape, len(scales)
    padded = np.full((n, blocks * block), 8, np.uint8)
    padded[:, :k] = codes.T + 8
    operands = [_pairs(padded).reshape(n, blocks, block // 2), np.ascontiguousarray(scales.T)]
    if zeros is not None:
        points = np.zeros((n, blocks + blocks % 2), np.uint8)
        points[:, :blocks] = zeros.T + 8
        operands.append(_pairs(points))
    attrs: dict[str, Attr] = {"K": k, "N": n, "bits": 4, "block_size": block}
    inputs = [node.operand(0), *map(graph.constant, operands)]
    return graph.emit("com.microsoft.MatMulNBits", inputs, attrs, before=node, loc=node.loc).output


def _pairs(codes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(codes[:, ::2] | codes[:, 1::2] << 4)
