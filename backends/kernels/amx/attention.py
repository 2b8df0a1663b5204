"""Fused attention of bfloat16 on AMX tiles: `y = softmax(scale * q k^T + mask) v` for each batch and head.

Both products run on tiles, 32 queries at a time; their scores for all keys stay in cache as float32, are made
exponentials there (../attention.py) and, rounded to bfloat16, multiply the values. The sum that divides them is that
before rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from ....compiler.errors import UnsupportedError
from ...isa import amx
from ...isa.amx import BF16, COLUMNS, ROW_BYTES, ROWS
from ...target import Target
from ..attention import BSHD, TASKS_PER_CORE, AttentionSpec, ScoreRow
from ..attention_pack import Matrix, transposed
from ..builder import (
    FEATURES,
    WORKSPACE,
    Dim,
    Epilogue,
    Expr,
    KernelBuilder,
    address,
    buffer,
    ceildiv,
    floordiv,
    floormod,
    i64,
    known,
    maximum,
    minimum,
    result_dtype,
    splat,
    static,
)
from ..exprs import f32_to_bf16
from ..matmul import PARALLEL_MACS
from ..tile import RegisterTile, store_lanes

STEP = BF16.depth
"""Elements of k that a tile takes; keys come in so many, two tiles of columns."""
TILE = STEP * COLUMNS
"""Elements of a tile of B."""
HALVES = 2
"""Tiles of queries, and of columns, that are computed together."""


@dataclass(frozen=True)
class AttentionPlan:
    """`tasks` parallel tasks (1: none)."""

    tasks: int


def applies(spec: AttentionSpec, target: Target) -> bool:
    """Whether there are plans: tiles, and heads of whole tiles."""
    return BF16.runs_on(target) and spec.size % STEP == 0 and spec.value_size % STEP == 0


def plans(spec: AttentionSpec, target: Target) -> Iterator[AttentionPlan]:
    """Legal plans, the best guess first. Raises UnsupportedError where none `applies`."""
    if not applies(spec, target):
        raise UnsupportedError("no AMX kernel for this attention", found=spec)
    parallel = target.num_cores > 1 and spec.macs >= PARALLEL_MACS
    tasks = TASKS_PER_CORE * target.num_cores if parallel else 1
    if static(spec.batch) is not None:
        tasks = min(tasks, int(spec.batch) * spec.key_heads)
    yield AttentionPlan(max(1, tasks))


def build(spec: AttentionSpec, plan: AttentionPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: q, k, v, the mask if there is one, y, workspace. An epilogue may read nothing else."""
    return _Attention(spec, plan, epilogue).build()


@dataclass(frozen=True)
class _Scores:
    """The scores of a tile of queries, as ScoreRow reads them."""

    kb: KernelBuilder
    spec: AttentionSpec
    of: _Attention
    batch: Expr
    head: Expr
    scores: Expr
    start: Expr
    weight: Any

    @property
    def tile(self) -> RegisterTile:
        return RegisterTile(ROWS, 1, COLUMNS)


