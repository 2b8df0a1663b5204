"""3x3 convolutions of stride 1 by Winograd's minimal filtering: fewer products for more sums, in float32.

An image is cut into squares of `out` x `out` output pixels, whose windows are squares of side n = out + 2. With the
matrices B (n x n), G (n x 3) and A (n x out) of Cook and Toom's algorithm a square is

    y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A

(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015). Summed over channels, the products at each
of the n² places are a matrix product, squares x channels times channels x columns; weights are transformed at compile
time.
Of 9 products for a pixel 4 are left with out = 2, 2.25 with out = 4, while weights grow to 16 / 9 and 4 times the size.

The points 0, ±3/4, ±3/2 and infinity, all exact in binary, keep the error for out = 4 at about 4e-6 of the result's
range for 512 channels, a quarter of that of the usual 0, ±1, ±2 and infinity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
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
    known,
    maximum,
    minimum,
    pieces,
    result_dtype,
    result_pitch,
    splat,
    static,
)
from .convspec import ConvSpec
from .matmul import PARALLEL_MACS, guess, pack_panels
from .tile import (
    LINE_BYTES,
    Output,
    Panels,
    RegisterTile,
    Rows,
    Run,
    later_panel,
    row_tiles,
    store_lanes,
    tile_to_output,
)
from .tiling import AHEAD_BYTES_IN_L2, is_near, is_spread, tiles

POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
"""The finite points where polynomials are evaluated, by `out`; those that differ in sign stand side by side."""
EFFICIENCY, DIRECT_EFFICIENCY = 0.65, 0.88
"""The share of all additions and multiplications that the products reach here and in the direct kernel."""
MEMORY_BYTES_PER_CYCLE = 3.0
"""What a core gets from beyond its L2."""
MAX_BYTES = 10 << 20
"""Transformed weights larger than this are not worth their memory where a smaller `out` serves."""


@dataclass(frozen=True)
class WinogradPlan:
    """Squares of `out` x `out` pixels; a task does `rows` rows of squares for one of `groups` parts of the panels, in
    products of `tile`; `workers` tasks at a time have scratch memory. The sums of `part` panels are held at a time:
    with all of them, each weight is read once for the squares of a task, with few, the sums stay in cache. `ahead`,
    `a_ahead`, `spread`: see MatmulPlan."""

    tile: RegisterTile
    out: int
    rows: int
    part: int
    groups: int
    workers: int
    ahead: int
    a_ahead: int
    spread: int = 0


def is_possible(spec: ConvSpec) -> bool:
    """Whether the algorithm computes this convolution."""
    ones = (*spec.strides, *spec.dilations, spec.group)
    return spec.kernel == (3, 3) and all(x == 1 for x in ones) and min(spec.pads) >= 0


def plans(spec: ConvSpec, target: Target) -> Iterator[WinogradPlan]:
    """Plans that should beat the direct kernel, the best guess first."""
    if not is_possible(spec):
        return
    direct = spec.macs / target.lanes / 2 / DIRECT_EFFICIENCY
    found: list[tuple[float, WinogradPlan]] = []
    for out in POINTS:
        if out > 2 and 4 * (out + 2) ** 2 * spec.c_in * spec.c_out > MAX_BYTES:
            continue
        plan = _plan(spec, out, target)
        cycles = _cycles(spec, plan, target)
        if cycles < 0.9 * direct:
            found.append((cycles, plan))
    for _, plan in sorted(found, key=lambda pair: pair[0]):
        yield plan


def _plan(spec: ConvSpec, out: int, target: Target) -> WinogradPlan:
    height, width = (-(-guess(d) // out) for d in spec.out_spatial)
    places, images = (out + 2) ** 2, guess(spec.batch)
    weights = 4 * places * spec.c_in * spec.c_out
    few = weights <= target.l2 // 2
    row_bytes = 4 * places * width * (spec.c_in + (2 * target.lanes if few else spec.c_out))
    rows = max(1, min(height, (target.l2 // 4 if few else 3 * target.l2) // row_bytes))
    strips = -(-height // rows)
    workers = target.num_cores if target.num_cores > 1 and spec.macs >= PARALLEL_MACS else 1
    groups = 1
    if images * strips % workers:
        if not few and spec.c_out >= workers * 2 * target.lanes:
            groups = workers
        else:
            strips = -(-strips // workers) * workers
    rows = -(-height // strips)
    tile = tiles(rows * width, spec.c_out // groups, spec.c_in, target)[0]
    part = 1 if few else -(-spec.c_out // groups // tile.panel)
    a_ahead = tile.rows * spec.c_in if is_near(tile, spec.c_in, target) else LINE_BYTES // 4
    ahead, turns = AHEAD_BYTES_IN_L2 // (4 * tile.panel), -(-rows * width // tile.rows)
    return WinogradPlan(
        tile, out, rows, part, groups, workers, ahead, a_ahead if spec.c_in >= LINE_BYTES // 4 else 0,
        turns if is_spread(weights, turns, target) else 0,
    )  # fmt: skip


def _cycles(spec: ConvSpec, plan: WinogradPlan, target: Target) -> float:
    """The time of one core for all: products, or the passing of weights from beyond L2; then both transforms, which
    load and store each value once and take about three additions for it."""
    places, rows, width = (plan.out + 2) ** 2, *(-(-guess(d) // plan.out) for d in spec.out_spatial)
    strips = guess(spec.batch) * -(-rows // plan.rows)
    squares = strips * plan.rows * width
    multiply = squares * places * spec.c_in * spec.c_out / target.lanes / 2 / EFFICIENCY
    weights = 4 * places * spec.c_in * spec.c_out
    passing = strips * weights / MEMORY_BYTES_PER_CYCLE if weights > target.l2 else 0.0
    vectors = squares * places * (-(-spec.c_in // target.lanes) * plan.groups + -(-spec.c_out // target.lanes))
    return max(multiply, passing) + vectors * 2.5


@lru_cache
def transforms(out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Bᵀ, G, Aᵀ) in float64: by Cook and Toom's construction, with the polynomials' products in B and their norms in
    G, so that B and A are exact in binary."""
    points, side = POINTS[out], out + 2
    b, g, a = np.zeros((side, side)), np.zeros((side, 3)), np.zeros((out, side))
    for i, point in enumerate(points):
        others = [p for p in points if p != point]
        b[i, : side - 1] = np.poly(others)[::-1]
        g[i] = point ** np.arange(3) / np.prod([point - p for p in others])
        a[:, i] = point ** np.arange(out)
    b[-1] = np.poly(points)[::-1]
    g[-1, -1] = a[-1, -1] = 1
    return b, g, a


