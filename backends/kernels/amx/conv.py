"""Convolutions of integers (u8 x s8, summed in int32) or of bfloat16 (summed in float32) on AMX tiles, channels last:
x [n, spatial..., c_in].

A 1x1 convolution of stride 1 is a product over pixels. For any other, strips of the image are copied to scratch memory
(strip.py) and every tap, or run of taps, is a step of one product.
"""

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
    result_pitch,
    static,
)
from ..conv import ConvSpec
from ..matmul import MatmulSpec, guess
from . import matmul
from .matmul import MatmulPlan, Shape, blocks
from .strip import Strip, StripPlace
from .tiles import Ahead, Block, Columns, Output, Panel, Pipeline, Source, Tiles
from .walk import Walk

FEWEST_CHANNELS = 16
"""Groups of fewer channels leave most of a tile empty."""
SLACK = 64
"""Elements that the last step of a run may read beyond the last position."""


@dataclass(frozen=True)
class ConvPlan:
    """A task is a strip of `rows` output rows, `width` pixels of each (None: all); `parts` of the panels are separate
    tasks; `workers` tasks at a time have scratch memory. In `ahead` parts (0: not) the next panel of weights is fetched
    while a panel is used."""

    block: Block
    rows: int
    width: int | None
    parts: int
    workers: int
    kind: TileType = field(default=U8_S8, repr=False)
    ahead: int = 0


def applies(spec: ConvSpec, target: Target, kind: TileType = U8_S8) -> bool:
    """Whether there are plans: tiles, enough channels in a group, padding that does not crop."""
    each = spec.c_in // spec.group
    return kind.runs_on(target) and (spec.group == 1 or each >= FEWEST_CHANNELS) and min(spec.pads) >= 0


