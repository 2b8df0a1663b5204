"""Fused attention: `y = softmax(scale * q k^T + mask) v` for each batch and head, without the scores in memory.

A tile of query rows meets the keys block by block (FlashAttention, Dao et al. 2022). The scores of a block stay in
L1: products, then exponentials in place, then their product with the values. Where a block does not hold all keys, the
running maximum and sum of each row say how to weigh what earlier blocks gave (Milakov and Gimelshein 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from ..target import Target
from . import vmath
from .attention_pack import Matrix, pack_keys, pack_values
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
    known,
    maximum,
    minimum,
    pieces,
    result_dtype,
    splat,
    static,
)
from .matmul import PARALLEL_MACS, guess
from .rows import fold_local
from .tile import Panels, RegisterTile, Rows, Run, register_tile, row_tiles, store_lanes
from .tiling import tiles

BHSD, BSHD = "BHSD", "BSHD"
LOWEST = -3.4028234663852886e38
"""The lowest float32: the maximum of no scores."""
TASKS_PER_CORE = 2
"""Parallel tasks a core; each has its own workspace and takes several heads one after the other."""


@dataclass(frozen=True)
class AttentionSpec:
    """One attention. Batch and lengths are ints or int64 expressions.

    Shapes: q [batch, heads, queries, size], k [batch, key_heads, keys, size], v [batch, key_heads, keys, value_size],
    y as q with value_size; rows and heads change places where the layout (in the order q, k, v, y) is BSHD.
    `mask`: its four dims, each 1 or that of the scores [batch, heads, queries, keys]; float32 to be added, or, where
    `mask_value` is a number, bool: scores where it is false become that number. `causal` hides key j from query i
    where j > i + keys - queries. A row that sees no key becomes NaN.
    """

    batch: Dim
    heads: int
    key_heads: int
    queries: Dim
    keys: Dim
    size: int
    value_size: int
    scale: float
    layouts: tuple[str, str, str, str] = (BHSD, BHSD, BHSD, BHSD)
    mask: tuple[Dim, Dim, Dim, Dim] | None = None
    mask_value: float | None = None
    causal: bool = False

    @property
    def macs(self) -> int:
        """Multiply-adds, unknown dims guessed."""
        pairs = guess(self.batch) * self.heads * guess(self.queries) * guess(self.keys)
        return pairs * (self.size + self.value_size)


@dataclass(frozen=True)
class AttentionPlan:
    """`tile.rows` queries x `block` keys of scores at a time; the rows of a head in `splits` parts; `tasks` parallel
    tasks (1: none); `packed`: values are copied to panels first."""

    tile: RegisterTile
    block: int
    splits: int
    tasks: int
    packed: bool


def plans(spec: AttentionSpec, target: Target) -> Iterator[AttentionPlan]:
    """Legal plans, the best guess first."""
    batch, keys = static(spec.batch) or 1, static(spec.keys)
    parallel = spec.macs >= PARALLEL_MACS and target.num_cores > 1
    for tile in tiles(static(spec.queries), spec.value_size, guess(spec.keys), target)[:8]:
        panel = tile.panel
        block = max(1, target.l1 // 2 // (4 * tile.rows) // panel) * panel
        if keys is not None:
            block = min(block, -(-keys // panel) * panel)
        splits = _splits(batch * spec.key_heads, guess(spec.queries) // tile.rows, target) if parallel else 1
        tasks = TASKS_PER_CORE * target.num_cores if parallel else 1
        if static(spec.batch) is not None:
            tasks = min(tasks, batch * spec.key_heads * splits)
        rows_apart = spec.layouts[2] == BSHD and spec.key_heads > 1
        packed = spec.value_size % panel > 0 or (rows_apart and (static(spec.queries) or 1 << 12) > tile.rows)
        yield AttentionPlan(tile, block, splits, max(1, tasks), packed)


def _splits(heads: int, row_tiles_: int, target: Target) -> int:
    """Parts of each head's rows that keep the cores busy for four fifths of the time."""
    for splits in range(1, max(1, min(row_tiles_, target.num_cores)) + 1):
        rounds = -(-heads * splits // target.num_cores)
        if heads * splits >= 0.8 * rounds * target.num_cores:
            break
    return splits


def build(spec: AttentionSpec, plan: AttentionPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: q, k, v, the mask if there is one, y, workspace. An epilogue may read nothing else."""
    return _Attention(spec, plan, epilogue).build()


class _Attention:
    def __init__(self, spec: AttentionSpec, plan: AttentionPlan, epilogue: Epilogue | None) -> None:
        self.spec, self.plan, self.tile, self.epilogue = spec, plan, plan.tile, epilogue
        self.kb = KernelBuilder()
        self.queries, self.keys = known(spec.queries), known(spec.keys)
        lengths = (self.queries, self.keys, self.keys, self.queries)
        heads = (spec.heads, spec.key_heads, spec.key_heads, spec.heads)
        sizes = (spec.size, spec.size, spec.value_size, spec.value_size)
        dtypes = (*("float32",) * 3, result_dtype(epilogue))
        self.params = [
            buffer(name, (spec.batch, n, h, d) if layout == BSHD else (spec.batch, h, n, d), dtype)
            for name, layout, n, h, d, dtype in zip("qkvy", spec.layouts, lengths, heads, sizes, dtypes, strict=True)
        ]
        self.q, self.k, self.v, self.y = (
            Matrix(self.kb.flat(param), h, known(n), d, layout == BSHD)
            for param, layout, n, h, d in zip(self.params, spec.layouts, lengths, heads, sizes, strict=True)
        )
        self.one_block = isinstance(self.keys, int) and self.keys <= plan.block
        self.value_panels = ceildiv(spec.value_size, self.tile.panel)
        # Workspace of a task: packed keys, packed values, scores, sums. One vector between rows of scores keeps them
        # out of the same cache set.
        self.score_pitch = plan.block + self.tile.lanes
        self.sum_pitch = int(self.value_panels) * self.tile.panel
        keys_size = ceildiv(self.keys, self.tile.panel) * (self.tile.panel * spec.size)
        values_size = self.keys * self.sum_pitch if plan.packed else 0
        self.values_at = keys_size
        self.scores_at = keys_size + values_size
        self.sums_at = self.scores_at + self.tile.rows * self.score_pitch
        self.task_size = known(self.sums_at + (0 if self.one_block else self.tile.rows * self.sum_pitch))

    def build(self) -> Any:
        kb, spec, plan = self.kb, self.spec, self.plan
        workspace = buffer(WORKSPACE, (plan.tasks, self.task_size))
        self.work = kb.flat(workspace)
        params = self.params[:3]
        if spec.mask is not None:
            mask = buffer("mask", spec.mask, "float32" if spec.mask_value is None else "bool")
            self.mask = kb.flat(mask)
            params.append(mask)
        items = known(spec.batch * (spec.key_heads * plan.splits))
        with kb.loop(plan.tasks, "task", parallel=plan.tasks > 1) as task:
            base = kb.let(task * self.task_size, "base")
            first = kb.let(floordiv(task * items, plan.tasks), "first")
            with kb.loop(kb.let(floordiv((task + 1) * items, plan.tasks) - first, "count"), "item") as number:
                item = kb.let(first + number, "item")
                split = kb.let(floormod(item, plan.splits), "split")
                matrix = kb.let(floordiv(item, plan.splits), "matrix")
                batch = kb.let(floordiv(matrix, spec.key_heads), "batch")
                head = kb.let(floormod(matrix, spec.key_heads), "head")
                k, v = self.k.base(kb, batch, head), self.v.base(kb, batch, head)
                with kb.when(True if plan.splits == 1 else tirx.Or(tirx.EQ(split, i64(0)), tirx.EQ(number, i64(0)))):
                    pack_keys(kb, self.tile, self.k, k, self.work, base)
                    if plan.packed:
                        pack_values(kb, self.tile, self.v, v, self.work, base + self.values_at)
                group = spec.heads // spec.key_heads
                with kb.loop(group, "g") as g:
                    self.head(base, v, batch, kb.let(head * group + g, "query_head"), split)
        return kb.finish([*params, self.params[3], workspace])

    def head(self, base: Expr, v: Expr, batch: Expr, head: Expr, split: Expr) -> None:
        """A split of the rows of one query head."""
        kb, rows = self.kb, self.tile.rows
        q, y = self.q.base(kb, batch, head), self.y.base(kb, batch, head)
        per_split = ceildiv(maximum(floordiv(self.queries, rows), 1), self.plan.splits) * rows
        row_tiles(
            kb, rows, self.queries,
            lambda start, count: _Tile(self, base, q, v, y, batch, head, start, count).emit(),
            split, None if self.plan.splits == 1 else per_split,
        )  # fmt: skip


class _Tile:
    """`count` rows of one query head from row `start`; all other arguments are element offsets or indices."""

    def __init__(
        self, of: _Attention, base: Expr, q: Expr, v: Expr, y: Expr, batch: Expr, head: Expr, start: Dim, count: int
    ) -> None:
        self.of, self.kb, self.spec, self.tile = of, of.kb, of.spec, of.tile
        self.base, self.q, self.v, self.y = base, q, v, y
        self.batch, self.head, self.start, self.count = batch, head, start, count
        self.scores = self.kb.let(base + of.scores_at, "scores")
        self.sums = self.kb.let(base + of.sums_at, "sums")

    def emit(self) -> None:
        kb, of = self.kb, self.of
        self.high = kb.local(self.count, name="high")
        self.total = kb.local(self.count, name="total")
        self.weight = kb.local(self.count, name="weight")  # of what earlier blocks gave, at last of the result
        if of.one_block:
            self.block(i64(0), self.seen())
            return
        with kb.loop(self.count, "r") as r:
            kb.store(self.high, r, splat(LOWEST, 1))
            kb.store(self.total, r, splat(0.0, 1))
        kb.zero(of.work, self.sums, self.count * of.sum_pitch)
        seen = kb.let(self.seen(), "seen")
        with kb.loop(kb.let(ceildiv(seen, of.plan.block), "blocks"), "block") as number:
            first = kb.let(number * of.plan.block, "first")
            self.block(first, kb.let(minimum(of.plan.block, seen - first), "length"))
        with kb.loop(self.count, "r") as r:
            kb.store(self.weight, r, splat(1.0, 1) / kb.load(self.total, r))
            for start, lanes in pieces(self.spec.value_size, self.tile.lanes):
                value = kb.load(of.work, self.sums + (r * of.sum_pitch + start), lanes)
                at = self.y + (self.start + r) * of.y.pitch + start
                value = value * splat(kb.load(self.weight, r), lanes)
                store_lanes(kb, of.y.view, at, value, lanes, lanes, of.epilogue, [i64(start)])

    def seen(self) -> Dim:
        """How many keys at least one row sees."""
        of = self.of
        if not self.spec.causal:
            return of.keys
        return maximum(minimum(of.keys, self.start + self.count + (of.keys - of.queries)), 0)

    def block(self, first: Dim, length: Dim) -> None:
        """`length` keys from key `first`, which starts a panel."""
        kb, of = self.kb, self.of
        size, panel = self.spec.size, self.tile.panel
        tile = RegisterTile(self.count, self.tile.vectors, self.tile.lanes)
        queries = Rows(self.q + self.start * of.q.pitch, [i * of.q.pitch for i in range(self.count)])
        with kb.loop(kb.let(ceildiv(length, panel), "panels"), "p") as p:
            at = kb.let(self.scores + p * panel, "at")
            keys = Panels(of.work, kb.let(self.base + (first + p * panel) * size, "keys"), panel)

            def put(i: int, j: int, value: Expr) -> None:
                offset = at + (i * of.score_pitch + j * self.tile.lanes)
                kb.store(of.work, offset, value, self.tile.lanes)

            register_tile(kb, tile, of.q.view, queries, Run((), size), keys, put)
        with kb.loop(self.count, "r") as r:
            ScoreRow(self, r, first, length).softmax()
        rows = Rows(self.scores, [i * of.score_pitch for i in range(self.count)])
        whole = self.spec.value_size // panel
        with kb.loop(whole, "p") as p:
            self.values(tile, rows, first, length, p, panel)
        if self.spec.value_size % panel:
            self.values(tile, rows, first, length, i64(whole), self.spec.value_size % panel)

    def values(self, tile: RegisterTile, rows: Rows, first: Dim, length: Dim, panel: Expr, columns: int) -> None:
        """The product with panel number `panel` of the values, of which `columns` exist."""
        kb, of, lanes = self.kb, self.of, self.tile.lanes
        if of.plan.packed:
            at = self.base + of.values_at + (panel * of.keys + first) * tile.panel
            panels = Panels(of.work, kb.let(at, "values"), tile.panel)
        else:
            at = self.v + first * of.v.pitch + panel * tile.panel
            panels = Panels(of.v.view, kb.let(at, "values"), of.v.pitch)

        def put(i: int, j: int, value: Expr) -> None:
            weight = splat(kb.load(self.weight, i), lanes)
            column = panel * tile.panel + j * lanes
            if of.one_block:
                count = max(0, min(lanes, columns - j * lanes))
                at = self.y + (self.start + i) * of.y.pitch + column
                store_lanes(kb, of.y.view, at, value * weight, count, lanes, of.epilogue, [i64(column)])
            else:
                offset = self.sums + i * of.sum_pitch + column
                kb.store(of.work, offset, kb.load(of.work, offset, lanes) * weight + value, lanes)

        register_tile(kb, tile, of.work, rows, Run((), length), panels, put)


class ScoreRow:
    """Row `r` of a tile in a block: scores become exponentials, and the row's maximum, sum and weight follow.

    `tile` is a _Tile, or has what is used of one here.
    """

    def __init__(self, tile: Any, r: Expr, first: Dim, length: Dim) -> None:
        self.parent, self.kb, self.spec, self.lanes = tile, tile.kb, tile.spec, tile.tile.lanes
        self.r, self.first, self.length = r, first, length
        self.view = tile.of.work
        self.at = self.kb.let(tile.scores + r * tile.of.score_pitch, "at")
        self.row = self.kb.let(tile.start + r, "row")

    def softmax(self) -> None:
        kb, lanes, tile = self.kb, self.lanes, self.parent
        best, sums = kb.local(lanes, name="best"), kb.local(lanes, name="sums")
        kb.store(best, 0, splat(LOWEST, lanes), lanes)
        kb.store(sums, 0, splat(0.0, lanes), lanes)
        whole = known(kb.let(floordiv(self.length, lanes), "whole"))
        rest = known(kb.let(self.length - whole * lanes, "rest"))
        mask = self.mask_offset()

        def finish(column: Expr, mask_load: Any, rest: Dim | None) -> None:
            score = kb.local(lanes, name="score")
            kb.store(score, 0, self.masked(column, mask_load, rest), lanes)
            value = kb.load(score, 0, lanes)
            kb.store(self.view, self.at + column, value, lanes)
            kb.store(best, 0, _larger(kb.load(best, 0, lanes), value), lanes)

        with kb.loop(whole, "c") as c:
            column = kb.let(c * lanes, "column")
            finish(column, None if mask is None else self.mask_vector(mask, column), None)
        with kb.when(rest > 0):
            column = kb.let(whole * lanes, "column")
            finish(column, None if mask is None else self.mask_rest(mask, column, rest), rest)
        kb.store(best, 0, fold_local(kb, best, lanes, _larger))
        high = kb.load(best, 0)
        if not tile.of.one_block:
            before = kb.load(tile.high, self.r)
            kb.store(best, 0, _larger(before, high))
            kb.store(tile.weight, self.r, vmath.exp_of_negative(before - high))
            kb.store(tile.high, self.r, high)
        with kb.loop(kb.let(ceildiv(self.length, lanes), "vectors"), "c") as c:
            column = kb.let(c * lanes, "column")
            power = vmath.exp_of_negative(kb.load(self.view, self.at + column, lanes) - splat(high, lanes))
            kb.store(self.view, self.at + column, power, lanes)
            kb.store(sums, 0, kb.load(sums, 0, lanes) + kb.load(self.view, self.at + column, lanes), lanes)
        total = fold_local(kb, sums, lanes, lambda a, b: a + b)
        if tile.of.one_block:
            kb.store(tile.weight, self.r, splat(1.0, 1) / total)
        else:
            kb.store(tile.total, self.r, kb.load(tile.total, self.r) * kb.load(tile.weight, self.r) + total)

    def masked(self, column: Expr, mask: Expr | None, rest: Dim | None) -> Expr:
        """The scores from `column`, of which `rest` exist (None: all), scaled and masked."""
        value = self.kb.load(self.view, self.at + column, self.lanes)
        if self.spec.scale != 1.0:
            value = value * splat(self.spec.scale, self.lanes)
        if mask is not None and self.spec.mask_value is not None:
            value = tirx.Select(mask, value, splat(self.spec.mask_value, self.lanes))
        elif mask is not None:
            value = value + mask
        hidden = splat(float("-inf"), self.lanes)
        if self.spec.causal:
            of = self.parent.of
            last = self.row + (of.keys - of.queries) - self.first - column
            value = tirx.Select(self.lane_numbers() <= self.int32(last), value, hidden)
        elif rest is not None:
            value = tirx.Select(self.lane_numbers() < self.int32(rest), value, hidden)
        return value

    def lane_numbers(self) -> Expr:
        return tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), self.lanes)

    def int32(self, value: Dim) -> Expr:
        return tirx.Broadcast(tirx.Cast("int32", i64(value)), self.lanes)

    def mask_offset(self) -> Expr | None:
        """The mask's element for this row and the block's first key."""
        if self.spec.mask is None:
            return None
        offset: Dim = i64(0)
        for dim, index in zip(self.spec.mask, (self.parent.batch, self.parent.head, self.row, self.first), strict=True):
            offset = offset * known(dim) + (0 if static(dim) == 1 else index)
        return self.kb.let(offset, "mask_at")

    def mask_vector(self, offset: Expr, column: Expr) -> Expr:
        assert self.spec.mask is not None
        if static(self.spec.mask[-1]) == 1:
            value = self.kb.load(self.parent.of.mask, offset)
            return value if self.lanes == 1 else tirx.Broadcast(value, self.lanes)
        return self.kb.load(self.parent.of.mask, offset + column, self.lanes)

    def mask_rest(self, offset: Expr, column: Expr, rest: Dim) -> Expr:
        """The last `rest` elements of the mask's row in a vector, read without leaving the buffer."""
        assert self.spec.mask is not None
        if static(self.spec.mask[-1]) == 1:
            return self.mask_vector(offset, column)
        source = self.parent.of.mask
        part = self.kb.local(self.lanes, str(source.dtype), name="mask_part")
        self.kb.zero(part, 0, self.lanes)
        self.kb.copy(part, 0, source, offset + column, rest)
        return self.kb.load(part, 0, self.lanes)


def _larger(a: Expr, b: Expr) -> Expr:
    return tirx.Select(b > a, b, a)
