"""Products of integers (u8 x s8, summed in int32) or of bfloat16 (summed in float32) with a constant B on AMX tiles:
`y = a @ b + bias`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....compiler.errors import UnsupportedError
from ...isa.amx import COLUMNS, ROWS, U8_S8, TileType
from ...target import Target
from ..builder import (
    FEATURES,
    Dim,
    Epilogue,
    Expr,
    KernelBuilder,
    buffer,
    ceildiv,
    floordiv,
    floormod,
    i64,
    known,
    maximum,
    minimum,
    pieces,
    product,
    result_dtype,
    result_pitch,
    static,
)
from ..matmul import MatmulSpec, guess
from .tiles import Ahead, Block, Columns, Output, Panel, Pipeline, Source, Tiles
from .walk import Walk

PARALLEL_MACS = 16_000_000
"""Products below this many multiply-adds of bytes (about 15 microseconds) run on one thread; each of bfloat16 takes as
long as two."""
FEWEST_BLOCKS = 16
"""Blocks of rows that a panel of B is worth fetching for."""
MOST_PASSES = 16
"""Blocks of rows that a panel of B serves where waiting for it matters: with more, it is a small part of the time."""
L2_CYCLES = 30.0
"""For a tile that comes from L2."""
BLOCK_CYCLES = 40.0
"""For a block, whatever it computes."""
SUM_CYCLES = 85.0
"""For the bias, the store and the epilogue of a tile of sums."""


@dataclass(frozen=True)
class MatmulPlan:
    """At most `chunk` blocks of rows stay in cache while the panels of B pass (one where rows are too short to be read
    in place). `workers` threads share the rows, or `parts` of the panels where that is more than 1. In `ahead` parts
    (0: not) the next panel is fetched while a panel is used."""

    block: Block
    chunk: int
    parts: int
    workers: int
    kind: TileType = field(default=U8_S8, repr=False)
    ahead: int = 0


def applies(spec: MatmulSpec, target: Target, kind: TileType = U8_S8) -> bool:
    """Whether there are plans: a constant B, rows of A in memory, a processor with tiles."""
    return kind.runs_on(target) and spec.constant_b and not spec.trans_a and not spec.batch_b


def plans(spec: MatmulSpec, target: Target, kind: TileType = U8_S8) -> Iterator[MatmulPlan]:
    """Legal plans, the best guess first. Raises UnsupportedError where none `applies`."""
    if not applies(spec, target, kind):
        raise UnsupportedError("no AMX kernel for this product", found=spec)
    total, n, k = product((*spec.batch_a, spec.m)), int(spec.n), int(spec.k)
    rows = guess(total)
    bytes_k = k * kind.itemsize
    workers = target.num_cores if static(total) is None or rows * n * bytes_k >= PARALLEL_MACS else 1
    for block in blocks(Shape(rows, n, bytes_k, walk_of(spec, kind).steps), target):
        # All rows pass a panel before the next one comes, as far as they and their results stay in L2.
        chunk = max(FEWEST_BLOCKS, target.l2 // (block.rows * ROWS * (n * kind.itemsize + bytes_k)))
        passes = min(chunk, -(-rows // (block.rows * ROWS)))
        ahead = passes if static(total) is not None and fetches(bytes_k * n, passes, target) else 0
        yield MatmulPlan(block, chunk, workers if n > rows else 1, workers, kind, ahead)


def fetches(weights: int, passes: int, target: Target) -> bool:
    """Whether it pays to fetch the panels of so many bytes of B ahead, each of which is used by so many blocks."""
    return weights > target.l2 // 2 and passes <= MOST_PASSES


@dataclass(frozen=True)
class Shape:
    """A product for estimates: `depth` is the bytes of a row of A, `reuse` how often it reads an element of A for other
    columns of k (taps)."""

    rows: int
    columns: int
    depth: int
    steps: int
    reuse: int = 1


def blocks(shape: Shape, target: Target) -> list[Block]:
    """Blocks for a product, the cheapest by estimate first."""
    row_tiles, column_tiles = -(-shape.rows // ROWS), -(-shape.columns // COLUMNS)
    choices = (Block(r, c) for r in range(1, min(6, row_tiles) + 1) for c in range(1, min(6, column_tiles) + 1))
    return sorted((b for b in choices if b.fits), key=lambda b: (estimate(b, shape, target), -b.sums))


def estimate(block: Block, shape: Shape, target: Target) -> float:
    """Cycles of a product in blocks of this size. Constants as measured on Sapphire Rapids."""
    row_blocks, tiles = -(-shape.rows // (block.rows * ROWS)), -(-shape.columns // COLUMNS)
    panels = [block.columns] * (tiles // block.columns) + [tiles % block.columns] * (tiles % block.columns > 0)
    a_bytes = shape.rows * shape.depth // shape.reuse
    total = 0.0
    for columns in panels:
        panel = columns * COLUMNS * shape.depth
        far_b = columns * (1.0 if panel >= target.l1 * 3 // 4 else 1 / row_blocks)
        far_a = block.rows / shape.reuse * (1.0 if a_bytes + panel > target.l1 else 1 / len(panels))
        near = 16.0 * block.rows * columns + 3.0 * (block.rows + columns)
        step = max(near, L2_CYCLES * (far_a + far_b))
        split_lines = 0.0 if columns % 4 == 0 or len(panels) == 1 else 1.5 * ROWS * block.rows
        total += row_blocks * (shape.steps * step + BLOCK_CYCLES + SUM_CYCLES * block.rows * columns + split_lines)
    return total


def walk_of(spec: MatmulSpec, kind: TileType) -> Walk:
    return Walk.of(kind, [int(spec.k)])


def pack_weights(array: np.ndarray, spec: MatmulSpec, plan: MatmulPlan) -> np.ndarray:
    """A constant B, as the model has it, in the kernel's order: flat, see Walk.pack."""
    return walk_of(spec, plan.kind).pack(array.T if spec.trans_b else array, plan.block.columns)


