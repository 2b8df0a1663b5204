"""Matrix products: `y[..., m, n] = Σ_k a[..., m, k] * b[..., k, n]` with batch dims that broadcast.

B is read in panels, [panel][k][columns of a panel]: a constant one is packed at compile time by `pack_weights`, any
other into the workspace when the kernel starts. A is read in place, also where it is transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx

from ..target import Target
from .builder import (
    WORKSPACE,
    Dim,
    Epilogue,
    Expr,
    KernelBuilder,
    buffer,
    ceildiv,
    floordiv,
    floormod,
    i64,
    itemsize,
    known,
    maximum,
    minimum,
    product,
    result_dtype,
    result_pitch,
    static,
)
from .tile import (
    F32,
    LINE_BYTES,
    Arithmetic,
    Output,
    Panels,
    RegisterTile,
    Rows,
    Run,
    floats,
    later_panel,
    row_tiles,
    tile_to_output,
)
from .tiling import AHEAD_BYTES_IN_L2, is_near, is_spread, steps_ahead, tiles

GUESS = 128
"""What a dim is taken to be in estimates where it is known only at run time."""
PARALLEL_MACS = 2_000_000
"""Products below this many multiply-adds of float32 (about 25 microseconds) run on one thread."""


@dataclass(frozen=True)
class MatmulSpec:
    """One product. Dims are ints or int64 expressions; with a constant B, `n` and `k` are ints.

    Shapes: a is `batch_a + (m, k)`, or `(k, m)` if `trans_a`; b is `batch_b + (k, n)`, or `(n, k)` if `trans_b`; the
    batch dims broadcast as in numpy. A constant B has no batch.
    """

    m: Dim
    n: Dim
    k: Dim
    batch_a: tuple[Dim, ...] = ()
    batch_b: tuple[Dim, ...] = ()
    trans_a: bool = False
    trans_b: bool = False
    constant_b: bool = True

    @property
    def batch(self) -> tuple[Dim, ...]:
        """The batch dims of the output."""
        rank = max(len(self.batch_a), len(self.batch_b))
        a, b = _aligned(self.batch_a, rank), _aligned(self.batch_b, rank)
        return tuple(y if static(x) == 1 else x for x, y in zip(a, b, strict=True))

    @property
    def macs(self) -> int:
        """Multiply-adds, unknown dims guessed."""
        out = 1
        for dim in (*self.batch, self.m, self.n, self.k):
            out *= guess(dim)
        return out


@dataclass(frozen=True)
class MatmulPlan:
    """`row_block` rows of A (a multiple of the tile's) stay in L2 while the panels of B pass; `groups` parts of the
    panels are separate tasks; panels are fetched `ahead` steps of k before their use (0: not), A's rows `a_ahead`
    elements; `workers` tasks at a time have scratch memory where the arithmetic copies A; `touch`: lines of the output
    and of a residual are fetched before they are used; while a panel is used, `spread` tiles of rows share in fetching
    the next one from beyond L2 (0: not)."""

    tile: RegisterTile
    row_block: int
    groups: int
    parallel: bool
    ahead: int = 0
    workers: int = 1
    a_ahead: int = 0
    touch: bool = False
    spread: int = 0


def guess(dim: Dim) -> int:
    value = static(dim)
    return GUESS if value is None else value


def plans(spec: MatmulSpec, target: Target, arithmetic: Arithmetic | None = None) -> Iterator[MatmulPlan]:
    """Legal plans, the best guess first; in float32, or another arithmetic."""
    arithmetic = arithmetic or floats(target)
    spec = _flattened(spec, True)
    columns = static(spec.n) or 1 << 12
    macs = spec.macs
    choices = tiles(static(spec.m), columns, guess(spec.k), target, arithmetic=arithmetic)
    a_size, b_size = itemsize(arithmetic.held), itemsize(arithmetic.b)
    if not spec.constant_b:
        choices = tuple(t for t in choices if _reads_in_place(spec, t)) or choices
    for tile in choices[:8]:
        fit = max(1, target.l2 // 2 // (a_size * guess(spec.k) * tile.rows))
        batch, row_tiles_ = guess(product(spec.batch)), -(-guess(spec.m) // tile.rows)
        panels = -(-guess(spec.n) // tile.panel)
        parallel = macs >= PARALLEL_MACS * arithmetic.depth and target.num_cores > 1
        depth, weights = guess(spec.k), b_size * guess(spec.k) * guess(spec.n)
        a_ahead, touch = 0, False
        if arithmetic == F32:
            a_ahead = _elements_ahead(spec, tile, target)
            touch = 4 * guess(spec.m) * (guess(spec.n) + depth) + weights > target.l2 // 2
            if touch and weights <= target.l2 // 4:
                fit = max(1, target.l2 // 8 // (4 * (guess(spec.n) + depth) * tile.rows))
        blocks = -(-row_tiles_ // fit)
        ahead = steps_ahead(tile, depth, weights, target) if spec.constant_b else 0
        groups = 1
        if parallel:
            wanted = -(-target.num_cores // batch)
            if panels >= wanted and guess(spec.n) > guess(spec.m):
                groups = wanted
            elif row_tiles_ >= 2 * wanted:
                blocks = -(-max(blocks, wanted) // wanted) * wanted
            elif panels >= wanted:
                groups = wanted
        workers = target.num_cores if parallel else 1
        block = -(-row_tiles_ // blocks)
        spread = block if arithmetic == F32 and spec.constant_b and is_spread(weights, block, target) else 0
        if spread:
            ahead = AHEAD_BYTES_IN_L2 // (4 * tile.panel)
        yield MatmulPlan(tile, block * tile.rows, groups, parallel, ahead, workers, a_ahead, touch, spread)


def _elements_ahead(spec: MatmulSpec, tile: RegisterTile, target: Target) -> int:
    """How far ahead A is fetched: where L1 holds the rows of two tiles, the next tile's rows; else their next line."""
    k = static(spec.k)
    if spec.trans_a or k is None or k < LINE_BYTES // 4:
        return 0
    return tile.rows * k if is_near(tile, k, target) else LINE_BYTES // 4


def packed_shape(spec: MatmulSpec, plan: MatmulPlan) -> tuple[Dim, Dim, int]:
    """[panels, steps, elements of a panel in one step]."""
    tile = plan.tile
    return ceildiv(known(spec.n), tile.panel), tile.arithmetic.steps(known(spec.k)), tile.panel * tile.arithmetic.depth


def pack_weights(array: np.ndarray, spec: MatmulSpec, plan: MatmulPlan) -> np.ndarray:
    """A constant B, as the model has it, in the kernel's panels; what is beyond k and n is zero."""
    return pack_panels(array if spec.trans_b else array.T, plan.tile)


def pack_panels(columns: np.ndarray, tile: RegisterTile) -> np.ndarray:
    """Columns of B [..., n, k] as panels [..., panels, steps, panel * depth]; zero beyond k and n."""
    *lead, n, k = columns.shape
    panel, depth = tile.panel, tile.arithmetic.depth
    panels, steps = -(-n // panel), -(-k // depth)
    padded = np.zeros((*lead, panels * panel, steps * depth), columns.dtype)
    padded[..., :n, :k] = columns
    split = padded.reshape(*lead, panels, panel, steps, depth).swapaxes(-3, -2)
    return np.ascontiguousarray(split).reshape(*lead, panels, steps, panel * depth)


def build(
    spec: MatmulSpec, plan: MatmulPlan, epilogue: Epilogue | None = None, rows: tuple[Dim, ...] | None = None
) -> Any:
    """The kernel. Params: a, b (packed if constant), the epilogue's buffers, y, and the workspace if B varies or the
    arithmetic reads a copy of A.

    `rows`: the dims that `a` and `y` have in place of `m`, where the rows of a matrix are pixels of an image.
    """
    full = spec
    spec = _flattened(spec, epilogue is None or epilogue.flat)
    kb = KernelBuilder()
    kind = plan.tile.arithmetic
    a = buffer("a", (*rows, full.k) if rows else _operand(full.batch_a, full.m, full.k, full.trans_a), kind.a)
    pitch = result_pitch(epilogue, full.n)
    y = buffer("y", (*(rows or (*full.batch, full.m)), pitch), result_dtype(epilogue, kind.sum))
    shape = packed_shape(spec, plan)
    extra = list(epilogue.buffers) if epilogue else []
    scratch: Expr | None = None
    if spec.constant_b:
        b = buffer("b", shape, kind.b)
        params = [a, b, *extra, y]
        panels_of_b = kb.flat(b)
        if kind.copies:
            params.append(buffer(WORKSPACE, (plan.workers, _copied_size(spec, plan)), kind.held))
            scratch = kb.flat(params[-1])
    elif _reads_in_place(spec, plan.tile):
        b = buffer("b", (*spec.batch_b, spec.k, spec.n))
        params = [a, b, *extra, y]
        panels_of_b = kb.flat(b)
    else:
        b = buffer("b", _operand(spec.batch_b, spec.n, spec.k, not spec.trans_b))
        workspace = buffer(WORKSPACE, (product(spec.batch_b), *shape))
        params = [a, b, *extra, y, workspace]
        panels_of_b = kb.flat(workspace)
        _pack(kb, spec, plan, kb.flat(b), panels_of_b)
    output = Output(kb.flat(y), spec.n, epilogue, pitch, plan.touch)
    _multiply(kb, spec, plan, kb.flat(a), panels_of_b, output, scratch)
    return kb.finish(params)


def _aligned(batch: tuple[Dim, ...], rank: int) -> tuple[Dim, ...]:
    return (1,) * (rank - len(batch)) + tuple(known(d) for d in batch)


def _operand(batch: tuple[Dim, ...], rows: Dim, columns: Dim, transposed: bool) -> tuple[Dim, ...]:
    return (*batch, columns, rows) if transposed else (*batch, rows, columns)


def _flattened(spec: MatmulSpec, flat: bool) -> MatmulSpec:
    """With one B for all, the batch dims of A are just more rows."""
    if flat and not spec.trans_a and spec.batch_a and not spec.batch_b:
        return replace(spec, m=product((*spec.batch_a, spec.m)), batch_a=())
    return spec


def _reads_in_place(spec: MatmulSpec, tile: RegisterTile) -> bool:
    """Whether a varying B needs no packing: whole panels lie in its rows."""
    n = static(spec.n)
    return not spec.constant_b and not spec.trans_b and n is not None and n % tile.panel == 0


def _copied_rows(plan: MatmulPlan) -> int:
    """Rows of A in a block at most: the last one has the rows that fill no tile, too."""
    return plan.row_block + plan.tile.rows - 1


def _copied_size(spec: MatmulSpec, plan: MatmulPlan) -> Dim:
    """Elements of a worker's copy, of which the last step may read beyond the last row."""
    return known(_copied_rows(plan) * known(spec.k) + plan.tile.arithmetic.depth - 1)


def _multiply(
    kb: KernelBuilder, spec: MatmulSpec, plan: MatmulPlan, a: Expr, b: Expr, output: Output, scratch: Expr | None
) -> None:
    """All products; with `scratch`, each worker copies the rows of its block there."""
    m, k = known(spec.m), known(spec.k)
    panels, steps, width = packed_shape(spec, plan)
    blocks = ceildiv(maximum(floordiv(m, plan.tile.rows), 1), plan.row_block // plan.tile.rows)
    batch = product(spec.batch)
    per_group = ceildiv(panels, plan.groups)
    in_place = _reads_in_place(spec, plan.tile)
    matrix, panel_size, pitch = (
        (k * spec.n, width, spec.n) if in_place else (panels * steps * width, steps * width, width)
    )

    def run(task: Expr, copy_at: Dim) -> None:
        group = kb.let(floormod(task, plan.groups), "group")
        block = kb.let(floormod(floordiv(task, plan.groups), blocks), "block")
        outer = kb.let(floordiv(task, blocks * plan.groups), "outer")
        index = _unravel(kb, outer, spec.batch)
        a_base = kb.let(_ravel(index, spec.batch_a, spec.batch) * (m * k), "a_base")
        source, base, start_row = a, a_base, i64(0)
        if scratch is not None:
            source, base, start_row = scratch, copy_at, kb.let(block * plan.row_block, "start_row")
            count = kb.let(minimum(i64(_copied_rows(plan)), m - start_row), "count")
            plan.tile.arithmetic.copy(kb, scratch, copy_at, a, a_base + start_row * k, count * k)
        b_base = kb.let(_ravel(index, spec.batch_b, spec.batch) * matrix, "b_base")
        mine = known(minimum(per_group, panels - group * per_group)) if plan.groups > 1 else panels
        with kb.loop(mine, "p") as p:
            number = kb.let(group * per_group + p, "panel")

            def panel(start: Dim) -> Panels:
                at = kb.let(b_base + number * panel_size, "b_at")
                turn = floordiv(start, plan.tile.rows) - block * (plan.row_block // plan.tile.rows)
                return Panels(b, at, pitch, plan.ahead, later_panel(kb, at, steps, width, turn, plan.spread))

            def one(start: Dim, count: int) -> None:
                steps = (1, m) if spec.trans_a else (k, 1)
                offsets = [i * steps[0] for i in range(count)]
                rows = Rows(base + (start - start_row) * steps[0], offsets, plan.a_ahead)
                out_rows = [kb.let(outer * m + start, "out_row") + i for i in range(count)]
                tile_to_output(
                    kb, replace(plan.tile, rows=count), source, rows, Run((), k, steps[1], slack=scratch is not None),
                    panel(start), number, output, out_rows,
                    lambda i: [out_rows[0] + i] if _is_flat(output) else [*index, start + i],
                )  # fmt: skip

            row_tiles(kb, plan.tile.rows, m, one, block, plan.row_block)

    tasks = known(batch * blocks * plan.groups)
    if scratch is None:
        with kb.loop(tasks, "task", parallel=plan.parallel) as task:
            run(task, 0)
        return
    with kb.loop(plan.workers, "worker", parallel=plan.workers > 1) as worker:
        copy_at = kb.let(worker * _copied_size(spec, plan), "copy_at")
        with kb.share(worker, plan.workers, tasks) as number:
            run(number, copy_at)


def _is_flat(output: Output) -> bool:
    return output.epilogue is not None and output.epilogue.flat


def _unravel(kb: KernelBuilder, linear: Expr, shape: tuple[Dim, ...]) -> list[Expr]:
    """The index list of a row-major number."""
    index: list[Expr] = []
    for dim in reversed(shape):
        index.insert(0, kb.let(floormod(linear, dim), "index"))
        linear = floordiv(linear, dim)
    return index


def _ravel(index: list[Expr], shape: tuple[Dim, ...], full: tuple[Dim, ...]) -> Dim:
    """The row-major number within `shape` of an index into `full`, to which `shape` broadcasts."""
    number: Dim = i64(0)
    for i, dim in zip(index, _aligned(shape, len(full)), strict=True):
        number = number * dim + (0 if static(dim) == 1 else i)
    return number


def _pack(kb: KernelBuilder, spec: MatmulSpec, plan: MatmulPlan, b: Expr, packed: Expr) -> None:
    """Copies B into panels; columns beyond n are left as they are: what they multiply is never stored."""
    n, k = known(spec.n), known(spec.k)
    panels, _, panel = packed_shape(spec, plan)
    with kb.loop(known(product(spec.batch_b) * panels), "task", parallel=plan.parallel) as task:
        number, matrix = kb.let(floormod(task, panels), "panel"), kb.let(floordiv(task, panels), "matrix")
        first = kb.let(number * panel, "first")
        width = kb.let(minimum(panel, n - first), "width") if static(n) is None or n % panel else panel
        with kb.loop(k, "k") as row:
            to = kb.let((task * k + row) * panel, "to")
            if not spec.trans_b:
                at = kb.let((matrix * k + row) * n + first, "at")
                _copy_row(kb, packed, to, b, at, width, plan.tile)
            else:
                with kb.loop(width, "j") as j:
                    kb.store(packed, to + j, kb.load(b, (matrix * n + first + j) * k + row))


def _copy_row(kb: KernelBuilder, packed: Expr, to: Dim, b: Expr, at: Dim, width: Dim, tile: RegisterTile) -> None:
    """Copies the `width` columns of a panel's row: by vectors where the panel is whole."""

    def whole() -> None:
        for j in range(0, tile.panel, tile.lanes):
            kb.store(packed, to + j, kb.load(b, at + j, tile.lanes), tile.lanes)

    full = width == tile.panel if isinstance(width, int) else tirx.EQ(width, i64(tile.panel))
    kb.branch(full, whole, lambda: kb.copy(packed, to, b, at, width))
