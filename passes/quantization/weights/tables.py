"""Look-up tables of codes: only the rows that are looked up are decoded, by ordinary nodes.

    8 bits    Gather(codes, i) * Gather(scales, i)                       codes s8 [rows, n], scales [rows, 1]
    4 bits    (unpack(Gather(codes, i)) - 8) * Gather(scales, i)         codes u8 [rows, blocks, block / 2]

A byte of 4-bit codes holds an element of a block's first half in its lower bits, and one of its second half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....compiler.ir import Attr, Graph, Node, Value
from ....compiler.types import DType
from .rounding import Packed


class _Emitter:
    """Emits nodes in front of the Gather they stand for."""

    def __init__(self, graph: Graph, node: Node, rule: str) -> None:
        self.graph, self.node = graph, node
        self.indices, self.name = node.operand(1), node.operand(0).name
        self._loc = node.loc.merged(rule=rule)

    def __call__(self, op: str, inputs: Sequence[Value], **attrs: Attr) -> Value:
        return self.graph.emit(op, inputs, attrs, before=self.node, loc=self._loc).output

    def constant(self, array: np.ndarray | float, dtype: DType | None = None) -> Value:
        return self.graph.constant(array, self.name, dtype)

    def rows(self, table: np.ndarray) -> Value:
        """The rows of a table, in its own type."""
        return self("Gather", [self.constant(table), self.indices], axis=0)

    def floats(self, value: Value) -> Value:
        return value if value.type.dtype is DType.F32 else self("Cast", [value], to=DType.F32)


def emit_rows(graph: Graph, node: Node, codes: np.ndarray, scales: np.ndarray, rule: str) -> Value:
    """What a Gather makes of rows of bytes times scales: [rows, 1], or one for all rows."""
    emit = _Emitter(graph, node, rule)
    factor = emit.rows(scales) if scales.ndim == 2 else emit.constant(scales)
    return emit("Mul", [emit.floats(emit.rows(codes)), emit.floats(factor)])


def emit_table(graph: Graph, node: Node, packed: Packed, rule: str) -> Value:
    """What a Gather makes of a table whose rows are the columns of `packed`: 8 bits and one block, or 4 bits."""
    if packed.bits == 8:
        return emit_rows(graph, node, np.ascontiguousarray(packed.codes.T), packed.scales.T.copy(), rule)
    emit = _Emitter(graph, node, rule)
    halves = _pairs(packed)
    nibbles = emit.rows(halves)
    low = emit("BitwiseAnd", [nibbles, emit.constant(15, DType.U8)])
    high = emit("BitShift", [nibbles, emit.constant(4, DType.U8)], direction="RIGHT")
    values = emit("Sub", [emit.floats(emit("Concat", [low, high], axis=-1)), emit.constant(8, DType.F32)])
    scaled = emit("Mul", [values, emit.floats(emit.rows(packed.scales.T[:, :, None].copy()))])
    width, padded = len(packed.codes), 2 * halves.shape[1] * halves.shape[2]
    shape = np.array([0] * emit.indices.type.rank + [padded], np.int64)
    y = emit("Reshape", [scaled, emit.constant(shape)])
    if padded == width:
        return y
    ends = [np.array([number], np.int64) for number in (0, width, -1)]
    return emit("Slice", [y, *map(emit.constant, ends)])


def _pairs(packed: Packed) -> np.ndarray:
    """u8 [rows, blocks, block / 2]."""
    width, rows = packed.codes.shape
    blocks = -(-width // packed.block)
    codes = np.full((rows, blocks * packed.block), 8, np.uint8)
    codes[:, :width] = packed.codes.T + 8
    low, high = np.split(codes.reshape(rows, blocks, packed.block), 2, axis=-1)
    return np.ascontiguousarray(low | high << 4)