def plans(spec: ConvSpec, target: Target, kind: TileType = U8_S8) -> Iterator[ConvPlan | MatmulPlan]:
    """Legal plans, the best guess first. Raises UnsupportedError where none `applies`."""
    if not applies(spec, target, kind):
        raise UnsupportedError("no AMX kernel for this convolution", found=spec)
    if spec.pointwise:
        yield from matmul.plans(_as_matmul(spec, flat=True), target, kind)
        return
    strip = Strip.of(spec, 1, None)
    rows, width = max(1, guess(strip.out[1])), max(1, guess(strip.out[2]))
    images = (static(spec.batch) or 1) * (static(strip.out[0]) or 1)  # an unknown batch may well be one
    each = spec.c_out // spec.group
    walk = Walk.of(kind, strip.lengths())
    depth = sum(walk.lengths) * kind.itemsize
    workers = target.num_cores if spec.macs * kind.itemsize >= matmul.PARALLEL_MACS else 1
    row_bytes = guess(strip.pitch) * strip.unit * strip.kernel[0] * len(strip.residues) * kind.itemsize
    for block in blocks(Shape(rows * width, each, depth, walk.steps, strip.kernel[1] * strip.kernel[2]), target):
        strips = -(-rows * row_bytes // (target.l2 // 2))
        parts, segment = 1, None
        if images % workers:
            if depth * each > rows * row_bytes and each >= workers * block.columns * COLUMNS:
                parts = workers  # each reads its weights alone
            elif rows == 1:
                segment = -(-width // workers)
            else:
                strips = -(-strips // workers) * workers
        share = -(-rows // min(strips, rows))
        passes = -(-share * guess(strip.pitch) // (block.rows * ROWS))
        known_size = static(strip.out[1]) is not None and static(strip.out[2]) is not None
        ahead = passes if known_size and matmul.fetches(depth * each, passes, target) else 0
        yield ConvPlan(block, share, segment, parts, workers, kind, ahead)


def pack_weights(array: np.ndarray, spec: ConvSpec, plan: ConvPlan | MatmulPlan) -> np.ndarray:
    """Weights [c_out, c_in / group, kernel...] in the kernel's order: flat, group after group, see Walk.pack."""
    if isinstance(plan, MatmulPlan):
        return matmul.pack_weights(array.reshape(spec.c_out, spec.c_in), _as_matmul(spec, flat=True), plan)
    walk = _walk(spec, plan)
    taps_last = array.reshape(spec.group, spec.c_out // spec.group, spec.c_in // spec.group, -1)
    by_group = taps_last.transpose(0, 3, 2, 1).reshape(spec.group, -1, spec.c_out // spec.group)
    return np.concatenate([walk.pack(b, plan.block.columns) for b in by_group])


def build(spec: ConvSpec, plan: ConvPlan | MatmulPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, packed weights, bias [c_out], pad [1] if an image of integers is padded, the epilogue's
    buffers, y, and the workspace unless the convolution is a product over pixels."""
    if isinstance(plan, MatmulPlan):
        flat = epilogue is None or epilogue.flat
        return matmul.build(_as_matmul(spec, flat), plan, epilogue, rows=(spec.batch, *spec.spatial))
    return _Conv(spec, plan, epilogue).build()


def _as_matmul(spec: ConvSpec, flat: bool) -> MatmulSpec:
    pixels = (spec.batch, *spec.spatial)
    if flat:
        return MatmulSpec(product(pixels), spec.c_out, spec.c_in, trans_b=True)
    return MatmulSpec(spec.spatial[-1], spec.c_out, spec.c_in, batch_a=pixels[:-1], trans_b=True)


def _walk(spec: ConvSpec, plan: ConvPlan) -> Walk:
    return Walk.of(plan.kind, Strip.of(spec, plan.rows, plan.width).lengths())


class _Conv:
    """One kernel under construction."""

    def __init__(self, spec: ConvSpec, plan: ConvPlan, epilogue: Epilogue | None) -> None:
        self.spec, self.plan = spec, plan
        self.strip = Strip.of(spec, plan.rows, plan.width)
        self.walk = _walk(spec, plan)
        self.kb = kb = KernelBuilder()
        kind = plan.kind
        self.each = spec.c_out // spec.group
        x = buffer("x", (spec.batch, *spec.spatial, spec.c_in), kind.a)
        b = buffer("w", (spec.group * self.walk.packed(self.each),), kind.b)
        bias = buffer("bias", (spec.c_out,), kind.sum)
        pads = [buffer("pad", (1,), kind.a)] if any(spec.pads) and not kind.is_float else []
        pitch = result_pitch(epilogue, spec.c_out)
        y = buffer("y", (spec.batch, *spec.out_spatial, pitch), result_dtype(epilogue, kind.sum))
        slack = ROWS * plan.block.rows * self.strip.unit + SLACK
        self.share = known(self.strip.elements + slack)
        workspace = buffer(WORKSPACE, (plan.workers, self.share), kind.a)
        self.params = [x, b, bias, *pads, *(epilogue.buffers if epilogue else ()), y, workspace]
        self.x, self.b, self.bias, self.scratch = kb.flat(x), kb.flat(b), kb.flat(bias), kb.flat(workspace)
        self.pad = kb.load(kb.flat(pads[0]), 0) if pads else i64(0) if any(spec.pads) else None
        self.output = Output(kb.flat(y), pitch, epilogue)

    def build(self) -> Any:
        kb, plan, strip = self.kb, self.plan, self.strip
        strips = ceildiv(strip.out[1], plan.rows)
        segments = 1 if plan.width is None else ceildiv(strip.out[2], plan.width)
        tasks = known(self.spec.batch * strip.out[0] * strips * segments * plan.parts)
        pad = None if self.pad is None else kb.let(self.pad, "pad")
        with kb.loop(plan.workers, "worker", parallel=plan.workers > 1) as worker:
            origin = kb.let(worker * self.share, "origin")
            tiles = Tiles(kb, self.walk, plan.block)
            with kb.share(worker, plan.workers, tasks) as number:
                part = kb.let(floormod(number, plan.parts), "part")
                segment = kb.let(floormod(floordiv(number, plan.parts), segments), "segment")
                number = kb.let(floordiv(number, plan.parts * segments), "number")
                top = kb.let(floormod(number, strips) * plan.rows, "top")
                left = i64(0) if plan.width is None else kb.let(segment * plan.width, "left")
                number = kb.let(floordiv(number, strips), "image")
                place = StripPlace(
                    kb.let(floordiv(number, strip.out[0]), "n"),
                    kb.let(floormod(number, strip.out[0]), "oz"),
                    top,
                    left,
                    kb.let(minimum(plan.rows, strip.out[1] - top), "rows"),
                    strip.width if plan.width is None else kb.let(minimum(plan.width, strip.out[2] - left), "width"),
                )
                strip.fill(kb, self.x, self.scratch, origin, place, pad, self.walk.passes_end)
                with kb.loop(self.spec.group, "g") as group:
                    self._multiply(tiles, origin, place, group, part)
            tiles.release()
        return kb.finish(self.params).with_attr(FEATURES, " ".join(plan.kind.features))

    def _multiply(self, tiles: Tiles, origin: Expr, place: StripPlace, group: Expr, part: Expr) -> None:
        """All output pixels of a strip, for one group and one part of its panels."""
        kb, plan, strip = self.kb, self.plan, self.strip
        each = self.spec.c_in // self.spec.group
        columns = Columns(
            kb, self.each, plan.block.columns, self.b, group * self.walk.packed(self.each), self.bias, group * self.each
        )
        step = plan.block.rows * ROWS
        runs = [i64(run) for run in strip.runs()]

        def store(panel: Panel, block: Expr, slot: Expr, first: Dim, last: Dim) -> None:
            with kb.loop(plan.block.rows, "tile") as tile:
                at = tile * ROWS
                self._store(tiles, columns, panel, place, slot, block * step, at + first, at + last)

        for panels in columns.ranges(part, plan.parts):
            pipeline = Pipeline(tiles, panels, store)
            with kb.loop(panels.count, "p") as p, kb.loop(ceildiv(self._positions(place), step), "block") as block:
                base = kb.let(origin + block * (step * strip.unit) + group * each, "base")
                at = [base + i * ROWS * strip.unit for i in range(plan.block.rows)]
                source = Source(self.scratch, at, strip.unit, runs)
                fetch = Ahead(block, plan.ahead) if plan.ahead else None
                pipeline.block(source, columns, panels.panel(kb.let(panels.first + p, "panel")), block, fetch)
            pipeline.flush()

    def _positions(self, place: StripPlace) -> Dim:
        return known((place.rows - 1) * self.strip.pitch + place.width)

    def _store(
        self,
        tiles: Tiles,
        columns: Columns,
        panel: Panel,
        place: StripPlace,
        slot: Expr,
        start: Expr,
        first: Dim,
        last: Dim,
    ) -> None:
        """Stores those of rows [first, last) of the block at position `start` that are pixels, row by row of the
        image."""
        kb, strip, epilogue = self.kb, self.strip, self.output.epilogue
        pitch = strip.pitch
        begin = kb.let(start + first, "begin")
        end = kb.let(minimum(start + last, self._positions(place)), "end")
        y = kb.let(floordiv(begin, pitch), "y")
        with kb.loop(floordiv(end - 1, pitch) - y + 1, "dy") as dy:
            row = kb.let((y + dy) * pitch, "row")
            left = kb.let(maximum(begin - row, 0), "from")
            count = kb.let(minimum(end - row, place.width) - left, "pixels")
            oy = kb.let(place.top + y + dy, "oy")
            image = place.image * strip.out[0] + place.z
            pixel = kb.let((image * strip.out[1] + oy) * strip.out[2] + (place.left + left), "pixel")
            with kb.loop(count, "dx") as dx:
                if epilogue is None or epilogue.flat:
                    indices = [pixel + dx]
                else:
                    logical = [place.z, oy, place.left + left + dx][3 - len(self.spec.spatial) :]
                    indices = [place.image, *logical]
                tiles.put(slot, row + left + dx - start, columns, panel, self.output, pixel + dx, indices)
