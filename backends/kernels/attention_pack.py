"""Keys and values of one attention head as panels for register tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from .builder import Dim, Expr, KernelBuilder, ceildiv, floordiv, i64, minimum, pieces, splat
from .tile import RegisterTile


@dataclass(frozen=True)
class Matrix:
    """The matrices [rows, size] of a tensor's heads: [batch, heads, rows, size], or [batch, rows, heads, size] where
    `interleaved`; `view` is the tensor's flat view."""

    view: Any
    heads: int
    rows: Dim
    size: int
    interleaved: bool

    @property
    def pitch(self) -> int:
        """Elements from one row to the next."""
        return self.heads * self.size if self.interleaved else self.size

    def base(self, kb: KernelBuilder, batch: Expr, head: Expr) -> Expr:
        """Offset of a head's first row."""
        if self.interleaved:
            return kb.let(batch * self.rows * self.pitch + head * self.size, "base")
        return kb.let((batch * self.heads + head) * self.rows * self.size, "base")


def pack_keys(kb: KernelBuilder, tile: RegisterTile, k: Matrix, base: Expr, target: Any, at: Dim) -> None:
    """Keys to [panel][element of a key][key of the panel] at `at`, transposed square by square in registers.

    The last panel repeats the last key; the last square of a size that is no multiple of the lanes overlaps the one
    before.
    """
    lanes, panel = tile.lanes, tile.panel
    width = min(lanes, k.size)
    with kb.loop(ceildiv(k.rows, panel) * tile.vectors, "group") as group:
        first = kb.let(group * lanes, "key")
        rows = [kb.let(base + minimum(first + i, k.rows - 1) * k.pitch, "row") for i in range(lanes)]
        number = kb.let(floordiv(group, tile.vectors), "panel")
        column = kb.let(at + number * (k.size * panel) + (group - number * tile.vectors) * lanes, "column")
        with kb.loop(-(-k.size // lanes), "square") as square:
            d = kb.let(minimum(square * lanes, k.size - width) if k.size % lanes else square * lanes, "d")
            block = kb.local(lanes * lanes, name="block")
            for i, row in enumerate(rows):
                for start, part in pieces(width, lanes):
                    kb.store(block, i * lanes + start, kb.load(k.view, row + d + start, part), part)
            block = transposed(kb, block, lanes)
            to = kb.let(column + d * panel, "to")
            for i in range(width):
                kb.store(target, to + i * panel, kb.load(block, i * lanes, lanes), lanes)


def transposed(kb: KernelBuilder, block: Any, lanes: int) -> Any:
    """The transpose of a square of `lanes` vectors in a local array.

    Each step interleaves vector i with vector i + lanes / 2, which turns the bits of an element's number (row bits,
    then column bits) left by one; after log2(lanes) steps rows and columns have changed places.
    """
    half = lanes // 2
    for _ in range(lanes.bit_length() - 1):
        turned = kb.local(lanes * lanes, name="block")
        for i in range(half):
            pair = [kb.load(block, row * lanes, lanes) for row in (i, i + half)]
            for side in range(2):
                order = [side * half + n // 2 + (n % 2) * lanes for n in range(lanes)]
                vector = tirx.Shuffle(pair, [tirx.IntImm("int32", n) for n in order])
                kb.store(turned, (2 * i + side) * lanes, vector, lanes)
        block = turned
    return block


def pack_values(kb: KernelBuilder, tile: RegisterTile, v: Matrix, base: Expr, target: Any, at: Dim) -> None:
    """Values to [panel][key][element of the panel] at `at`, zeros beyond `v.size`: what lies in memory there could be
    denormals, which are slow to multiply."""
    lanes = tile.lanes
    with kb.loop(v.rows, "key") as key:
        row = kb.let(base + key * v.pitch, "row")
        for panel in range(-(-v.size // tile.panel)):
            to = kb.let(at + (i64(panel) * v.rows + key) * tile.panel, "to")
            first = panel * tile.panel
            there = min(tile.panel, v.size - first)
            for start in range(there // lanes * lanes, tile.panel, lanes):
                kb.store(target, to + start, splat(0.0, lanes), lanes)
            for start, part in pieces(there, lanes):
                kb.store(target, to + start, kb.load(v.view, row + first + start, part), part)
