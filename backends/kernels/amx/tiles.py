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
    """Panel `number` of B: `width` tiles, in the last of which `columns` columns exist."""

    number: Expr
    width: int
    columns: int = COLUMNS


class Tiles:
    """The tiles of one task: made at its beginning, released at its end.

    `rows` is the number of rows of a tile, 16 or less; `columns` how many the output has.
    """

    def __init__(
        self, kb: KernelBuilder, walk: Walk, block: Block, rows: Dim, b: Expr, bias: Expr, columns: int
    ) -> None:
        self.kb, self.walk, self.block, self.rows, self.columns = kb, walk, block, rows, columns
        self._b, self._bias = b, bias
        self._scratch = kb.local(block.sums * ROWS * COLUMNS, walk.kind.sum, "sums")
        self._last_bias = self._padded_bias() if columns % COLUMNS else None
        self._configure()

    @property
    def kind(self) -> TileType:
        return self.walk.kind

    def each_panel(self, part: Expr, parts: int, body: Callable[[Panel], None]) -> None:
        """`body` for each panel of part number `part`; the last panel may be narrower, and is code of its own."""
        kb, wide = self.kb, self.block.columns
        panels = self.columns // (wide * COLUMNS)
        per_part = -(-panels // parts)
        first = part * per_part
        mine = minimum(per_part, panels - first) if parts > 1 else panels
        with kb.loop(mine, "p") as p:
            body(Panel(kb.let(first + p, "panel"), wide))
        rest = self.columns - panels * wide * COLUMNS
        if rest:
            with kb.when(tirx.EQ(part, i64(parts - 1)) if parts > 1 else True):
                body(Panel(i64(panels), -(-rest // COLUMNS), rest % COLUMNS or COLUMNS))

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

    def _padded_bias(self) -> Expr:
        """The bias of the last tile's columns, where a tile load would leave the array."""
        first = self.columns // COLUMNS * COLUMNS
        last = self.kb.local(COLUMNS, self.kind.sum, "last_bias")
        self.kb.copy(last, 0, self._bias, first, self.columns - first)
        return last

    def multiply(self, a: Source, panel: Panel) -> None:
        """Sums of a block over all of k."""
        kb, block, walk = self.kb, self.block, self.walk
        size = walk.steps * walk.tile
        base = kb.let(panel.number * (size * block.columns), "b_base")
        self._start_with_bias(panel)
        done = 0
        for run, offset in enumerate(a.runs):
            starts = walk.starts(run)
            even = len(starts) if starts[-1] == (len(starts) - 1) * walk.step else len(starts) - 1
            unrolled = even <= UNROLLED_STEPS
            if not unrolled:
                with kb.loop(even, "k") as k:
                    self._step(a, offset + k * walk.step, base + (done + k) * (panel.width * walk.tile), panel.width)
            for k in range(0 if unrolled else even, len(starts)):
                self._step(a, offset + starts[k], base + (done + k) * (panel.width * walk.tile), panel.width)
            done += len(starts)

    def _start_with_bias(self, panel: Panel) -> None:
        first = panel.number * (self.block.columns * COLUMNS)
        for j in range(panel.width):
            bias, at = self._bias, first + j * COLUMNS
            if self._last_bias is not None and panel.columns < COLUMNS and j == panel.width - 1:
                bias, at = self._last_bias, 0
            for i in range(self.block.rows):
                self.kb.emit(amx.load(self.block.sum(i, j), address(bias, at), i64(0)))

    def _step(self, a: Source, k: Dim, b_at: Dim, width: int) -> None:
        """All products of one step."""
        block, walk = self.block, self.walk
        a_registers, b_registers = block.registers_of_a, block.registers_of_b

        def load_a(i: int) -> int:
            register = a_registers[i % len(a_registers)]
            stride = i64(a.pitch) * self.kind.itemsize
            self.kb.emit(amx.load(register, address(a.view, a.tiles[i] + k), stride))
            return register

        def load_b(j: int) -> int:
            register = b_registers[j % len(b_registers)]
            self.kb.emit(amx.load(register, address(self._b, b_at + j * walk.tile), i64(ROW_BYTES)))
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

    def put(self, i: Dim, panel: Panel, y: Expr, row: Dim, epilogue: Epilogue | None, indices: Sequence[Expr]) -> None:
        """Stores row i of the block (counted over its tiles) as row `row` of the output `y` [rows, columns].

        `indices` are those of the row, for the epilogue.
        """
        pitch = self.block.columns * COLUMNS
        for j in range(panel.width):
            value = self.kb.load(self._scratch, i * pitch + j * COLUMNS, COLUMNS)
            column = panel.number * pitch + j * COLUMNS
            count = panel.columns if j == panel.width - 1 else COLUMNS
            store_lanes(self.kb, y, row * self.columns + column, value, count, COLUMNS, epilogue, [*indices, column])