def build(
    spec: MatmulSpec, plan: MatmulPlan, epilogue: Epilogue | None = None, rows: tuple[Dim, ...] | None = None
) -> Any:
    """The kernel. Params: a, packed b, bias [n], the epilogue's buffers, y.

    `rows`: the dims that `a` and `y` have in place of `m`, where the rows of a matrix are pixels of an image.
    """
    kind, walk = plan.kind, walk_of(spec, plan.kind)
    n, k = int(spec.n), int(spec.k)
    flat = epilogue is None or epilogue.flat
    kb = KernelBuilder()
    a = buffer("a", (*(rows or (*spec.batch_a, spec.m)), k), kind.a)
    b = buffer("b", (walk.packed(n),), kind.b)
    bias = buffer("bias", (n,), kind.sum)
    pitch = result_pitch(epilogue, n)
    y = buffer("y", (*(rows or (*spec.batch_a, spec.m)), pitch), result_dtype(epilogue, kind.sum))
    output = Output(kb.flat(y), pitch, epilogue)
    batch = () if flat else spec.batch_a
    m = known(product((*spec.batch_a, spec.m)) if flat else spec.m)
    block_rows = plan.block.rows * ROWS
    count = ceildiv(m, block_rows)
    share = ceildiv(count, plan.workers) if plan.parts == 1 else count
    per_chunk = 1 if _copies(spec, kind) else kb.let(maximum(minimum(plan.chunk, share), 1), "per_chunk")
    chunks = ceildiv(count, per_chunk)
    tile_rows = kb.let(minimum(m, ROWS), "tile_rows")
    tasks = known(product(batch) * chunks * plan.parts)
    with kb.loop(tasks, "task", parallel=plan.workers > 1) as task:
        part = kb.let(floormod(task, plan.parts), "part")
        chunk = kb.let(floormod(floordiv(task, plan.parts), chunks), "chunk")
        outer = kb.let(floordiv(task, chunks * plan.parts), "outer")
        index = unravel(kb, outer, batch)
        tiles = Tiles(kb, walk, plan.block, tile_rows)
        columns = Columns(kb, n, plan.block.columns, kb.flat(b), 0, kb.flat(bias))
        first_block = chunk * per_chunk
        mine = kb.let(minimum(per_chunk, count - first_block), "blocks")
        rows_ = _Rows(kb, plan.block.rows, m, outer * m)
        copied = _copied(kb, walk, rows_, kb.flat(a), first_block) if _copies(spec, kind) else None

        def store(panel: Panel, number: Expr, slot: Expr, first: Dim, last: Dim) -> None:
            starts = rows_.starts(number)
            with kb.loop(known(last - first), "r") as r:
                for i, start in enumerate(starts):
                    row = kb.let(start + first + r, "row")
                    at = outer * m + row
                    tiles.put(slot, first + r + i * ROWS, columns, panel, output, at, [at] if flat else [*index, row])

        for panels in columns.ranges(part, plan.parts):
            pipeline = Pipeline(tiles, panels, store)
            with kb.loop(panels.count, "p") as p, kb.loop(mine, "block") as block:
                number = kb.let(first_block + block, "number")
                source = copied or Source(
                    kb.flat(a), [(outer * m + start) * k for start in rows_.starts(number)], k, [i64(0)]
                )
                fetch = Ahead(block, plan.ahead) if plan.ahead else None
                pipeline.block(source, columns, panels.panel(kb.let(panels.first + p, "panel")), number, fetch)
            pipeline.flush()
        tiles.release()
    func = kb.finish([a, b, bias, *(epilogue.buffers if epilogue else ()), y])
    return func.with_attr(FEATURES, " ".join(kind.features))


