"""A block of tiles: `rows` x `columns` tiles of sums that stay in registers while k passes, then leave through the
epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from ...isa import amx
from ...isa.amx import COLUMNS, REGISTERS, ROW_BYTES, ROWS, TileType
from ..builder import Dim, Epilogue, Expr, KernelBuilder, address, i64, minimum
from ..tile import store_lanes
from .walk import Walk

UNROLLED_STEPS = 4
"""Runs of at most so many steps need no loop."""


@dataclass(frozen=True)
class Block:
    """`rows` x `columns` tiles of sums. The tiles of A or of B, whichever are fewer, stay in registers for a step."""

    rows: int
    columns: int

    @property
    def fits(self) -> bool:
        return self.rows * self.columns + min(self.rows, self.columns) < REGISTERS

    @property
    def sums(self) -> int:
        return self.rows * self.columns

    def sum(self, i: int, j: int) -> int:
        """The register of a tile of sums."""
        return i * self.columns + j

    @property
    def registers_of_a(self) -> range:
        if self.rows <= self.columns:
            return range(self.sums, self.sums + self.rows)
        return range(self.sums + self.columns, REGISTERS)

    @property
    def registers_of_b(self) -> range:
        if self.rows <= self.columns:
            return range(self.sums + self.rows, REGISTERS)
        return range(self.sums, self.sums + self.columns)


@dataclass(frozen=True)
class Source:
    """Rows of A: tile i starts at element `tiles[i]` of a flat view, its rows lie `pitch` elements apart; run r of each
    row starts `runs[r]` elements into it."""

    view: Expr
    tiles: Sequence[Dim]
    pitch: Dim
    runs: Sequence[Dim]


@dataclass(frozen=True)
class Panel:
    """Panel `number` of B: `width` tiles, in the last of which `last` columns exist."""

    number: Expr
    width: int
    last: int = COLUMNS

    def lanes(self, j: int) -> int:
        """Columns of tile j."""
        return self.last if j == self.width - 1 else COLUMNS


class Columns:
    """A packed B and its bias: `count` columns, from column `first` of the output on, in panels of `width` tiles.

    `base` is where B starts in the flat view `b`.
    """

    def __init__(
        self, kb: KernelBuilder, count: int, width: int, b: Expr, base: Dim, bias: Expr, first: Dim = 0
    ) -> None:
        self.kb, self.count, self.width = kb, count, width
        self.b, self.base, self.first = b, base, first
        self._bias = bias
        self._last_bias = self._padded_bias() if count % COLUMNS else None

    def _padded_bias(self) -> Expr:
        """The bias of the last tile's columns, where a tile load would leave the array."""
        done = self.count // COLUMNS * COLUMNS
        last = self.kb.local(COLUMNS, str(self._bias.dtype), "last_bias")
        self.kb.copy(last, 0, self._bias, self.first + done, self.count - done)
        return last

    def bias(self, panel: Panel, j: int) -> Expr:
        """Pointer to the bias of tile j of a panel."""
        if self._last_bias is not None and panel.lanes(j) < COLUMNS:
            return address(self._last_bias, 0)
        return address(self._bias, panel.number * (self.width * COLUMNS) + (self.first + j * COLUMNS))

    def each_panel(self, part: Expr, parts: int, body: Callable[[Panel], None]) -> None:
        """`body` for each panel of part number `part`; the last panel may be narrower, and is code of its own."""
        kb = self.kb
        panels = self.count // (self.width * COLUMNS)
        per_part = -(-panels // parts)
        first = part * per_part
        mine = minimum(per_part, panels - first) if parts > 1 else panels
        with kb.loop(mine, "p") as p:
            body(Panel(kb.let(first + p, "panel"), self.width))
        rest = self.count - panels * self.width * COLUMNS
        if rest:
            with kb.when(tirx.EQ(part, i64(parts - 1)) if parts > 1 else True):
                body(Panel(i64(panels), -(-rest // COLUMNS), rest % COLUMNS or COLUMNS))


@dataclass(frozen=True)
class Output:
    """A flat view of rows `pitch` elements apart, written through the epilogue."""

    view: Expr
    pitch: int
    epilogue: Epilogue | None


class Tiles:
    """The tile registers of one thread for a block of sums: configured when made, given back by `release`.

    `rows` is the number of rows of a tile, 16 or less.
    """

    def __init__(self, kb: KernelBuilder, walk: Walk, block: Block, rows: Dim = ROWS) -> None:
        self.kb, self.walk, self.block, self.rows = kb, walk, block, rows
        self._scratch = kb.local(block.sums * ROWS * COLUMNS, walk.kind.sum, "sums")
        self._configure()

    @property
    def kind(self) -> TileType:
        return self.walk.kind

    def release(self) -> None:
        self.kb.emit(amx.release())

    def _configure(self) -> None:
        block, step = self.block, self.walk.step
        shapes: dict[int, tuple[Expr, int]] = {register: (self.rows, ROW_BYTES) for register in range(block.sums)}
        shapes |= {register: (self.rows, step * self.kind.itemsize) for register in block.registers_of_a}
        shapes |= {register: (step // self.kind.group, ROW_BYTES) for register in block.registers_of_b}
        config = self.kb.local(amx.CONFIG_BYTES, "uint8", "config")
        self.kb.zero(config, 0, amx.CONFIG_BYTES)
        for offset, value in amx.config_bytes(shapes).items():
            self.kb.store(config, offset, tirx.Cast("uint8", i64(value)))
        self.kb.emit(amx.configure(address(config, 0)))

    def multiply(self, a: Source, columns: Columns, panel: Panel) -> None:
        """Sums of a block over all of k."""
        kb, walk = self.kb, self.walk
        wide = walk.steps * walk.tile * self.block.columns
        base = kb.let(columns.base + panel.number * wide, "b_base")
        for i in range(self.block.rows):
            for j in range(panel.width):
                kb.emit(amx.load(self.block.sum(i, j), columns.bias(panel, j), i64(0)))
        done = 0
        for run, offset in enumerate(a.runs):
            starts = walk.starts(run)
            even = len(starts) if starts[-1] == (len(starts) - 1) * walk.step else len(starts) - 1
            looped = even if even > UNROLLED_STEPS else 0
            size = panel.width * walk.tile
            with kb.loop(looped, "k") as k:
                self._step(a, offset + k * walk.step, columns.b, base + (done + k) * size, panel.width)
            for k in range(looped, len(starts)):
                self._step(a, offset + starts[k], columns.b, base + (done + k) * size, panel.width)
            done += len(starts)

    def _step(self, a: Source, k: Dim, b: Expr, b_at: Dim, width: int) -> None:
        """All products of one step: `k` elements into the rows of A, and tiles of B from `b_at` on."""
        block, walk = self.block, self.walk
        a_registers, b_registers = block.registers_of_a, block.registers_of_b

        def load_a(i: int) -> int:
            register = a_registers[i % len(a_registers)]
            stride = i64(a.pitch) * self.kind.itemsize
            self.kb.emit(amx.load(register, address(a.view, a.tiles[i] + k), stride))
            return register

        def load_b(j: int) -> int:
            register = b_registers[j % len(b_registers)]
            self.kb.emit(amx.load(register, address(b, b_at + j * walk.tile), i64(ROW_BYTES)))
            return register

        def dot(i: int, j: int, of_a: int, of_b: int) -> None:
            self.kb.emit(amx.dot(self.kind, block.sum(i, j), of_a, of_b))

        held: dict[int, int] = {}
        if block.rows <= block.columns:
            for j in range(width):
                of_b = load_b(j)
                for i in range(block.rows):
                    held[i] = held[i] if j else load_a(i)
                    dot(i, j, held[i], of_b)
            return
        for i in range(block.rows):
            of_a = load_a(i)
            for j in range(width):
                held[j] = held[j] if i else load_b(j)
                dot(i, j, of_a, held[j])

    def spill(self, panel: Panel) -> None:
        """Stores the sums where `put` finds them."""
        pitch = self.block.columns * COLUMNS
        for i in range(self.block.rows):
            for j in range(panel.width):
                at = address(self._scratch, i * ROWS * pitch + j * COLUMNS)
                self.kb.emit(amx.store(self.block.sum(i, j), at, i64(pitch * 4)))

    def put(self, i: Dim, columns: Columns, panel: Panel, y: Output, row: Dim, indices: Sequence[Expr]) -> None:
        """Stores row i of the block (counted over its tiles) as row `row` of the output; `indices` are those of the
        row, for the epilogue."""
        pitch = self.block.columns * COLUMNS
        first = panel.number * pitch + columns.first
        for j in range(panel.width):
            value = self.kb.load(self._scratch, i * pitch + j * COLUMNS, COLUMNS)
            column = first + j * COLUMNS
            at = row * y.pitch + column
            store_lanes(self.kb, y.view, at, value, panel.lanes(j), COLUMNS, y.epilogue, [*indices, column])
