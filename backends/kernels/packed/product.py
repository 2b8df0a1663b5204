"""Matrix products with a constant B of codes: `y[m, n] = Σ_k a[m, k] * (value(code[k, n]) - zero[b, n]) * scale[b, n]`
with b = k // block.

Few rows are bound by the memory that holds B: codes are read once, decoded in registers and multiplied there; the sum
over a block is scaled once. For many rows a panel of B is decoded into scratch memory, and float32 register tiles run
over it as they do in a plain product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx

from ...target import Target
from ..builder import (
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
    product,
    result_dtype,
    splat,
    static,
)
from ..exprs import bf16_to_f32, cast_raw
from ..matmul import PARALLEL_MACS, guess
from ..tile import Output, Panels, RegisterTile, Rows, Run, row_tiles, store_lanes, tile_to_output
from .codes import CodeLayout, Decoder, prefers_table

FEW_ROWS = 16
"""Up to so many rows are multiplied with codes decoded in registers."""
_DIRECT_ROWS = 4
"""Rows that share a decoded vector there."""


@dataclass(frozen=True)
class PackedSpec:
    """One product. a is `rows + (k,)`, whose rows are ints or int64 expressions. `block` k share a scale (`k` or more:
    all of them). `codebook`: codes are places in a table the caller gives, else signed numbers. `scale` is the dtype
    in memory, "float32" or "bfloat16", `zero` likewise "float32", "int8" or None where there are no zero points."""

    rows: tuple[Dim, ...]
    n: int
    k: int
    bits: int
    block: int
    codebook: bool = False
    scale: str = "float32"
    zero: str | None = None

    @property
    def blocks(self) -> int:
        return -(-self.k // self.block)

    @property
    def m(self) -> Dim:
        """All rows."""
        return product(self.rows)


@dataclass(frozen=True)
class PackedPlan:
    """`tile` is what runs over decoded panels, and says how wide panels are. The work is cut into `groups` of panels
    times `blocks` of rows, each a task. `tabled`: codes in memory are places in a table."""

    tile: RegisterTile
    groups: int
    blocks: int
    parallel: bool
    tabled: bool

    @property
    def tasks(self) -> int:
        return self.groups * self.blocks


def plans(spec: PackedSpec, target: Target) -> Iterator[PackedPlan]:
    """Legal plans, the best guess first."""
    tabled = spec.codebook or prefers_table(spec.bits, target)
    rows, macs = guess(known(spec.m)), guess(known(spec.m)) * spec.n * spec.k
    parallel = macs >= PARALLEL_MACS and target.num_cores > 1
    widest = 4 if target.registers >= 32 else 2
    for vectors in range(min(widest, -(-spec.n // target.lanes)), 0, -1):
        most = (target.registers - vectors - 1) // vectors
        tile = RegisterTile(-(-rows // -(-rows // most)), vectors, target.lanes)
        panels = -(-spec.n // tile.panel)
        per_group = -(-panels // target.num_cores) if parallel else panels
        groups = -(-panels // per_group)
        blocks = min(-(-target.num_cores // groups), -(-rows // tile.rows)) if parallel else 1
        yield PackedPlan(tile, groups, blocks, parallel, tabled)


def pack(
    spec: PackedSpec,
    plan: PackedPlan,
    codes: np.ndarray,
    scales: np.ndarray,
    codebook: np.ndarray | None,
    zeros: np.ndarray | None,
) -> list[np.ndarray]:
    """The constant params behind `a`, in order. Shapes: codes [k, n], a byte each; scales and zeros [blocks, n]."""
    layout, panel = _layout(spec, plan), plan.tile.panel
    half = 1 << (spec.bits - 1)
    if plan.tabled and not spec.codebook:
        codes = (codes.astype(np.int16) + half).astype(np.uint8)
        codebook = np.arange(-half, half, dtype=np.float32)
    arrays = [layout.pack(_panels(codes, panel)), _panels(scales, panel)]
    if spec.scale == "bfloat16":
        arrays[1] = arrays[1].view(np.uint16)
    if plan.tabled:
        assert codebook is not None
        arrays.append(layout.pad_table(codebook))
    if zeros is not None:
        arrays.append(_panels(zeros, panel))
    return arrays


def _panels(matrix: np.ndarray, panel: int) -> np.ndarray:
    """[rows, n] as [panels, rows, panel], zero beyond n."""
    rows, n = matrix.shape
    panels = -(-n // panel)
    padded = np.zeros((rows, panels * panel), matrix.dtype)
    padded[:, :n] = matrix
    return np.ascontiguousarray(padded.reshape(rows, panels, panel).transpose(1, 0, 2))


def _layout(spec: PackedSpec, plan: PackedPlan) -> CodeLayout:
    """Places in a table too large for permutations are bytes: taking them apart costs more than reading them."""
    layout = CodeLayout(8 if plan.tabled and spec.bits > 4 else spec.bits, plan.tabled)
    if spec.blocks > 1 and spec.block % layout.unit:
        raise ValueError(f"blocks of {spec.block} codes of {spec.bits} bits do not fill words")
    return layout


def takes(bits: int, block: int, k: int) -> bool:
    """Whether there is a kernel for blocks of this size."""
    return block >= k or block % CodeLayout(bits, False).unit == 0


def build(spec: PackedSpec, plan: PackedPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: a, the arrays of `pack`, the epilogue's buffers, y, the workspace if panels are decoded."""
    layout, panel = _layout(spec, plan), plan.tile.panel
    panels = -(-spec.n // panel)
    kb = KernelBuilder()
    a, y = buffer("a", (*spec.rows, spec.k)), buffer("y", (*spec.rows, spec.n), result_dtype(epilogue))
    codes = buffer("codes", (panels, layout.packed_rows(spec.k), panel), layout.dtype)
    scales = buffer("scales", (panels, spec.blocks, panel), "uint16" if spec.scale == "bfloat16" else spec.scale)
    table = buffer("table", (layout.table_size,)) if plan.tabled else None
    zeros = buffer("zeros", (panels, spec.blocks, panel), spec.zero) if spec.zero else None
    params = [p for p in (a, codes, scales, table, zeros) if p is not None]
    params += [*(epilogue.buffers if epilogue else ()), y]
    decoder = Decoder(kb, layout, kb.flat(codes), kb.flat(table) if table is not None else None, plan.tile.lanes)
    output = Output(kb.flat(y), spec.n, epilogue, spec.n)
    zero_view = kb.flat(zeros) if zeros is not None else None
    emitter = _Emitter(kb, spec, plan, kb.flat(a), decoder, kb.flat(scales), zero_view, output)
    few = static(known(spec.m))
    if few is not None and few <= FEW_ROWS:
        emitter.tasks(replace(plan, blocks=1), emitter.direct)
        return kb.finish(params)
    workspace = buffer(WORKSPACE, (plan.tasks, spec.k, panel))
    scratch = kb.flat(workspace)

    def either(task: Expr, block: Expr, number: Expr) -> None:
        def many() -> None:
            emitter.decoded(scratch, task, block, number)

        def once() -> None:
            with kb.when(tirx.EQ(block, i64(0)) if plan.blocks > 1 else True):
                emitter.direct(task, block, number)

        kb.branch(spec.m <= FEW_ROWS if few is None else False, once, many)

    emitter.tasks(plan, either)
    return kb.finish([*params, workspace])


@dataclass(frozen=True)
class _Emitter:
    """The loops of one kernel. `scales` and `zeros` are flat views, [panel][block][column] as `pack` laid them."""

    kb: KernelBuilder
    spec: PackedSpec
    plan: PackedPlan
    a: Expr
    decoder: Decoder
    scales: Any
    zeros: Any | None
    output: Output

    def tasks(self, plan: PackedPlan, work: Callable[[Expr, Expr, Expr], None]) -> None:
        """`work(task, block of rows, panel)` for all of them."""
        kb, panels = self.kb, -(-self.spec.n // plan.tile.panel)
        per_group = -(-panels // plan.groups)
        with kb.loop(plan.tasks, "task", parallel=plan.parallel) as task:
            group, block = kb.let(floormod(task, plan.groups), "group"), kb.let(floordiv(task, plan.groups), "block")
            mine = known(minimum(per_group, panels - group * per_group)) if plan.groups > 1 else panels
            with kb.loop(mine, "p") as p:
                work(task, block, kb.let(group * per_group + p, "panel"))

    # --- few rows ------------------------------------------------------------------------------------------------

    def direct(self, task: Expr, block: Expr, number: Expr) -> None:
        """All rows times one panel."""
        kb, rows = self.kb, known(self.spec.m)
        done: Dim = 0
        for size in (_DIRECT_ROWS, 2, 1):
            count = kb.let(floordiv(rows - done, size), "count")
            with kb.loop(count, "t") as t:
                self._direct_tile(number, kb.let(done + t * size, "row"), size)
            done = kb.let(done + count * size, "done")

    def _direct_tile(self, number: Expr, start: Dim, count: int) -> None:
        kb, tile = self.kb, replace(self.plan.tile, rows=count)
        places = [(i, j, (i * tile.vectors + j) * tile.lanes) for i in range(count) for j in range(tile.vectors)]
        total, part = kb.local(count * tile.panel, name="total"), kb.local(count * tile.panel, name="part")

        def clear(sums: Any) -> None:
            for *_, at in places:
                kb.store(sums, at, splat(0.0, tile.lanes), tile.lanes)

        def step(k: Dim, _b: Dim, columns: Sequence[Expr]) -> None:
            for i, j, at in places:
                element = splat(kb.load(self.a, (start + i) * self.spec.k + k), tile.lanes)
                kb.store(part, at, kb.load(part, at, tile.lanes) + element * columns[j], tile.lanes)

        def block(b: Dim, length: int) -> None:
            clear(part)
            self._walk(number, b, length, step)
            for _, j, at in places:
                scaled = kb.load(part, at, tile.lanes) * self._scale(number, b, j)
                kb.store(total, at, kb.load(total, at, tile.lanes) + scaled, tile.lanes)

        clear(total)
        self._blocks(block)
        sums = kb.local(count * tile.panel, name="sums")
        for *_, at in places:
            kb.store(sums, at, kb.load(total, at, tile.lanes), tile.lanes)
        self._put(tile, number, start, sums)

    def _put(self, tile: RegisterTile, number: Expr, start: Dim, sums: Any) -> None:
        """Stores a tile that lies on the stack, so that the epilogue is written once; of the last panel the columns
        that exist."""
        kb, n, lanes = self.kb, self.spec.n, tile.lanes
        last = (n - 1) // tile.panel

        def put(i: Dim, j: Dim, count: int) -> None:
            row, column = start + i, number * tile.panel + j * lanes
            value = kb.load(sums, (i * tile.vectors + j) * lanes, lanes)
            index = [*self._index(row), column]
            store_lanes(kb, self.output.view, row * n + column, value, count, lanes, self.output.epilogue, index)

        def store(columns: int) -> None:
            whole, rest = divmod(columns, lanes)
            with kb.loop(tile.rows, "i") as i:
                with kb.loop(whole, "j") as j:
                    put(i, j, lanes)
                if rest:
                    put(i, whole, rest)

        rest = n - last * tile.panel
        is_last = tirx.EQ(number, i64(last)) if rest < tile.panel and last else rest < tile.panel
        kb.branch(is_last, lambda: store(rest), lambda: store(tile.panel))

    def _index(self, row: Dim) -> list[Expr]:
        """The row as the epilogue counts it."""
        if self.output.epilogue is None or self.output.epilogue.flat:
            return [row]
        index: list[Expr] = []
        for dim in reversed(self.spec.rows):
            index.insert(0, self.kb.let(floormod(row, known(dim)), "index"))
            row = floordiv(row, known(dim))
        return index

    # --- many rows -----------------------------------------------------------------------------------------------

    def decoded(self, scratch: Any, task: Expr, block: Expr, number: Expr) -> None:
        """A block of rows times one panel, which is decoded first; nothing where there are fewer blocks."""
        kb, spec, tile = self.kb, self.spec, self.plan.tile
        base = kb.let(task * (spec.k * tile.panel), "base")
        m = known(spec.m)
        tiles = maximum(floordiv(m, tile.rows), 1)
        per_block = ceildiv(tiles, self.plan.blocks)

        def keep(k: Dim, b: Dim, columns: Sequence[Expr]) -> None:
            for j, column in enumerate(columns):
                at = base + (k * tile.panel + j * tile.lanes)
                kb.store(scratch, at, column * self._scale(number, b, j), tile.lanes)

        def rows(start: Dim, count: int) -> None:
            out_rows = [start + i for i in range(count)]
            where = Rows(start * spec.k, [i * spec.k for i in range(count)])
            tile_to_output(
                kb, replace(tile, rows=count), self.a, where, Run((), spec.k), Panels(scratch, base, tile.panel),
                number, self.output, out_rows, lambda i: self._index(start + i),
            )  # fmt: skip

        with kb.when(block * per_block < tiles if self.plan.blocks > 1 else True):
            self._blocks(lambda b, length: self._walk(number, b, length, keep))
            row_tiles(kb, tile.rows, m, rows, block, per_block * tile.rows if self.plan.blocks > 1 else None)

    # --- both ----------------------------------------------------------------------------------------------------

    def _blocks(self, visit: Callable[[Dim, int], None]) -> None:
        """`visit(block, its length)` for every block along k; the last one may be shorter."""
        full, rest = divmod(self.spec.k, self.spec.block)
        with self.kb.loop(full, "b") as b:
            visit(b, self.spec.block)
        if rest:
            visit(i64(full), rest)

    def _walk(self, number: Expr, b: Dim, length: int, step: Callable[[Dim, Dim, Sequence[Expr]], None]) -> None:
        """`step(k, b, W[k] of the panel, not yet scaled)` for the k of block b."""
        kb, tile, layout = self.kb, self.plan.tile, self.decoder.layout
        units, rest = divmod(length, layout.unit)
        before = b * (self.spec.block // layout.unit) if self.spec.blocks > 1 else i64(0)
        panel_rows = layout.packed_rows(self.spec.k)

        def unit(u: Dim, count: int) -> None:
            u = kb.let(before + u, "unit")
            at = kb.let((number * panel_rows + u * layout.rows) * tile.panel, "at")
            for i, columns in enumerate(self.decoder.unit(at, tile.panel, tile.vectors, count)):
                shifted = [self._from_zero(c, number, b, j) for j, c in enumerate(columns)]
                step(u * layout.unit + i, b, shifted)

        with kb.loop(units, "u") as u:
            unit(u, layout.unit)
        if rest:
            unit(i64(units), rest)

    def _scale(self, number: Expr, b: Dim, j: int) -> Expr:
        value = self._of_block(self.scales, number, b, j)
        return bf16_to_f32(value) if self.spec.scale == "bfloat16" else value

    def _from_zero(self, value: Expr, number: Expr, b: Dim, j: int) -> Expr:
        """A decoded vector less its zero points."""
        if self.spec.zero is None:
            return value
        zero = self._of_block(self.zeros, number, b, j)
        return value - (cast_raw(cast_raw(zero, "int32"), "float32") if self.spec.zero == "int8" else zero)

    def _of_block(self, view: Any, number: Expr, b: Dim, j: int) -> Expr:
        tile = self.plan.tile
        return self.kb.load(view, (number * self.spec.blocks + b) * tile.panel + j * tile.lanes, tile.lanes)