@dataclass(frozen=True)
class _Rows:
    """The rows of one matrix: `count` of them; `tiles` tiles make a block."""

    kb: KernelBuilder
    tiles: int
    count: Dim
    base: Dim

    def starts(self, block: Expr) -> list[Expr]:
        """First rows of a block's tiles; the last tiles overlap others where 16 does not divide the rows."""
        first = block * (self.tiles * ROWS)
        if isinstance(self.count, int) and self.count % (self.tiles * ROWS) == 0:
            return [first + i * ROWS for i in range(self.tiles)]
        last = maximum(self.count - ROWS, 0)
        return [self.kb.let(minimum(first + i * ROWS, last), "start") for i in range(self.tiles)]


def _copies(spec: MatmulSpec, kind: TileType) -> bool:
    """Whether rows of A are too short to be read in place: a step would pass the end of the last one."""
    walk = walk_of(spec, kind)
    return walk.step > walk.lengths[0]


def _copied(kb: KernelBuilder, walk: Walk, rows: _Rows, a: Expr, block: Expr) -> Source:
    """The rows of one block at the pitch of a step."""
    k, pitch = walk.lengths[0], walk.step
    copy = kb.local(rows.tiles * ROWS * pitch, walk.kind.a, "rows")
    for i, start in enumerate(rows.starts(block)):
        with kb.loop(minimum(rows.count, ROWS), "r") as r:
            source = kb.let((rows.base + start + r) * k, "from")
            for at, lanes in pieces(k, ROWS):
                kb.store(copy, (r + i * ROWS) * pitch + at, kb.load(a, source + at, lanes), lanes)
            kb.zero(copy, (r + i * ROWS) * pitch + k, walk.passes_end)
    return Source(copy, [i64(i * ROWS * pitch) for i in range(rows.tiles)], pitch, [i64(0)])


def unravel(kb: KernelBuilder, linear: Expr, shape: tuple[Dim, ...]) -> list[Expr]:
    """The index list of a row-major number."""
    index: list[Expr] = []
    for dim in reversed(shape):
        index.insert(0, kb.let(floormod(linear, dim), "index"))
        linear = floordiv(linear, dim)
    return index