class _Attention:
    """One kernel under construction. The workspace of a task, in float32: scores, keys, values, rounded scores."""

    def __init__(self, spec: AttentionSpec, plan: AttentionPlan, epilogue: Epilogue | None) -> None:
        self.spec, self.plan, self.epilogue = spec, plan, epilogue
        self.kb = KernelBuilder()
        self.queries, self.keys = known(spec.queries), known(spec.keys)
        lengths = (self.queries, self.keys, self.keys, self.queries)
        heads = (spec.heads, spec.key_heads, spec.key_heads, spec.heads)
        sizes = (spec.size, spec.size, spec.value_size, spec.value_size)
        dtypes = (*(BF16.a,) * 3, result_dtype(epilogue))
        self.params = [
            buffer(name, (spec.batch, n, h, d) if layout == BSHD else (spec.batch, h, n, d), dtype)
            for name, layout, n, h, d, dtype in zip("qkvy", spec.layouts, lengths, heads, sizes, dtypes, strict=True)
        ]
        self.q, self.k, self.v, self.y = (
            Matrix(self.kb.flat(param), h, n, d, layout == BSHD)
            for param, layout, n, h, d in zip(self.params, spec.layouts, lengths, heads, sizes, strict=True)
        )
        self.one_block = True
        self.steps = ceildiv(self.keys, STEP)
        self.score_pitch = known(self.steps * STEP + COLUMNS)
        self.power_pitch = known(self.steps * STEP + STEP)
        rows = HALVES * ROWS
        self.keys_at = known(rows * self.score_pitch)  # here and below in float32
        self.values_at = known(self.keys_at + self.steps * (STEP * spec.size // 2))
        self.powers_at = known(self.values_at + self.steps * (STEP * spec.value_size // 2))
        self.task_size = known(self.powers_at + rows * self.power_pitch // 2)

    def build(self) -> Any:
        kb, spec, plan = self.kb, self.spec, self.plan
        workspace = buffer(WORKSPACE, (plan.tasks, self.task_size))
        self.work = kb.flat(workspace)
        size = i64(known(plan.tasks * self.task_size * 2))
        self.short = tirx.decl_buffer([size], BF16.a, name="short", data=workspace.data)
        kb.emit(tirx.DeclBuffer(self.short, data=workspace.data))
        params = self.params[:3]
        if spec.mask is not None:
            mask = buffer("mask", spec.mask, "float32" if spec.mask_value is None else "bool")
            self.mask = kb.flat(mask)
            params.append(mask)
        items = known(spec.batch * spec.key_heads)
        group = spec.heads // spec.key_heads
        with kb.loop(plan.tasks, "task", parallel=plan.tasks > 1) as task:
            base = kb.let(task * self.task_size, "base")
            self._configure()
            with kb.share(task, plan.tasks, items) as item:
                batch = kb.let(floordiv(item, spec.key_heads), "batch")
                head = kb.let(floormod(item, spec.key_heads), "head")
                self._pack_keys(self.k.base(kb, batch, head), kb.let((base + self.keys_at) * 2, "keys"))
                self._pack_values(self.v.base(kb, batch, head), kb.let((base + self.values_at) * 2, "values"))
                with kb.loop(group, "g") as g, kb.loop(ceildiv(self.queries, HALVES * ROWS), "block") as block:
                    self._block(base, batch, kb.let(head * group + g, "query_head"), block * (HALVES * ROWS))
            kb.emit(amx.release())
        func = kb.finish([*params, self.params[3], workspace])
        return func.with_attr(FEATURES, " ".join(BF16.features))

    def _configure(self) -> None:
        """Registers 0 to 3: sums, 4 and 5: rows of A, 6 and 7: B."""
        kb = self.kb
        self.tile_rows = kb.let(minimum(self.queries, ROWS), "tile_rows")
        shapes = {r: (ROWS if r >= 6 else self.tile_rows, ROW_BYTES) for r in range(8)}
        config = kb.local(amx.CONFIG_BYTES, "uint8", "config")
        kb.zero(config, 0, amx.CONFIG_BYTES)
        for offset, value in amx.config_bytes(shapes).items():
            kb.store(config, offset, tirx.Cast("uint8", i64(value)))
        kb.emit(amx.configure(address(config, 0)))

    def _pack_keys(self, base: Expr, at: Expr) -> None:
        """Keys to [16 keys][step of the size][pair of elements][key][2]; the last key stands for those beyond."""
        kb, k = self.kb, self.k
        with kb.loop(self.steps * HALVES, "group") as group:
            rows = [kb.let(base + minimum(group * ROWS + i, k.rows - 1) * k.pitch, "row") for i in range(ROWS)]
            for step in range(k.size // STEP):
                block = kb.local(ROWS * COLUMNS, name="block")
                for i, row in enumerate(rows):
                    pairs = tirx.reinterpret(f"float32x{COLUMNS}", kb.load(k.view, row + step * STEP, STEP))
                    kb.store(block, i * COLUMNS, pairs, COLUMNS)
                block = transposed(kb, block, COLUMNS)
                for i in range(ROWS):
                    to = at + (group * (k.size // STEP) + step) * TILE + i * STEP
                    pairs = tirx.reinterpret(f"{BF16.a}x{STEP}", kb.load(block, i * COLUMNS, COLUMNS))
                    kb.store(self.short, to, pairs, STEP)

    def _pack_values(self, base: Expr, at: Expr) -> None:
        """Values to [16 columns][32 keys][pair of keys][column][2]; the last key stands for those beyond."""
        kb, v = self.kb, self.v
        order = [tirx.IntImm("int32", half * COLUMNS + c) for c in range(COLUMNS) for half in range(2)]
        with kb.loop(self.steps * ROWS, "pair") as pair:
            rows = [kb.let(base + minimum(pair * 2 + i, v.rows - 1) * v.pitch, "row") for i in range(2)]
            for column in range(v.size // COLUMNS):
                two = [kb.load(v.view, row + column * COLUMNS, COLUMNS) for row in rows]
                to = at + (i64(column) * self.steps * ROWS + pair) * STEP
                kb.store(self.short, to, tirx.Shuffle(two, order), STEP)

    def _block(self, base: Expr, batch: Expr, head: Expr, first: Expr) -> None:
        """32 queries of one head from row `first`; where they are no multiple of 16, tiles overlap."""
        kb, spec = self.kb, self.spec
        last = maximum(self.queries - ROWS, 0)
        starts = [kb.let(minimum(first + i * ROWS, last), "start") for i in range(HALVES)]
        q = self.q.base(kb, batch, head)
        rows = [kb.let(q + start * self.q.pitch, "q") for start in starts]
        keys, values = (kb.let((base + at) * 2, "b") for at in (self.keys_at, self.values_at))
        depth = spec.size // STEP
        with kb.loop(self.steps, "pair") as pair:
            group = kb.let(keys + pair * (HALVES * depth * TILE), "group")
            self._multiply(self.q.view, rows, self.q.pitch, [group, group + depth * TILE], depth)
            self._keep(kb.let(base + pair * STEP, "at"), self.score_pitch)
        powers = kb.let((base + self.powers_at) * 2, "powers")
        weights = [kb.local(ROWS, name="weight") for _ in range(HALVES)]
        for half, start in enumerate(starts):
            scores = kb.let(base + half * ROWS * self.score_pitch, "scores")
            tile = _Scores(kb, spec, self, batch, head, scores, start, weights[half])
            with kb.loop(self.tile_rows, "r") as r:
                ScoreRow(tile, r, i64(0), self._seen(start)).softmax()
                self._round(scores + r * self.score_pitch, powers + (half * ROWS + r) * self.power_pitch, start)
        y = self.y.base(kb, batch, head)
        taken = [powers + half * ROWS * self.power_pitch for half in range(HALVES)]
        with kb.loop(spec.value_size // STEP, "columns") as pair:
            group = kb.let(values + pair * (HALVES * self.steps * TILE), "group")
            self._multiply(self.short, taken, self.power_pitch, [group, group + self.steps * TILE], self.steps)
            self._keep(base, STEP)  # the scores are of no more use
            for half, start in enumerate(starts):
                with kb.loop(self.tile_rows, "r") as r:
                    weight = kb.load(weights[half], r)
                    at = y + (start + r) * self.y.pitch + pair * STEP
                    for j in range(0, STEP, COLUMNS):
                        value = kb.load(self.work, base + (r + half * ROWS) * STEP + j, COLUMNS)
                        value = value * splat(weight, COLUMNS)
                        column = [i64(pair * STEP + j)]
                        store_lanes(kb, self.y.view, at + j, value, COLUMNS, COLUMNS, self.epilogue, column)

    def _seen(self, start: Expr) -> Dim:
        """How many keys at least one row of a tile sees."""
        if not self.spec.causal:
            return self.keys
        return maximum(minimum(self.keys, start + ROWS + (self.keys - self.queries)), 0)

    def _round(self, scores: Expr, to: Expr, start: Expr) -> None:
        """Exponentials in float32 to bfloat16, zeros beyond those that exist."""
        kb = self.kb
        done = kb.let(ceildiv(self._seen(start), COLUMNS), "done")
        with kb.loop(done, "v") as v:
            value = kb.load(self.work, scores + v * COLUMNS, COLUMNS)
            kb.store(self.short, to + v * COLUMNS, f32_to_bf16(value), COLUMNS)
        with kb.loop(self.steps * HALVES - done, "v") as v:
            kb.store(self.short, to + (done + v) * COLUMNS, splat(tirx.IntImm(BF16.a, 0), COLUMNS), COLUMNS)

    def _multiply(self, a: Expr, rows: Sequence[Expr], pitch: Dim, groups: Sequence[Expr], steps: Dim) -> None:
        """Sums of two tiles of rows by two of columns over `steps`, left in registers 0 to 3."""
        kb = self.kb
        for register in range(4):
            kb.emit(amx.zero(register))
        with kb.loop(steps, "k") as k:
            for j, group in enumerate(groups):
                kb.emit(amx.load(6 + j, address(self.short, group + k * TILE), i64(ROW_BYTES)))
            for i, row in enumerate(rows):
                kb.emit(amx.load(4 + i, address(a, row + k * STEP), i64(pitch) * BF16.itemsize))
            for i in range(HALVES):
                for j in range(HALVES):
                    kb.emit(amx.dot(BF16, i * HALVES + j, 4 + i, 6 + j))

    def _keep(self, at: Expr, pitch: Dim) -> None:
        """Stores the sums at `at`, rows `pitch` apart."""
        for i in range(HALVES):
            for j in range(HALVES):
                to = address(self.work, at + i * ROWS * pitch + j * COLUMNS)
                self.kb.emit(amx.store(i * HALVES + j, to, i64(pitch) * 4))
