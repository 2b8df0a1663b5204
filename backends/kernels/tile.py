"""The register tile: a few rows of A times a panel of B, all sums in vector registers.

`sum[i][j] = Σ_k A[row_i + k] * B[k][j]` with A read by broadcasts and B by vectors. Matmul and convolution are loops
around it: a convolution is a matmul whose rows are pixels and whose k runs over the kernel's taps and channels. What
A, B and the sums are made of, and how many k one instruction takes, is the tile's `Arithmetic`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tvm import tirx

from ..target import Target
from .builder import (
    Dim,
    Epilogue,
    Expr,
    KernelBuilder,
    ceildiv,
    floordiv,
    i64,
    itemsize,
    known,
    lanes_of,
    minimum,
    pieces,
    splat,
    static,
)

L2_BYTES_PER_CYCLE = 20.0
"""What a core gets from its L2 in practice while it computes."""
LINE_BYTES = 64
B_LINE_CYCLES, A_LINE_CYCLES, A_LINE_CYCLES_NEAR = 0.75, 3.2, 1.25
"""What lines that come from L2 cost although they are fetched ahead, for filling L1 takes turns with the loads: of B;
of A where the next line of a row is fetched, which comes late at the start of each tile; of A where it is the line of
the next tile."""


@dataclass(frozen=True)
class Arithmetic:
    """What one step of a tile does in each lane: `sum += Σ_i a[i] * b[lane][i]` for i < `depth`; here in float32.

    `a`, `b`, `sum` are the dtypes; `held` is that of A where the tile reads it: one other than `a` means that kernels
    first copy what they read of A into scratch memory, by `copy`. A panel of B holds, for each step, `depth` elements
    of its first column, then of its second...; a run of A whose length is no multiple of `depth` ends in a step of
    fewer, with zeros in B for the rest. `cost` is in cycles per accumulator and step, `latency` from one step of an
    accumulator to its next, `prepare` per vector of B beyond loading it, `scratch` the registers it needs besides the
    tile's. `shift` is subtracted from the elements of A before they are multiplied: sums lack `shift * Σ_k b[k]`.
    Where an instruction takes a lane of a vector for all lanes, elements of A are read `along` steps at a time.
    """

    a: str = "float32"
    held: str = "float32"
    b: str = "float32"
    sum: str = "float32"
    depth: int = 1
    cost: float = 0.5
    latency: float = 4.0
    prepare: float = 0.0
    scratch: int = 0
    shift: int = 0
    along: int = 1

    @property
    def lane_bytes(self) -> int:
        """Bytes of B that a lane takes in one step."""
        return self.depth * itemsize(self.b)

    def steps(self, length: Dim) -> Dim:
        """Steps that a run of A of this length takes."""
        return ceildiv(known(length), self.depth) if self.depth > 1 else length

    @property
    def copies(self) -> bool:
        """Whether A is read from a copy in scratch memory."""
        return self.held != self.a

    def copy(self, kb: KernelBuilder, to: Expr, to_at: Dim, a: Expr, at: Dim, count: Dim) -> None:
        """Copies `count` elements of A to where the tile reads them."""
        kb.copy(to, to_at, a, at, count)

    def blank(self, kb: KernelBuilder, to: Expr, at: Dim, count: Dim, value: Expr | None) -> None:
        """Sets `count` elements that the tile reads to `value`, a byte, or to zero."""
        if value is None:
            kb.zero(to, at, count)
        else:
            kb.fill(to, at, count, value)

    def element(self, kb: KernelBuilder, a: Expr, at: Dim, count: int, lanes: int) -> Expr:
        """`count` (at most `depth`) elements of A in all lanes."""
        return splat(kb.load(a, at), lanes)

    def of_vector(self, vector: Expr, step: int, lanes: int) -> Expr:
        """The elements of A of one of the steps that a vector holds, `along * depth` elements, in all lanes."""
        if self.depth > 1:
            vector = tirx.reinterpret(f"int{8 * self.depth * itemsize(self.held)}x{self.along}", vector)
        return tirx.Shuffle([vector], [tirx.IntImm("int32", step)] * lanes)

    def column(self, kb: KernelBuilder, b: Expr, at: Dim, lanes: int) -> Expr:
        """The elements of B for `lanes` columns."""
        return kb.load(b, at, lanes * self.depth)

    def accumulate(self, total: Expr, element: Expr, column: Expr, lanes: int) -> Expr:
        """The sums after this step."""
        return total + element * column


F32 = Arithmetic()


def floats(target: Target) -> Arithmetic:
    """How a target multiplies float32."""
    return Arithmetic(along=target.lanes) if target.multiplies_by_lane else F32


@dataclass(frozen=True)
class RegisterTile:
    """`rows` x `vectors` accumulators of `lanes` elements; a panel of B is `vectors * lanes` columns wide."""

    rows: int
    vectors: int
    lanes: int
    arithmetic: Arithmetic = field(default=F32, repr=False)

    @property
    def panel(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    def fits(self, target: Target, taps: int = 1) -> bool:
        """Whether accumulators, one row of B for each tap (see `Run`) and elements of A stay in registers."""
        elements = self.rows if self.arithmetic.along > 1 and taps == 1 else 1
        held = taps * self.vectors + elements if taps * self.vectors > 1 else elements
        return self.rows * self.vectors + held + self.arithmetic.scratch <= target.registers

    def cycles(self, far: bool = False, reads: float | None = None, near: bool = False) -> float:
        """Cycles per step: the work on accumulators, two loads a cycle, and the chain through each accumulator.

        `far`: panels do not stay in L1, so that a row of one comes from L2. `reads`: elements of A a step, if rows
        share them, which then mostly lie in L1 already. `near`: L1 holds the rows of two tiles.
        """
        operands = (self.rows / self.arithmetic.along if reads is None else reads) + self.vectors
        work = self.rows * self.vectors * self.arithmetic.cost + self.vectors * self.arithmetic.prepare
        panel = self.arithmetic.lane_bytes * self.panel if far else 0.0
        lines = 0.0
        if reads is None:
            row = self.arithmetic.depth * itemsize(self.arithmetic.held)
            lines = panel / LINE_BYTES * B_LINE_CYCLES
            lines += self.rows * row / LINE_BYTES * (A_LINE_CYCLES_NEAR if near else A_LINE_CYCLES)
        return max(work, operands / 2, panel / L2_BYTES_PER_CYCLE, self.arithmetic.latency) + lines + 0.2


@dataclass(frozen=True)
class Rows:
    """Where the rows of a tile lie in A: element offset of row i is `base + offsets[i]`; `offsets` are cheap to add.

    While a line of a row is used, the one `ahead` elements from it is fetched into L1 (0: none). The processor does not
    do so early enough by itself: its queue is full of additions that wait for their turn.
    """

    base: Dim
    offsets: Sequence[Dim]
    ahead: int = 0


@dataclass(frozen=True)
class Run:
    """The walk along k: loops `(extent, stride in A)` around `length` elements of A, `step` apart; B runs on.

    `taps` such stretches, `apart` elements from each other in A, are walked side by side: an element that several rows
    read, because the windows of a convolution overlap, is read once for all of them. In B their rows take turns.

    Where A ends, only some of this exists, and the rest counts as zeros: of the innermost outer loop `count` turns from
    `first` on (`turns`), of a step the elements with offsets from `begin` to before `end` (`span`). With `slack` A may
    be read beyond the end of a stretch, where B is zero, so that all steps are whole ones: right for integers, of which
    none times zero is not zero.
    """

    outer: tuple[tuple[int, Dim], ...]
    length: Dim
    step: Dim = 1
    taps: int = 1
    apart: int = 0
    turns: tuple[Dim, Dim] | None = None
    span: tuple[int, int] | None = None
    slack: bool = False

    def readers(self, offsets: Sequence[Dim]) -> list[tuple[Dim, list[tuple[int, int]]]]:
        """The elements of A of one step, by their offset, each with the (row, tap) pairs that multiply it. With several
        taps or a span the offsets of the rows are ints."""
        if self.taps == 1 and self.span is None:
            return [(offset, [(i, 0)]) for i, offset in enumerate(offsets)]
        found: dict[int, list[tuple[int, int]]] = {}
        for i, offset in enumerate(offsets):
            for tap in range(self.taps):
                found.setdefault(offset + tap * self.apart, []).append((i, tap))
        begin, end = self.span or (min(found), max(found) + 1)
        return sorted((offset, users) for offset, users in found.items() if begin <= offset < end)


@dataclass(frozen=True)
class Panels:
    """A panel of B: its first element in a flat view, the elements from one step to the next, and how many steps ahead
    it is fetched into L1 (0: not). With `later` = (first element, elements a step) some of what comes after it is
    fetched into L2, a bit in each step."""

    view: Expr
    base: Dim
    pitch: Dim
    ahead: int = 0
    later: tuple[Dim, int] | None = None


def register_tile(
    kb: KernelBuilder,
    tile: RegisterTile,
    a: Expr,
    rows: Rows,
    run: Run,
    b: Panels,
    store: Callable[[int, int, Expr], None],
) -> None:
    """Emits one tile with as many rows as `rows` has, then `store(row, vector, value)` for each accumulator."""
    lanes, count, kind = tile.lanes, len(rows.offsets), tile.arithmetic
    acc = kb.local(count * tile.panel, kind.sum)

    def at(i: int, j: int) -> int:
        return (i * tile.vectors + j) * lanes

    for i in range(count):
        for j in range(tile.vectors):
            kb.store(acc, at(i, j), splat(tirx.const(0, kind.sum), lanes), lanes)

    readers = run.readers(rows.offsets)
    per_line = LINE_BYTES // itemsize(kind.held) // kind.depth
    along = kind.along if run.taps == 1 and run.span is None and static(run.step) == 1 else 1

    def step(a_at: Dim, k: Dim, depth: int, part: int | None = None) -> None:
        """One step at `a_at`; or number `part` of those in the vectors there."""
        at_rows = [b.base + (k * run.taps + tap) * b.pitch for tap in range(run.taps)]
        if b.later is not None:
            kb.prefetch(b.view, b.later[0] + k * b.later[1], locality=2)
        if b.ahead:
            for row in at_rows:
                for j in range(0, tile.panel * kind.depth, LINE_BYTES // itemsize(kind.b)):
                    kb.prefetch(b.view, row + (b.ahead * run.taps * b.pitch + j))
        columns = [[kind.column(kb, b.view, row + j * lanes * kind.depth, lanes) for j in range(tile.vectors)]
                   for row in at_rows]  # fmt: skip
        for offset, users in readers:
            if part is None:
                element = kind.element(kb, a, a_at + offset, depth, lanes)
            else:
                element = kind.of_vector(kb.load(a, a_at + offset, along * depth), part, lanes)
            for i, tap in users:
                for j in range(tile.vectors):
                    total = kind.accumulate(kb.load(acc, at(i, j), lanes), element, columns[tap][j], lanes)
                    kb.store(acc, at(i, j), total, lanes)

    def steps(a_at: Dim, k: Dim, count: Dim) -> None:
        """`count` whole steps from `a_at` and `k` on."""
        size = run.step * kind.depth
        done: Dim = 0
        if along > 1:
            done = floordiv(count, along) * along
            with kb.loop(floordiv(count, along), "vector") as vector:
                for part in range(along):
                    step(a_at + vector * (along * size), k + (vector * along + part), kind.depth, part)
        with kb.loop(count - done, "k") as i:
            step(a_at + (done + i) * size, k + (done + i), kind.depth)

    def walk(level: int, a_at: Dim, done: Dim) -> None:
        if level < len(run.outer):
            extent, stride = run.outer[level]
            first, count = run.turns if run.turns and level == len(run.outer) - 1 else (0, extent)
            with kb.loop(count, f"t{level}") as turn:
                t = turn + first
                walk(level + 1, a_at + t * stride, done * extent + t)
            return
        length = known(run.length)
        start = done * kind.steps(length)
        whole = kind.steps(length) if run.slack or kind.depth == 1 else floordiv(length, kind.depth)
        lines = floordiv(whole, per_line) if rows.ahead else 0
        with kb.loop(lines, "line") as line:
            first = kb.let(line * per_line, "first")
            for offset, _ in readers:
                kb.prefetch(a, a_at + first * kind.depth + offset + rows.ahead)
            steps(a_at + first * (run.step * kind.depth), start + first, per_line)
        steps(a_at + lines * per_line * (run.step * kind.depth), start + lines * per_line, whole - lines * per_line)
        if kind.depth > 1 and length % kind.depth and not run.slack:
            step(a_at + whole * kind.depth, start + whole, length % kind.depth)

    walk(0, rows.base, i64(0))
    for i in range(count):
        for j in range(tile.vectors):
            store(i, j, kb.load(acc, at(i, j), lanes))


def store_lanes(
    kb: KernelBuilder,
    target: Expr,
    offset: Dim,
    value: Expr,
    count: int,
    lanes: int,
    epilogue: Epilogue | None,
    indices: Sequence[Expr],
) -> None:
    """Stores the first `count` lanes of `value`, through the epilogue, and nothing beyond them.

    Fewer than all lanes go as pieces of power-of-two widths, so no load of the epilogue leaves its buffer either.
    """
    for start, width in pieces(count, lanes):
        part = value if width == lanes else lanes_of(value, start, width)
        if epilogue is not None:
            part = epilogue(part, [*indices[:-1], indices[-1] + start], width)
        kb.store(target, offset + start, part, width)


@dataclass(frozen=True)
class Output:
    """Where a tile goes: a flat view with rows `pitch` apart, of which `columns` are written, through the epilogue.

    `touch`: the lines that a tile will write, and those of a residual that it will read, are fetched before its sums
    are computed, for tensors that do not stay in L2.
    """

    view: Expr
    columns: Dim
    epilogue: Epilogue | None
    pitch: Dim
    touch: bool = False

    def fetch(self, kb: KernelBuilder, rows: Sequence[Dim], indices: Callable[[Dim], Sequence[Expr]], at: Dim,
              count: int) -> None:  # fmt: skip
        """Fetches `count` columns from `at` on of these rows."""
        full = [b for b in self.epilogue.buffers if len(b.shape) == 2] if self.epilogue and self.epilogue.flat else []
        for i, row in enumerate(rows):
            for column in range(0, count, LINE_BYTES // itemsize(str(self.view.dtype))):
                kb.prefetch(self.view, row * self.pitch + at + column, write=True)
            for operand in full:
                for column in range(0, count, LINE_BYTES // itemsize(str(operand.dtype))):
                    kb.prefetch(kb.flat(operand), indices(i)[0] * operand.shape[1] + at + column)


def tile_to_output(
    kb: KernelBuilder,
    tile: RegisterTile,
    a: Expr,
    rows: Rows,
    run: Run,
    b: Panels,
    panel: Expr,
    output: Output,
    out_rows: Sequence[Dim],
    indices: Callable[[Dim], Sequence[Expr]],
    first_column: Dim = 0,
) -> None:
    """One register tile, stored to rows `out_rows` of the output at the columns of panel number `panel`.

    `indices(i)`: logical index of row i without the column; `first_column` is added to columns (groups). The last
    panel stores only the columns that exist; where their number is not known, the rows must follow each other.
    """
    columns = known(output.columns)
    panels = ceildiv(columns, tile.panel)
    sums: dict[tuple[int, int], Expr] = {}
    if output.touch:
        output.fetch(kb, out_rows, indices, panel * tile.panel + first_column, tile.panel)
    register_tile(kb, tile, a, rows, run, b, lambda i, j, value: sums.__setitem__((i, j), value))

    def put(i: Dim, column: Dim, value: Expr, count: int, lanes: int) -> None:
        row = out_rows[i] if isinstance(i, int) else out_rows[0] + i
        at = row * output.pitch + column + first_column
        store_lanes(
            kb, output.view, at, value, count, lanes, output.epilogue, [*indices(i), i64(column + first_column)]
        )

    def whole() -> None:
        for (i, j), value in sums.items():
            put(i, panel * tile.panel + j * tile.lanes, value, tile.lanes, tile.lanes)

    if isinstance(columns, int):
        last = columns - (panels - 1) * tile.panel

        def partial() -> None:
            for (i, j), value in sums.items():
                count = max(0, min(tile.lanes, last - j * tile.lanes))
                put(i, panel * tile.panel + j * tile.lanes, value, count, tile.lanes)

        if last == tile.panel:
            whole()
        else:
            kb.branch(_equal(panel, panels - 1), partial, whole)
        return

    def spilled() -> None:
        """The number of columns is known only now: through the stack, in pieces of widths that are."""
        rest = kb.let(columns - panel * tile.panel, "rest")
        spill = kb.local(len(rows.offsets) * tile.panel, tile.arithmetic.sum, name="spill")
        for (i, j), value in sums.items():
            kb.store(spill, (i * tile.vectors + j) * tile.lanes, value, tile.lanes)
        with kb.loop(len(rows.offsets), "i") as i:
            with kb.loop(floordiv(rest, tile.lanes), "j") as j:
                value = kb.load(spill, j * tile.lanes + i * tile.panel, tile.lanes)
                put(i, panel * tile.panel + j * tile.lanes, value, tile.lanes, tile.lanes)
            width = tile.lanes // 2
            while width:
                done = kb.let(floordiv(rest, 2 * width) * (2 * width), "done")
                with kb.when(rest - done >= width):
                    value = kb.load(spill, done + i * tile.panel, width)
                    put(i, panel * tile.panel + done, value, width, width)
                width //= 2

    kb.branch(tirx.EQ(panel, i64(panels - 1)), spilled, whole)


def _equal(a: Expr, b: int) -> Expr:
    value = static(a)
    return value == b if value is not None else tirx.EQ(a, i64(b))


def later_panel(kb: KernelBuilder, at: Dim, steps: Dim, width: int, turn: Dim, spread: int) -> tuple[Dim, int] | None:
    """What tile number `turn` of `spread` fetches of the panel behind the one at `at`, of `steps` steps of `width`
    elements (see Panels.later); None if nobody does."""
    if not spread:
        return None
    share = -(-width // spread)
    return kb.let(at + steps * width + turn * (steps * share), "later"), share


def row_tiles(
    kb: KernelBuilder,
    rows: int,
    total: Dim,
    emit: Callable[[Dim, int], None],
    block: Expr = 0,
    block_rows: Dim | None = None,
) -> None:
    """Covers rows [0, total), or block number `block` of `block_rows` of them, by tiles: `emit(start, count)`.

    Tiles have `rows` rows, a known remainder one tile of its own, an unknown one tiles of four and of one.
    `block_rows` is a multiple of `rows`.
    """
    total = known(total)
    full = floordiv(total, rows)
    if block_rows is None or (isinstance(total, int) and isinstance(block_rows, int) and block_rows >= total):
        first, count, is_last = i64(0), full, True
    else:
        per_block = floordiv(block_rows, rows)
        first = block * per_block
        count = kb.let(minimum(i64(per_block), full - first), "tiles")
        is_last = first + per_block >= full
    with kb.loop(count, "t") as t:
        emit(kb.let((first + t) * rows, "row"), rows)
    if isinstance(total, int):
        if total % rows:
            with kb.when(is_last):
                emit(i64(total - total % rows), total % rows)
        return
    with kb.when(is_last):
        done = kb.let(full * rows, "done")
        for size in (s for s in (4, 1) if s < rows):
            count = kb.let(floordiv(total - done, size), "count")
            with kb.loop(count, "t") as t:
                emit(kb.let(done + t * size, "row"), size)
            done = kb.let(done + count * size, "done")
