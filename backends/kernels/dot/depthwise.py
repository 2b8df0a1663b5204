"""Depthwise convolution in integers: each channel by itself, u8 image, s8 weights, s32 sums, channels last.

A dot product of bytes sums neighbouring bytes of a lane, so a lane must hold several pixels of one channel. For each
band of output rows the input rows it needs are interleaved, four at a time (two without VNNI), into one int32 a pixel
and channel; the border is written there too. A band of two rows under a 3x3 kernel needs four input rows, all in one
quad, and each quad serves both output rows and three neighbouring columns: 3 instructions an output in place of 9.

    sum[oy][ox] += Σ_kx dot(quad[q][ox * stride + kx * dilation], weights[oy][kx][q])

Weights are zero where an output row does not use a row of the quad. Outputs are exact on every level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tvm import tirx

from ...isa.dot import arithmetic, interleave
from ...target import Target
from .. import depthwise
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
    minimum,
    result_dtype,
    result_pitch,
    splat,
)
from ..conv import ConvSpec
from ..matmul import guess
from ..tile import Arithmetic, row_tiles

UNROLLED_TAPS = 8
"""Kernels up to this width are unrolled."""
FEWEST_LANES = 4


@dataclass(frozen=True)
class DepthwisePlan:
    """Bands of `rows` output rows, of which `pixels` columns are computed together, `lanes` channels at a time;
    `workers` bands at a time have scratch memory."""

    arithmetic: Arithmetic = field(repr=False)
    lanes: int
    rows: int
    pixels: int
    workers: int


def applies(spec: ConvSpec) -> bool:
    """Whether these kernels take a convolution: depthwise, channels enough for a vector, padding that does not crop."""
    return spec.depthwise and spec.c_in >= FEWEST_LANES and min(spec.pads) >= 0


def plans(spec: ConvSpec, target: Target) -> Iterator[DepthwisePlan]:
    """Legal plans, the best guess first."""
    kind, lanes = arithmetic(target), target.lanes
    while lanes > spec.c_in:
        lanes //= 2
    height, width = (max(1, guess(d)) for d in _Shape.of(spec).out[1:])
    workers = target.num_cores if spec.macs >= depthwise.PARALLEL_MACS else 1
    found: dict[DepthwisePlan, float] = {}
    for rows in range(1, min(8, height) + 1):
        most = max(1, min(width, (target.registers - 4) // 2 // rows, 8))
        plan = DepthwisePlan(kind, lanes, rows, -(-width // -(-width // most)), workers)
        band = _Band(spec, plan)
        whole, rest = band.cost(width, rows, target.registers), band.cost(width, height % rows, target.registers)
        found[plan] = whole * (height // rows) + rest
    yield from sorted(found, key=found.__getitem__)[:4]


def pack_weights(array: np.ndarray, spec: ConvSpec, plan: DepthwisePlan) -> np.ndarray:
    """Weights [c, 1, kernel...] as [blocks, rows, kernel width, quads, lanes * depth], as `_Band` groups rows."""
    band, shape = _Band(spec, plan), _Shape.of(spec)
    taps = array.reshape(spec.c_out, *shape.kernel)
    depth = plan.arithmetic.depth
    packed = np.zeros((band.blocks, plan.rows, shape.kernel[2], band.quads, plan.lanes, depth), array.dtype)
    for block in range(band.blocks):
        first = min(block * plan.lanes, spec.c_out - plan.lanes)
        own = taps[first : first + plan.lanes]
        for number, (kz, dy) in enumerate(band.lines):
            for oy in range(plan.rows):
                ky = band.tap(oy, dy)
                if ky is not None:
                    packed[block, oy, :, number // depth, :, number % depth] = own[:, kz, ky].T
    return packed.reshape(*packed.shape[:4], -1)


def build(spec: ConvSpec, plan: DepthwisePlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, packed weights, bias s32 [c], what the sums lack s32 [c] if the arithmetic shifts, the
    border u8 [1] if there is one, the epilogue's buffers, y and the workspace."""
    band, shape, kind = _Band(spec, plan), _Shape.of(spec), plan.arithmetic
    x = buffer("x", (spec.batch, *spec.spatial, spec.c_in), kind.a)
    w = buffer("w", (band.blocks, plan.rows, shape.kernel[2], band.quads, plan.lanes * kind.depth), kind.b)
    pad = buffer("pad", (1,), "uint8") if spec.padded else None
    added = [buffer(name, (spec.c_out,), kind.sum) for name in ("bias", *(["lacking"] if kind.shift else []))]
    pitch = result_pitch(epilogue, spec.c_out)
    y = buffer("y", (spec.batch, *spec.out_spatial, pitch), result_dtype(epilogue, kind.sum))
    share = known(band.quads * shape.columns * plan.lanes)
    workspace = buffer(WORKSPACE, (plan.workers, share), "int32")
    kb = KernelBuilder()
    border = tirx.BufferLoad(pad, [i64(0)]) if pad is not None else tirx.const(0, "uint8")
    band.shape = shape = shape.named(kb)
    emitter = _Emitter(
        kb, band, kb.flat(x), kb.flat(w), kb.flat(workspace), border, [kb.flat(v) for v in added], kb.flat(y), epilogue
    )
    bands = ceildiv(shape.out[1], plan.rows)
    tasks = known(spec.batch * shape.out[0] * bands)
    with kb.loop(plan.workers, "worker", parallel=plan.workers > 1) as worker:
        scratch = kb.let(worker * share, "scratch")
        emitter.sides(scratch)
        with kb.share(worker, plan.workers, tasks) as number:
            image, top = floordiv(number, bands), floormod(number, bands) * plan.rows
            emitter.rows(kb.opaque(image, "image"), kb.opaque(top, "top"), scratch)
    extra = [*added, *([pad] if pad is not None else []), *(epilogue.buffers if epilogue else ())]
    return kb.finish([x, w, *extra, y, workspace])


