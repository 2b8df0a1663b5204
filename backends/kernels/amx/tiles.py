"""A block of tiles: `rows` x `columns` tiles of sums that stay in registers while k passes, then leave through the
epilogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from tvm import tirx

from ...isa import amx
from ...isa.amx import COLUMNS, REGISTERS, ROW_BYTES, ROWS, Statement, TileType
from ...isa.pack import PACKED_LANES
from ..builder import Dim, Epilogue, Expr, KernelBuilder, address, floordiv, i64, itemsize, known, maximum, minimum
from ..tile import store_lanes
from .walk import Walk

UNROLLED_STEPS = 4
"""Walks of at most so many steps need no loop."""
PIECES = 8
"""In how many pieces a block is stored while the next one is computed."""
LINE_BYTES = 64
SLOTS = 2
"""Blocks that have scratch: one is written while another is read."""


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

    def whole(self, lanes: int) -> bool:
        """Whether it is vectors of so many lanes and nothing else."""
        return self.last == COLUMNS and self.width * COLUMNS % lanes == 0


@dataclass(frozen=True)
class PanelRange:
    """`count` panels from number `first` on, all of one shape."""

    first: Expr
    count: Dim
    width: int
    last: int

    def panel(self, number: Expr) -> Panel:
        return Panel(i64(number), self.width, self.last)


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

    def ranges(self, part: Expr, parts: int) -> Iterator[PanelRange]:
        """The panels of part number `part`: the full ones, then the last if it is narrower."""
        panels = self.count // (self.width * COLUMNS)
        per_part = -(-panels // parts)
        first = part * per_part
        mine = maximum(minimum(per_part, panels - first), 0) if parts > 1 else panels
        if panels:
            yield PanelRange(first, mine, self.width, COLUMNS)
        rest = self.count - panels * self.width * COLUMNS
        if rest:
            is_last = tirx.Cast("int64", tirx.EQ(part, i64(parts - 1))) if parts > 1 else 1
            yield PanelRange(i64(panels), is_last, -(-rest // COLUMNS), rest % COLUMNS or COLUMNS)


@dataclass(frozen=True)
class Ahead:
    """Part number `part` of `parts` of the next panel is fetched into L2 while this one is used."""

    part: Expr
    parts: int

    def fetch(self, kb: KernelBuilder, b: Expr, at: Dim, nbytes: int) -> None:
        """Fetches this part of the `nbytes` at element `at`."""
        lines = -(-nbytes // (LINE_BYTES * self.parts))
        itemsize_ = itemsize(str(b.dtype))
        for line in range(lines):
            kb.prefetch(b, at + (self.part * lines + line) * (LINE_BYTES // itemsize_), locality=2)


@dataclass(frozen=True)
class Output:
    """A flat view of rows `pitch` elements apart, written through the epilogue."""

    view: Expr
    pitch: int
    epilogue: Epilogue | None


class Weave:
    """Spreads pieces of other work evenly over `total` instructions."""

    def __init__(self, total: int, pieces: Sequence[Callable[[], None]]) -> None:
        self.cuts = [total * (i + 1) // len(pieces) for i in range(len(pieces))]
        self._pieces, self._done = list(pieces), 0

    def emit(self, kb: KernelBuilder, statement: Statement) -> None:
        kb.emit(statement)
        self.advance(1)

    def advance(self, count: int) -> None:
        """Emits the pieces whose time has come when `count` more instructions are."""
        self._done += count
        while self._pieces and self.cuts[-len(self._pieces)] <= self._done:
            self._pieces.pop(0)()


class Tiles:
    """The tile registers of one thread for a block of sums: configured when made, given back by `release`.

    `rows` is the number of rows of a tile, 16 or less.
    """

    def __init__(self, kb: KernelBuilder, walk: Walk, block: Block, rows: Dim = ROWS) -> None:
        self.kb, self.walk, self.block, self.rows = kb, walk, block, rows
        # Of vectors, so that the array lies at a multiple of their size.
        vectors = kb.local(SLOTS * block.sums * ROWS, f"{walk.kind.sum}x{COLUMNS}", "sums")
        size = i64(SLOTS * block.sums * ROWS * COLUMNS)
        self._scratch = tirx.decl_buffer([size], walk.kind.sum, name="sums_flat", data=vectors.data)
        kb.emit(tirx.DeclBuffer(self._scratch, data=vectors.data))
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

    def multiply(
        self,
        a: Source,
        columns: Columns,
        panel: Panel,
        slot: Expr,
        between: Sequence[Callable[[], None]],
        ahead: Ahead | None = None,
    ) -> None:
        """Sums of a block over all of k, left in scratch number `slot`; other work goes `between` the instructions."""
        kb, walk, block = self.kb, self.walk, self.block
        sums = [(i, j) for i in range(block.rows) for j in range(panel.width)]
        per_step = block.rows + panel.width + len(sums)
        weave = Weave(2 * len(sums) + walk.steps * per_step, between)
        base = kb.let(columns.base + panel.number * (walk.steps * walk.tile * block.columns), "b_base")
        size = panel.width * walk.tile
        for i, j in sums:
            weave.emit(kb, amx.load(block.sum(i, j), columns.bias(panel, j), i64(0)))
        if walk.steps <= UNROLLED_STEPS:
            for done, (run, start) in enumerate(walk.all_starts()):
                for statement in self._step(a, a.runs[run] + start, columns.b, base + done * size, panel.width):
                    weave.emit(kb, statement)
        else:
            for run, start, done, count in walk.stretches([(cut - len(sums)) // per_step for cut in weave.cuts]):
                with kb.loop(count, "k") as k:
                    if ahead is not None:
                        ahead.fetch(
                            kb, columns.b, base + size * walk.steps + (done + k) * size, size * self.kind.itemsize
                        )
                    at, b_at = a.runs[run] + start + k * walk.step, base + (done + k) * size
                    for statement in self._step(a, at, columns.b, b_at, panel.width):
                        kb.emit(statement)
                weave.advance(count * per_step)
        for i, j in sums:
            at = (slot * (block.sums * ROWS) + (i * ROWS * block.columns + j)) * COLUMNS
            weave.emit(kb, amx.store(block.sum(i, j), address(self._scratch, at), i64(block.columns * ROW_BYTES)))

    def _step(self, a: Source, k: Dim, b: Expr, b_at: Dim, width: int) -> Iterator[Statement]:
        """All products of one step: `k` elements into the rows of A, and tiles of B from `b_at` on."""
        block, walk = self.block, self.walk
        a_registers, b_registers = block.registers_of_a, block.registers_of_b
        held_a = len(a_registers) >= block.rows
        for outer in range(width if held_a else block.rows):
            for inner in range(block.rows if held_a else width):
                i, j = (inner, outer) if held_a else (outer, inner)
                of_a, of_b = a_registers[i % len(a_registers)], b_registers[j % len(b_registers)]
                if (held_a and inner == 0) or (not held_a and outer == 0):
                    yield amx.load(of_b, address(b, b_at + j * walk.tile), i64(ROW_BYTES))
                if (held_a and outer == 0) or (not held_a and inner == 0):
                    yield amx.load(of_a, address(a.view, a.tiles[i] + k), i64(a.pitch) * self.kind.itemsize)
                yield amx.dot(self.kind, block.sum(i, j), of_a, of_b)

    def put(
        self, slot: Expr, i: Dim, columns: Columns, panel: Panel, y: Output, row: Dim, indices: Sequence[Expr]
    ) -> None:
        """Stores row i (counted over all tiles) of the block in scratch `slot` as row `row` of the output; `indices`
        are those of the row, for the epilogue."""
        block, row_at = self.block, row * y.pitch
        first = panel.number * (block.columns * COLUMNS) + columns.first
        at = (slot * (block.rows * ROWS) + i) * (block.columns * COLUMNS)
        is_packed = y.epilogue is not None and y.epilogue.dtype == "uint8" and panel.whole(PACKED_LANES)
        lanes = PACKED_LANES if is_packed else COLUMNS

        def vector(j: Dim, count: int) -> None:
            value = self.kb.load(self._scratch, at + j, lanes)
            store_lanes(self.kb, y.view, row_at + first + j, value, count, lanes, y.epilogue, [*indices, first + j])

        whole = (panel.width - (panel.last < COLUMNS)) * COLUMNS // lanes
        with self.kb.loop(whole, "vector") as number:  # which LLVM unrolls where the epilogue is short
            vector(number * lanes, lanes)
        if whole * lanes < panel.width * COLUMNS:
            vector(whole * lanes, panel.last)


Store = Callable[[Panel, Expr, Expr, Dim, Dim], None]
"""`store(panel, block, slot, first, last)`: rows [first, last) of each tile of a block, from a slot of the scratch."""


class Pipeline:
    """Stores the sums of a block while those of the next one are computed: two kinds of work for different units."""

    def __init__(self, tiles: Tiles, panels: PanelRange, store: Store) -> None:
        self.kb, self.tiles, self.panels, self._store = tiles.kb, tiles, panels, store
        self._before = self.kb.local(3, "int64", "before")
        """Panel, block and slot of the sums that are to be stored; no block: -1."""
        self._remember(i64(0), i64(-1), i64(0))

    def block(self, a: Source, columns: Columns, panel: Panel, block: Expr, ahead: Ahead | None = None) -> None:
        """Multiplies block number `block`, and stores the one before."""
        before, number, slot = self._recall()

        def piece(first: Dim, last: Dim) -> None:
            with self.kb.when(number >= 0):
                self._store(before, number, slot, first, last)

        bounds = [known(floordiv(self.tiles.rows * i, PIECES)) for i in range(PIECES + 1)]
        pieces = [partial(piece, first, last) for first, last in pairwise(bounds)]
        self.tiles.multiply(a, columns, panel, 1 - slot, pieces, ahead)
        self._remember(panel.number, i64(block), 1 - slot)

    def flush(self) -> None:
        """Stores the last block."""
        before, number, slot = self._recall()
        with self.kb.when(number >= 0):
            self._store(before, number, slot, 0, self.tiles.rows)

    def _remember(self, *state: Expr) -> None:
        for i, value in enumerate(state):
            self.kb.store(self._before, i, value)

    def _recall(self) -> tuple[Panel, Expr, Expr]:
        panel, block, slot = (self.kb.let(self.kb.load(self._before, i), "before") for i in range(3))
        return self.panels.panel(panel), block, slot