def pack_weights(array: np.ndarray, spec: ConvSpec, plan: WinogradPlan) -> np.ndarray:
    """Weights [c_out, c_in, 3, 3] as [parts, places, panels of a part, c_in, panel], transformed in float64; zero
    beyond c_out."""
    _, g, _ = transforms(plan.out)
    turned = np.einsum("ai,bj,ocij->aboc", g, g, array.astype(np.float64), optimize=True).astype(np.float32)
    panels = -(-spec.c_out // plan.tile.panel)
    padded = np.zeros((len(turned) ** 2, -(-panels // plan.part) * plan.part * plan.tile.panel, spec.c_in), np.float32)
    padded[:, : spec.c_out] = turned.reshape(-1, spec.c_out, spec.c_in)
    packed = pack_panels(padded, plan.tile)
    parts = packed.reshape(len(packed), -1, plan.part, *packed.shape[2:])
    return np.ascontiguousarray(parts.swapaxes(0, 1))


def build(spec: ConvSpec, plan: WinogradPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, packed weights, the epilogue's buffers, y, workspace."""
    return _Kernel(spec, plan, epilogue).build()


class _Kernel:
    """One kernel under construction.

    A task's scratch: the transformed squares [places][squares][c_in]; then, at the same place one after the other, the
    strip of the image with its border of zeros, and the sums of products of a part [places][squares][columns].
    """

    def __init__(self, spec: ConvSpec, plan: WinogradPlan, epilogue: Epilogue | None) -> None:
        self.spec, self.plan, self.epilogue = spec, plan, epilogue
        self.kb = KernelBuilder()
        self.y_pitch = result_pitch(epilogue, spec.c_out)
        self.out, self.side = plan.out, plan.out + 2
        self.places, self.columns = self.side**2, plan.part * plan.tile.panel
        self.height, self.width = (known(d) for d in spec.out_spatial)
        self.across, self.down = ceildiv(self.width, self.out), ceildiv(self.height, self.out)
        self.squares = known(plan.rows * self.across)
        self.pitch = known((self.across * self.out + 2) * spec.c_in)
        self.parts = -(-spec.c_out // self.columns)
        self.turned_size = known(self.places * self.squares * spec.c_in)
        strip_size = known((plan.rows * self.out + 2) * self.pitch)
        self.share = known(self.turned_size + maximum(known(self.places * self.squares * self.columns), strip_size))
        self.b, _, self.a = transforms(plan.out)

    def build(self) -> Any:
        kb, spec, plan = self.kb, self.spec, self.plan
        x = buffer("x", (spec.batch, *spec.spatial, spec.c_in))
        w = buffer("w", (self.parts, self.places, plan.part, spec.c_in, plan.tile.panel))
        y = buffer("y", (spec.batch, *spec.out_spatial, self.y_pitch), result_dtype(self.epilogue))
        workspace = buffer(WORKSPACE, (plan.workers, self.share))
        self.x, self.w, self.y, self.scratch = (kb.flat(p) for p in (x, w, y, workspace))
        strips, per_group = ceildiv(self.down, plan.rows), -(-self.parts // plan.groups)
        with kb.loop(plan.workers, "worker", parallel=plan.workers > 1) as worker:
            self.turned = kb.let(worker * self.share, "turned")
            self.sums = kb.let(self.turned + self.turned_size, "sums")
            with kb.share(worker, plan.workers, known(spec.batch * strips * plan.groups)) as task:
                first = kb.let(floormod(task, plan.groups) * per_group, "first_part")
                top = kb.let(floormod(floordiv(task, plan.groups), strips) * plan.rows, "top")
                image = kb.let(floordiv(task, strips * plan.groups), "image")
                rows = kb.let(minimum(i64(plan.rows), self.down - top), "rows")
                self._copy(image, top)
                self._turn_input(rows)
                mine = minimum(i64(per_group), self.parts - first) if plan.groups > 1 else per_group
                with kb.loop(mine, "p") as p:
                    part = kb.let(first + p, "part")
                    self._multiply(part)
                    self._turn_output(image, top, rows, part)
        return kb.finish([x, w, *(self.epilogue.buffers if self.epilogue else ()), y, workspace])

    def _copy(self, image: Expr, top: Expr) -> None:
        """The strip of the image that the task reads, with zeros where that leaves the image."""
        kb, c = self.kb, self.spec.c_in
        height, width = (known(d) for d in self.spec.spatial)
        above, left = self.spec.pads[0], self.spec.pads[1] * c
        right = known(self.pitch - left - width * c)
        with kb.loop(self.plan.rows * self.out + 2, "row") as row:
            iy = kb.let(top * self.out + row - above, "iy")
            to = kb.let(self.sums + row * self.pitch, "to")

            def inside(iy: Expr = iy, to: Expr = to) -> None:
                if left:
                    kb.zero(self.scratch, to, left)
                kb.copy(self.scratch, to + left, self.x, (image * height + iy) * (width * c), width * c)
                if static(right) != 0:
                    kb.zero(self.scratch, to + (self.pitch - right), right)

            def outside(to: Expr = to) -> None:
                kb.zero(self.scratch, to, self.pitch)

            kb.branch(tirx.all(iy >= 0, iy < i64(height)), inside, outside)

    def _turn_input(self, rows: Dim) -> None:
        """Bᵀ x B of each square, channels side by side."""
        kb, c = self.kb, self.spec.c_in
        with kb.loop(rows, "ty") as ty, kb.loop(self.across, "tx") as tx:
            source = kb.let(self.sums + ty * (self.out * self.pitch) + tx * (self.out * c), "source")
            to = kb.let(self.turned + (ty * self.across + tx) * c, "to")

            def block(at: Dim, lanes: int, source: Expr = source, to: Expr = to) -> None:
                inputs = [
                    [kb.load(self.scratch, source + i * self.pitch + (j * c + at), lanes) for j in range(self.side)]
                    for i in range(self.side)
                ]
                for place, value in enumerate(self._both_ways(self.b, inputs, lanes)):
                    kb.store(self.scratch, to + place * (self.squares * c) + at, value, lanes)

            self._vectors(c, block)

    def _multiply(self, part: Expr) -> None:
        """At each place the product of all squares with a part of the panels."""
        kb, c, plan, tile = self.kb, self.spec.c_in, self.plan, self.plan.tile
        output = Output(self.scratch, self.columns, None, self.columns)
        with kb.loop(self.places, "place") as place, kb.loop(plan.part, "panel") as panel:
            rows_at = kb.let(self.turned + place * (self.squares * c), "rows_at")
            sums_at = kb.let(self.sums + place * (self.squares * self.columns), "sums_at")
            b_at = kb.let(((part * self.places + place) * plan.part + panel) * (c * tile.panel), "b_at")

            def one(start: Dim, count: int) -> None:
                rows = Rows(rows_at + start * c, [i * c for i in range(count)], plan.a_ahead)
                later = later_panel(kb, b_at, c, tile.panel, floordiv(start, tile.rows), plan.spread)
                tile_to_output(
                    kb, replace(tile, rows=count), self.scratch, rows, Run((), c),
                    Panels(self.w, b_at, tile.panel, plan.ahead, later), panel, output,
                    [start + i for i in range(count)], lambda i: [], first_column=sums_at,
                )  # fmt: skip

            row_tiles(kb, tile.rows, self.squares, one)

    def _turn_output(self, image: Expr, top: Expr, rows: Dim, part: Expr) -> None:
        """Aᵀ s A of each square through the epilogue to the pixels that exist."""
        kb = self.kb
        last = self.spec.c_out - (self.parts - 1) * self.columns
        with kb.loop(rows, "ty") as ty, kb.loop(self.across, "tx") as tx:
            source = kb.let(self.sums + (ty * self.across + tx) * self.columns, "source")
            oy, ox = kb.let((top + ty) * self.out, "oy"), kb.let(tx * self.out, "ox")

            def block(at: Dim, width: int, source: Expr = source, oy: Expr = oy, ox: Expr = ox) -> None:
                pitch = self.squares * self.columns
                sums = [kb.load(self.scratch, source + place * pitch + at, width) for place in range(self.places)]
                square = [sums[i * self.side : (i + 1) * self.side] for i in range(self.side)]
                self._store(self._both_ways(self.a, square, width), image, oy, ox, part * self.columns + at, width)

            def all_vectors() -> None:
                self._vectors(self.columns, block)

            kb.branch(last == self.columns or part < self.parts - 1, all_vectors, lambda: self._vectors(last, block))

    def _store(self, values: Sequence[Expr], image: Expr, oy: Expr, ox: Expr, at: Dim, lanes: int) -> None:
        """The pixels of a square at (oy, ox) as far as they lie within the image."""
        kb, flat = self.kb, self.epilogue is not None and self.epilogue.flat
        channel = kb.let(at, "channel")
        pixel = kb.let((image * self.height + oy) * self.width + ox, "pixel")
        for dy in range(self.out):
            with kb.when(_below(oy, dy, self.height, self.out)):
                for dx in range(self.out):
                    with kb.when(_below(ox, dx, self.width, self.out)):
                        number, value = pixel + dy * self.width + dx, values[dy * self.out + dx]
                        place = [number] if flat else [image, oy + dy, ox + dx]
                        store_lanes(
                            kb, self.y, number * self.y_pitch + channel, value, lanes, lanes, self.epilogue,
                            [*place, channel],
                        )  # fmt: skip

    def _vectors(self, count: int, block: Any) -> None:
        """`block(first, lanes)` for all of `count` channels."""
        lanes = self.plan.tile.lanes
        with self.kb.loop(count // lanes, "v") as v:
            block(self.kb.let(v * lanes, "at"), lanes)
        for start, width in pieces(count % lanes, lanes):
            block(i64(count // lanes * lanes + start), width)

    def _both_ways(self, matrix: np.ndarray, square: Sequence[Sequence[Expr]], lanes: int) -> list[Expr]:
        """M s Mᵀ of a square of vectors, row by row; what is between is held in registers as far as there are any."""
        held = self.kb.local(len(square) * matrix.shape[0] * lanes, name="held")
        for j in range(len(square)):
            for i, value in enumerate(_combined(self.kb, matrix, [row[j] for row in square], lanes)):
                self.kb.store(held, (i * len(square) + j) * lanes, value, lanes)
        out: list[Expr] = []
        for i in range(matrix.shape[0]):
            row = [self.kb.load(held, (i * len(square) + j) * lanes, lanes) for j in range(len(square))]
            out += _combined(self.kb, matrix, row, lanes)
        return out


def _below(start: Expr, offset: int, extent: Dim, out: int) -> Any:
    """Whether start + offset, start a multiple of `out`, lies below the extent."""
    size = static(extent)
    return True if offset == 0 or (size is not None and size % out == 0) else start + offset < i64(extent)


def _combined(kb: KernelBuilder, matrix: np.ndarray, vectors: Sequence[Expr], lanes: int) -> list[Expr]:
    """The product of a matrix and a column of vectors.

    Points that differ in sign make pairs: of rows that agree up to sign in even and in odd columns, whose two halves
    are summed once, or of such columns, of which sums and differences are taken once.
    """
    temporary = _Temporaries(kb, lanes)
    values = [temporary.name(v) for v in vectors]
    if matrix.shape[0] == matrix.shape[1]:
        out: list[Expr] = []
        rows = list(matrix)
        while rows:
            row = rows.pop(0)
            if rows and np.array_equal(np.abs(row), np.abs(rows[0])):
                other = rows.pop(0)
                even = temporary.name(temporary.sum((row + other) / 2, values))
                odd = temporary.name(temporary.sum((row - other) / 2, values))
                out += [even + odd, even - odd]
            else:
                out.append(temporary.sum(row, values))
        return out
    inner = range(1, matrix.shape[1] - 1, 2)
    plus = [temporary.name(values[i] + values[i + 1]) for i in inner]
    minus = [temporary.name(values[i] - values[i + 1]) for i in inner]
    out = []
    for k, row in enumerate(matrix):
        ends = np.array([row[0], row[-1]])
        total = temporary.sum(
            np.concatenate([row[list(inner)], ends]), [*(minus if k % 2 else plus), values[0], values[-1]]
        )
        out.append(total)
    return out


class _Temporaries:
    """Vectors that are used more than once."""

    def __init__(self, kb: KernelBuilder, lanes: int) -> None:
        self.kb, self.lanes = kb, lanes

    def name(self, value: Expr) -> Expr:
        return self.kb.let(value, "t")

    def sum(self, factors: np.ndarray, values: Sequence[Expr]) -> Expr:
        """Σ factor value, without what is zero."""
        total: Expr | None = None
        for factor, value in sorted(zip(factors.tolist(), values, strict=True), key=lambda term: abs(term[0]) == 1.0):
            if factor == 0.0:
                continue
            if total is None:
                total = value if factor == 1.0 else value * splat(factor, self.lanes)
            elif abs(factor) == 1.0:
                total = total + value if factor > 0 else total - value
            else:
                total = total + value * splat(factor, self.lanes)
        return total
