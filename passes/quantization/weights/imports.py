"""Weights that other tools have compressed, brought to optc's form.

    MatMulNBits(A, codes, scales, zeros) + b      ->  optc.MatMulPacked(A, codes, scales, zeros) + b
    A DequantizeLinear(codes, scales, zeros)      ->  optc.MatMulPacked(A, codes, scales, zeros)     MatMul, Gemm
    Gather(DequantizeLinear(codes, scales), i)    ->  Gather(codes, i) * scales

Scales are per tensor, per column, or per block along k. Codes keep their values; unsigned ones are counted from the
middle of their range, and those that need fewer bits than they have get fewer. What has another form stays, to be
folded into float weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ....compiler.ir import Graph, Node, Value
from ....compiler.ops.base import attr_float, attr_int
from ....compiler.types import DType
from ...base import PassContext, register_pass
from ...facts import perm_of
from .pack import PRODUCTS, emit_packed
from .rounding import Packed
from .tables import emit_rows

_RULE = "compressed-weights"
_WIDTHS = (2, 3, 4, 8)


@register_pass
@dataclass(frozen=True)
class CompressedWeights:
    """Recognizes compressed weights of products whose other operand is float.

    To run behind IntegerProducts, which takes the products whose operands are both quantized, and before the
    DequantizeLinear of weights is folded.
    """

    name: ClassVar[str] = _RULE

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        found = sum(_rewrite(node) for node in list(graph.all_nodes()))
        ctx.count(self.name, found)
        return found > 0


def _rewrite(node: Node) -> bool:
    graph = node.graph
    assert graph is not None
    if node.op == "com.microsoft.MatMulNBits":
        packed = _of_n_bits(node)
    elif node.op in PRODUCTS and not attr_int(node, "transA", 0):
        packed = _of_dequantized(node)
    else:
        return node.op == "Gather" and _rewrite_rows(graph, node)
    a = node.operand(0).type
    if packed is None or a.dtype is not DType.F32 or a.shape is None or a.rank < 2:
        return False
    graph.replace(node, [emit_packed(graph, node, packed, node.operand(1).name, _RULE)])
    return True


# --- com.microsoft.MatMulNBits -----------------------------------------------------------------------------------


def _of_n_bits(node: Node) -> Packed | None:
    """Its weights; None if they are not constant, of another type, or reordered along k (g_idx)."""
    b, scales, points = node.operand(1).data, node.operand(2).data, node.input(3)
    k, n, bits, block = (attr_int(node, name, 0) for name in ("K", "N", "bits", "block_size"))
    if b is None or scales is None or scales.dtype != np.float32 or (points is not None and points.data is None):
        return None
    if node.input(4) is not None or bits not in (2, 4, 8):
        return None
    blocks, half = -(-k // block), 1 << (bits - 1)
    codes = unpack_bits(np.asarray(b).reshape(n, -1), bits)[:, :k].astype(np.int16) - half
    zeros: np.ndarray | None = None
    if points is not None and points.data is not None:
        given = np.asarray(points.data).reshape(n, -1)
        whole = given.dtype == np.uint8
        zeros = (unpack_bits(given, bits)[:, :blocks].astype(np.int16) if whole else given.astype(np.float32)) - half
        zeros = zeros.T.astype(np.int8 if whole else np.float32)
    return _packed(codes.T.astype(np.int8), scales.reshape(n, blocks).T, zeros, block)


def unpack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes that lie in bytes, the first in the lowest bits: u8 [rows, bytes] to [rows, bytes * 8 / bits]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields: np.ndarray = (codes[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(codes), -1)


# --- DequantizeLinear --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dequantized:
    """A constant matrix behind a DequantizeLinear: integers, scales and zero points; parameters lie along `axis`, in
    blocks of `block` (0: one a slice)."""

    data: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    axis: int
    block: int

    @staticmethod
    def of(value: Value) -> _Dequantized | None:
        """None if `value` is no such matrix of bytes with float32 scales."""
        node = value.producer
        if node is None or node.op != "DequantizeLinear":
            return None
        given = [v for v in node.inputs if v is not None]
        if any(v.data is None for v in given) or node.output.type.dtype is not DType.F32 or given[0].type.rank != 2:
            return None
        data, scales, *zeros = (np.asarray(v.data) for v in given)
        if data.dtype not in (np.int8, np.uint8) or scales.dtype != np.float32:
            return None
        axis = attr_int(node, "axis", 1) % 2
        return _Dequantized(data, scales, zeros[0] if zeros else None, axis, attr_int(node, "block_size", 0))

    @property
    def transposed(self) -> _Dequantized:
        blocked = self.scales.ndim == 2
        scales, zeros = (a.T if a is not None and blocked else a for a in (self.scales, self.zeros))
        assert scales is not None
        return _Dequantized(self.data.T, scales, zeros, 1 - self.axis, self.block)

    def packed(self) -> Packed | None:
        """The matrix as [k, n]; None if its scales are not along n or in blocks along k."""
        (k, n), zeros = self.data.shape, self.zeros
        if self.block and self.axis == 0:
            block, scales = self.block, self.scales
        elif not self.block and (self.scales.size == 1 or self.axis == 1):
            block, scales = k, np.broadcast_to(self.scales.reshape(1, -1), (1, n))
            zeros = None if zeros is None else np.broadcast_to(zeros.reshape(1, -1), (1, n))
        else:
            return None
        wide = self.data.astype(np.int16)
        points = np.zeros(scales.shape, np.int16) if zeros is None else zeros.astype(np.int16)
        if self.data.dtype == np.uint8:
            half = 8 if max(wide.max(initial=0), points.max(initial=0)) < 16 else 128
            wide, points = wide - half, points - half
        return _packed(wide.astype(np.int8), scales, points.astype(np.int8), block)


def _of_dequantized(node: Node) -> Packed | None:
    """The compressed weights of a product, its alpha in their scales; None if it has none."""
    value, transposed = node.operand(1), bool(attr_int(node, "transB", 0))
    if value.producer is not None and value.producer.op == "Transpose" and perm_of(value.producer) == (1, 0):
        value, transposed = value.producer.operand(0), not transposed
    found = _Dequantized.of(value)
    packed = None if found is None else (found.transposed if transposed else found).packed()
    alpha = attr_float(node, "alpha", 1.0)
    if packed is None or alpha == 1.0:
        return packed
    return replace(packed, scales=packed.scales.astype(np.float32) * np.float32(alpha))


def _rewrite_rows(graph: Graph, node: Node) -> bool:
    """Rows of a dequantized table: the codes are looked up, and so are scales a row."""
    found = _Dequantized.of(node.operand(0))
    if found is None or found.block or attr_int(node, "axis", 0) % 2 or node.operand(1).type.shape is None:
        return False
    if found.zeros is not None and found.zeros.any():
        return False
    by_row = found.scales.size > 1 and found.axis == 0
    scales = found.scales.reshape(-1, 1) if by_row else found.scales.reshape(-1)
    graph.replace(node, [emit_rows(graph, node, found.data, scales, _RULE)])
    return True


# --- both --------------------------------------------------------------------------------------------------------


def _packed(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, block: int) -> Packed | None:
    """s8 codes [k, n] with scales and zero points [blocks, n], in as few bits as hold them; None if blocks are of a
    size that fills no words."""
    bits = next((b for b in _holding(codes) if block >= len(codes) or block * b % 32 == 0), None)
    if bits is None:
        return None
    scales = np.ascontiguousarray(scales)
    short = scales.astype(DType.BF16.numpy)
    exact = np.array_equal(short.astype(np.float32), scales)
    zeros = None if zeros is None or not zeros.any() else np.ascontiguousarray(zeros)
    return Packed(bits, block, np.ascontiguousarray(codes), short if exact else scales, None, zeros)


def _holding(codes: np.ndarray) -> Iterator[int]:
    """The widths that hold all codes, the smallest first."""
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    return (b for b in _WIDTHS if -(1 << (b - 1)) <= low and high < 1 << (b - 1))