@dataclass(frozen=True)
class _Shape:
    """A convolution lifted to depth, height and width. One dim becomes the height, along which rows interleave."""

    size: tuple[Dim, ...]
    out: tuple[Dim, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    bordered: tuple[bool, ...]
    columns: Dim
    """Width of the padded image."""

    @staticmethod
    def of(spec: ConvSpec) -> _Shape:
        rank = len(spec.spatial)

        def lift(values: Sequence[Any], fill: int) -> tuple[Any, ...]:
            values = [known(v) for v in values]
            return (fill, values[0], fill) if rank == 1 else (*[fill] * (3 - rank), *values)

        begin, end = lift(spec.pads[:rank], 0), lift(spec.pads[rank:], 0)
        size = lift(spec.spatial, 1)
        return _Shape(
            size, lift(spec.out_spatial, 1), lift(spec.kernel, 1), lift(spec.strides, 1), lift(spec.dilations, 1),
            begin, tuple(b + e > 0 for b, e in zip(begin, end, strict=True)), known(size[2] + begin[2] + end[2]),
        )  # fmt: skip

    def named(self, kb: KernelBuilder) -> _Shape:
        """The same with dims that are known only at run time computed once."""
        out = tuple(kb.let(d, "out") for d in self.out)
        return replace(self, out=out, columns=kb.let(self.columns, "columns"))


class _Band:
    """Which input rows a band of output rows reads and how they are grouped into quads (pairs, where depth is 2).

    `lines` are those rows as (tap along the depth, distance from the band's first row).
    """

    def __init__(self, spec: ConvSpec, plan: DepthwisePlan) -> None:
        self.spec, self.plan, self.shape = spec, plan, _Shape.of(spec)
        shape, self.depth = self.shape, plan.arithmetic.depth
        self._taps = {
            (oy, oy * shape.strides[1] + ky * shape.dilations[1]): ky
            for oy in range(plan.rows)
            for ky in range(shape.kernel[1])
        }
        distances = sorted({dy for _, dy in self._taps})
        self.lines = [(kz, dy) for kz in range(shape.kernel[0]) for dy in distances]
        self.quads = -(-len(self.lines) // self.depth)
        self.blocks = -(-spec.c_in // plan.lanes)

    def tap(self, oy: int, dy: int) -> int | None:
        """The kernel's row with which output row `oy` reads the input row at `dy`."""
        return self._taps.get((oy, dy))

    def used(self, quad: int, height: int) -> list[tuple[int, int]]:
        """The lines of a quad; None of them where the first `height` output rows read none."""
        lines = self.lines[quad * self.depth : (quad + 1) * self.depth]
        return [(kz, dy) for kz, dy in lines if any(self.tap(oy, dy) is not None for oy in range(height))]

    def reads(self, oy: int, quad: int) -> bool:
        """Whether output row `oy` reads any line of a quad."""
        lines = self.lines[quad * self.depth : (quad + 1) * self.depth]
        return any(self.tap(oy, dy) is not None for _, dy in lines)

    def cost(self, width: int, height: int, registers: int) -> float:
        """Instructions for `height` rows: loads, two permutations and a store a quad and column; the products; and for
        each tile its weights, which come from the stack where registers do not hold them, and what it takes to start.
        """
        if not height:
            return 0.0
        kernel, plan = self.shape.kernel[2], self.plan
        columns = width * self.shape.strides[2] + kernel - 1
        weights = kernel * sum(self.reads(oy, q) for oy in range(height) for q in range(self.quads))
        held = weights + height * plan.pixels + 4 <= registers
        filled = columns * sum(lines + 3 for q in range(self.quads) if (lines := len(self.used(q, height))))
        start = 10 + weights * (0.5 if held else 2.0)
        return filled + width * weights * 2 * plan.arithmetic.cost + -(-width // plan.pixels) * start


@dataclass
class _Emitter:
    """Emits bands: `x`, `w`, `scratch`, `y` and those `added` to the sums are flat views, `border` the byte around the
    image."""

    kb: KernelBuilder
    band: _Band
    x: Expr
    w: Expr
    scratch: Expr
    border: Expr
    added: Sequence[Expr]
    y: Expr
    epilogue: Epilogue | None

    def sides(self, scratch: Dim) -> None:
        """The border left and right of the image, which no band overwrites."""
        kb, shape, lanes = self.kb, self.band.shape, self.band.plan.lanes
        every = {4: 0x01010101, 2: 0x00010001, 1: 1}[self.band.depth]
        value = splat(tirx.Cast("int32", self.border) * tirx.const(every, "int32"), lanes)
        end = known(shape.begin[2] + shape.size[2])
        for start, count in ((0, shape.begin[2]), (end, known(shape.columns - end))):
            with kb.loop(self.band.quads, "q") as q, kb.loop(count, "x") as x:
                kb.store(self.scratch, scratch + (q * shape.columns + start + x) * lanes, value, lanes)

    def rows(self, image: Expr, top: Expr, scratch: Dim) -> None:
        """The band that starts at output row `top`, which may be cut off by the image's end."""
        kb, height, rows = self.kb, known(self.band.shape.out[1]), self.band.plan.rows

        def cut() -> None:
            if isinstance(height, int):
                self._band(image, top, height % rows, scratch)
                return
            with kb.loop(height - top, "row") as row:
                self._band(image, kb.let(top + row, "oy"), 1, scratch)

        always = isinstance(height, int) and height % rows == 0
        kb.branch(True if always else top + rows <= height, lambda: self._band(image, top, rows, scratch), cut)

    def _band(self, image: Expr, top: Expr, height: int, scratch: Dim) -> None:
        kb, shape, plan = self.kb, self.band.shape, self.band.plan
        channels = self.band.spec.c_in
        n, oz = kb.let(floordiv(image, shape.out[0]), "n"), kb.let(floormod(image, shape.out[0]), "oz")
        with kb.loop(self.band.blocks, "block") as block:
            start = block * plan.lanes
            c = kb.let(minimum(start, channels - plan.lanes) if channels % plan.lanes else start, "c")
            for quad in range(self.band.quads):
                if self.band.used(quad, height):
                    self._interleave(quad, height, n, oz, top, c, scratch)
            row_tiles(
                kb, plan.pixels, shape.out[2],
                lambda ox, count: self._tile([n, oz, top, ox], image, block, height, count, c, scratch),
            )  # fmt: skip

    def _interleave(self, quad: int, height: int, n: Expr, oz: Expr, top: Expr, c: Expr, scratch: Dim) -> None:
        """One quad of input rows at every column, the border where a row lies outside."""
        kb, shape, plan = self.kb, self.band.shape, self.band.plan
        lanes, channels = plan.lanes, self.band.spec.c_in
        lines = self.band.used(quad, height)

        def at(kz: int, dy: int) -> tuple[Expr, Expr]:
            """Plane and row of the image where a line lies."""
            iz = oz * shape.strides[0] + kz * shape.dilations[0] - shape.begin[0]
            return iz, top * shape.strides[1] + dy - shape.begin[1]

        def within(chosen: Sequence[tuple[int, int]]) -> Any:
            """Whether all of these lines lie inside the image; only what can fail is asked."""
            places = [at(*line) for line in chosen]
            tests = [(z, shape.size[0]) for z, _ in places if shape.bordered[0]]
            tests += [(y, shape.size[1]) for _, y in places if shape.bordered[1]]
            return tirx.all(*(t for p, size in tests for t in (p >= 0, p < i64(size)))) if tests else True

        bases = []
        for line in lines:
            iz, iy = at(*line)
            bases.append(((n * shape.size[0] + iz) * shape.size[1] + iy) * (shape.size[2] * channels) + c)
        to = kb.let(scratch + (quad * shape.columns + shape.begin[2]) * lanes, "to")

        def copy(places: Sequence[Dim], finish: Sequence[Any]) -> None:
            with kb.loop(shape.size[2], "x") as x:
                rows = [kb.load(self.x, place + x * channels, lanes) for place in places]
                rows = [f(row) for f, row in zip(finish, rows, strict=True)]
                rows += [rows[0]] * (self.band.depth - len(rows))
                value = tirx.reinterpret(f"int32x{lanes}", interleave(rows, lanes))
                kb.store(self.scratch, to + x * lanes, value, lanes)

        def whole() -> None:
            copy([kb.let(base, "base") for base in bases], [lambda row: row] * len(bases))

        def clipped() -> None:
            places, finish = [], []
            for base, line in zip(bases, lines, strict=True):
                inside = within([line])
                places.append(kb.let(tirx.Select(inside, i64(base), i64(c)), "base"))
                keep = kb.let(tirx.Select(inside, tirx.const(255, "uint8"), tirx.const(0, "uint8")), "keep")
                fill = kb.let(tirx.Select(inside, tirx.const(0, "uint8"), self.border), "fill")
                finish.append(lambda row, k=keep, f=fill: (row & splat(k, lanes)) | splat(f, lanes))
            copy(places, finish)

        depths, heights = zip(*lines, strict=True)
        kb.branch(within([(min(depths), min(heights)), (max(depths), max(heights))]), whole, clipped)

    def _tile(
        self, place: Sequence[Expr], image: Expr, block: Expr, height: int, count: int, c: Expr, scratch: Dim
    ) -> None:
        """`height` x `count` output pixels at `place` (image, depth, row, column)."""
        kb, band, shape, plan = self.kb, self.band, self.band.shape, self.band.plan
        kind, lanes, kernel = plan.arithmetic, plan.lanes, self.band.shape.kernel[2]
        stride, dilation = shape.strides[2], shape.dilations[2]
        n, oz, oy, ox = place
        acc = kb.local(height * count * lanes, kind.sum)
        first, *more = [kb.load(vector, c, lanes) for vector in self.added]
        for i in range(height * count):
            kb.store(acc, i * lanes, sum(more, first), lanes)
        row_size = lanes * kind.depth
        weights = kb.let(block * (plan.rows * kernel * band.quads * row_size), "weights")
        source = kb.let(scratch + ox * (stride * lanes), "source")

        def products(quad: int, column: Dim, users: Sequence[tuple[int, Dim]]) -> None:
            """Everything that reads a quad at `column`: (pixel, tap) pairs."""
            value = kb.load(self.scratch, source + (quad * shape.columns + column) * lanes, lanes)
            if kind.depth == 2:
                value = tirx.reinterpret(f"int16x{2 * lanes}", value)
            for pixel, kx in users:
                for row in range(height):
                    if band.reads(row, quad):
                        at = weights + ((row * kernel + kx) * band.quads + quad) * row_size
                        slot = (row * count + pixel) * lanes
                        total = kind.accumulate(
                            kb.load(acc, slot, lanes), value, kind.column(kb, self.w, at, lanes), lanes
                        )
                        kb.store(acc, slot, total, lanes)

        quads = [q for q in range(band.quads) if band.used(q, height)]
        if kernel <= UNROLLED_TAPS:
            for quad in quads:
                for column in range((count - 1) * stride + (kernel - 1) * dilation + 1):
                    users = [
                        (p, kx) for p in range(count) for kx in range(kernel) if p * stride + kx * dilation == column
                    ]
                    if users:
                        products(quad, column, users)
        else:
            with kb.loop(kernel, "kx") as kx:
                for quad in quads:
                    for pixel in range(count):
                        products(quad, kx * dilation + pixel * stride, [(pixel, kx)])
        pitch = result_pitch(self.epilogue, band.spec.c_out)
        for row in range(height):
            first = kb.let((image * shape.out[1] + oy + row) * shape.out[2] + ox, "pixel")
            to = kb.let(first * pitch + c, "to")
            for p in range(count):
                logical = {1: [oy + row], 2: [oy + row, ox + p], 3: [oz, oy + row, ox + p]}[len(band.spec.spatial)]
                indices = [first + p] if self.epilogue and self.epilogue.flat else [n, *logical]
                value = kb.load(acc, (row * count + p) * lanes, lanes)
                if self.epilogue is not None:
                    value = self.epilogue(value, [*indices, c], lanes)
                kb.store(self.y, to + p * pitch, value, lanes)
