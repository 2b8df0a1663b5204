"""Convolutions over 1, 2 or 3 spatial dims, channels last: x is [n, spatial..., c_in], y is [n, spatial..., c_out].

A 1x1 convolution of stride 1 is a matmul over all pixels. Any other is computed directly: rows of a register tile are
output pixels of one image row (or of several short ones), k runs over taps and channels. In channels-last memory the
taps of one kernel row are one run; or they are walked side by side, so that a pixel under several overlapping windows
is read once for all of them. Where the image is padded, those tiles leave out what lies beyond its border; for all
others a strip of it is first copied into scratch memory with its border of zeros, so that the inner loops know none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx

from ...compiler.errors import UnsupportedError
from ..target import Target
from . import matmul, winograd
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
from .convspec import ConvSpec
from .matmul import MatmulPlan, MatmulSpec, guess
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
from .tiling import AHEAD_BYTES_IN_L2, is_far, is_spread, steps_ahead
from .winograd import WinogradPlan

__all__ = ["AnyPlan", "ConvPlan", "ConvSpec", "build", "direct_plans", "pack_weights", "plans"]

MOST_CLIPPED = 4
"""Tiles of a row that may be clipped: each is code of its own."""


@dataclass(frozen=True)
class ConvPlan:
    """Register tile of `height` x `width` output pixels; `strip` output rows (a multiple of `height`) are a task's
    share; `groups` parts of the panels are separate tasks; `workers` tasks at a time have scratch memory;
    panels are fetched `ahead` steps of k before their use (0: not), pixels `a_ahead` elements; `touch`: lines of the
    output and of a residual are fetched before they are used; `spread` tiles share in fetching the next panel (0: not);
    `taps` of a kernel row (1 or all) are walked side by
    side; `clip`: tiles leave out the taps that lie beyond the border instead of reading a padded copy, for tiles of
    one row with all taps side by side, a width that is known and a border of zeros."""

    tile: RegisterTile
    height: int
    width: int
    strip: int
    groups: int
    workers: int
    ahead: int = 0
    taps: int = 1
    clip: bool = False
    a_ahead: int = 0
    touch: bool = False
    spread: int = 0


AnyPlan = ConvPlan | MatmulPlan | WinogradPlan
"""A convolution is computed directly, as a matrix product if it is pointwise, or by Winograd's algorithm."""


def plans(spec: ConvSpec, target: Target) -> Iterator[AnyPlan]:
    """Legal plans in float32, the best guess first. Raises UnsupportedError for negative padding, which crops."""
    if min(spec.pads) >= 0:
        yield from winograd.plans(spec, target)
    yield from direct_plans(spec, target)


def direct_plans(
    spec: ConvSpec, target: Target, arithmetic: Arithmetic | None = None
) -> Iterator[ConvPlan | MatmulPlan]:
    """Plans that multiply the weights as they are. Raises UnsupportedError for negative padding, which crops."""
    if min(spec.pads) < 0:
        raise UnsupportedError("convolution with negative padding", found=spec.pads)
    if spec.pointwise:
        yield from matmul.plans(_as_matmul(spec, flat=True), target, arithmetic)
        return
    arithmetic = arithmetic or floats(target)
    g = _Geometry.of(spec)
    height = max(1, guess(g.out[1]))
    workers = target.num_cores if spec.macs >= matmul.PARALLEL_MACS * arithmetic.depth else 1
    a_size, b_size = itemsize(arithmetic.held), itemsize(arithmetic.b)
    row_bytes = a_size * guess(g.pitch) * g.kernel[0]
    for tile, th, tw, taps, clip in _pixel_tiles(spec, g, target, arithmetic)[:8]:
        panels = -(-spec.c_out // spec.group // tile.panel)
        weights = b_size * spec.c_out * spec.c_in // spec.group * int(product(g.kernel))
        fit = max(th, (target.l2 // 2 // row_bytes - g.reach[1]) // g.strides[1] // th * th)
        images = guess(spec.batch) * guess(g.out[0])
        strips = -(-height // fit)
        groups = 1
        if workers > 1 and images % workers:
            image_bytes = a_size * guess(g.size[1]) * guess(g.pitch)
            if weights > image_bytes and panels >= workers and strips == 1:
                groups = workers
            else:
                strips = -(-strips // workers) * workers
        strip = max(th, -(-height // strips // th) * th)
        ahead = steps_ahead(tile, spec.c_in // spec.group * int(product(g.kernel)), weights, target, taps)
        a_ahead, touch = 0, False
        if arithmetic == F32:
            outputs = images * height * guess(g.out[2]) * spec.c_out
            touch = 4 * (outputs + images * guess(g.size[1]) * guess(g.pitch)) + weights > target.l2 // 2
            if int(product(g.kernel)) == 1 and spec.c_in // spec.group >= LINE_BYTES // 4:
                a_ahead = LINE_BYTES // 4
        turns = -(-min(strip, height) // th) * -(-guess(g.out[2]) // tw)
        spread = 0
        if arithmetic == F32 and spec.group == 1 and static(g.out[2]) and is_spread(weights, turns, target):
            ahead, spread = AHEAD_BYTES_IN_L2 // (4 * tile.panel * taps), turns
        yield ConvPlan(tile, th, tw, strip, groups, workers, ahead, taps, clip, a_ahead, touch, spread)


def pack_weights(array: np.ndarray, spec: ConvSpec, plan: AnyPlan) -> np.ndarray:
    """Weights [c_out, c_in / group, kernel...] as [group, panels, steps, panel * depth]; zero beyond c_out. Taps that
    are walked side by side take turns."""
    if isinstance(plan, MatmulPlan):
        return matmul.pack_weights(array.reshape(spec.c_out, spec.c_in), _as_matmul(spec, flat=True), plan)
    if isinstance(plan, WinogradPlan):
        return winograd.pack_weights(array, spec, plan)
    each, (runs, length), lines = spec.c_out // spec.group, spec.runs, int(product(spec.kernel[:-1]))
    columns = np.moveaxis(array, 1, -1).reshape(spec.group, each, runs, length)
    packed = matmul.pack_panels(np.moveaxis(columns, 2, 1), plan.tile)
    group, _, panels, steps, width = packed.shape
    rows = np.moveaxis(packed, 1, 2).reshape(group, panels, -1, plan.taps, runs * steps // lines // plan.taps, width)
    return np.ascontiguousarray(rows.swapaxes(3, 4)).reshape(group, panels, runs * steps, width)


def build(spec: ConvSpec, plan: AnyPlan, epilogue: Epilogue | None = None, border: Expr | None = None) -> Any:
    """The kernel. Params: x, packed weights, the epilogue's buffers, y, and the workspace if there is padding or the
    arithmetic reads a copy of x.

    `border` is the byte around the image, 0 if absent; it may be read from one of the epilogue's buffers.
    """
    if isinstance(plan, MatmulPlan):
        flat = epilogue is None or epilogue.flat
        return matmul.build(_as_matmul(spec, flat), plan, epilogue, rows=(spec.batch, *spec.spatial))
    if isinstance(plan, WinogradPlan):
        return winograd.build(spec, plan, epilogue)
    g = _Geometry.of(spec, plan.clip)
    each, kind = spec.c_out // spec.group, plan.tile.arithmetic
    x = buffer("x", (spec.batch, *spec.spatial, spec.c_in), kind.a)
    w = buffer("w", (spec.group, *_panels(spec, plan.tile)), kind.b)
    pitch = result_pitch(epilogue, spec.c_out)
    y = buffer("y", (spec.batch, *spec.out_spatial, pitch), result_dtype(epilogue, kind.sum))
    params = [x, w, *(epilogue.buffers if epilogue else ()), y]
    kb = KernelBuilder()
    strips = ceildiv(g.out[1], plan.strip)
    tasks = known(spec.batch * g.out[0] * strips * plan.groups)
    output = Output(kb.flat(y), each, epilogue, pitch, plan.touch)
    source = kb.flat(x)

    def task(number: Expr, scratch: tuple[Expr, Dim] | None) -> None:
        group = kb.let(floormod(number, plan.groups), "part")
        strip = kb.let(floormod(floordiv(number, plan.groups), strips), "strip")
        image = kb.let(floordiv(number, strips * plan.groups), "image")
        _strip(kb, spec, plan, g, source, scratch, border, kb.flat(w), output, image, strip, group)

    if not g.padded and not kind.copies:
        with kb.loop(tasks, "task", parallel=plan.workers > 1) as number:
            task(number, None)
        return kb.finish(params)
    share = known(g.kernel[0] * g.rows(plan.strip) * g.pitch + kind.depth - 1)
    workspace = buffer(WORKSPACE, (plan.workers, share), kind.held)
    with kb.loop(plan.workers, "worker", parallel=plan.workers > 1) as worker:
        base = kb.let(worker * share, "scratch")
        with kb.share(worker, plan.workers, tasks) as number:
            task(number, (kb.flat(workspace), base))
    return kb.finish([*params, workspace])


@dataclass(frozen=True)
class _Geometry:
    """A convolution lifted to three spatial dims (depth, height, width), with what addresses its pixels."""

    size: tuple[Dim, ...]
    out: tuple[Dim, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    padded: bool
    pitch: Dim
    """Elements from one row of the (padded) image to the next."""

    @staticmethod
    def of(spec: ConvSpec, clip: bool = False) -> _Geometry:
        """`clip`: the image is read where it lies, without a padded copy."""
        rank = len(spec.spatial)
        lead = 3 - rank

        def lift(values: tuple[Any, ...], fill: int) -> tuple[Any, ...]:
            return (*[fill] * lead, *[known(v) for v in values])

        width = known(spec.spatial[-1]) + (0 if clip else spec.pads[rank - 1] + spec.pads[-1])
        return _Geometry(
            lift(spec.spatial, 1),
            lift(spec.out_spatial, 1),
            lift(spec.kernel, 1),
            lift(spec.strides, 1),
            lift(spec.dilations, 1),
            lift(spec.pads[:rank], 0),
            spec.padded and not clip,
            width * spec.c_in,
        )

    @property
    def reach(self) -> tuple[int, ...]:
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def rows(self, strip: int) -> int:
        """Input rows that `strip` output rows need."""
        return (strip - 1) * self.strides[1] + self.reach[1]

    def is_clipped(self, ox: int, count: int) -> bool:
        """Whether windows of output pixels [ox, ox + count) of a row reach beyond the image, whose width is known."""
        last = (ox + count - 1) * self.strides[2] + self.reach[2] - 1
        return ox * self.strides[2] < self.begin[2] or last - self.begin[2] >= self.size[2]

    def inside(self, axis: int) -> float:
        """The part of all taps along a dim that lies inside the image, unknown dims guessed."""
        out, size, taps = guess(self.out[axis]), guess(self.size[axis]), self.kernel[axis]
        begins = [i * self.strides[axis] - self.begin[axis] for i in range(out)]
        places = [begin + tap * self.dilations[axis] for begin in begins for tap in range(taps)]
        return sum(0 <= place < size for place in places) / max(1, len(places))


def _as_matmul(spec: ConvSpec, flat: bool) -> MatmulSpec:
    pixels = (spec.batch, *spec.spatial)
    if flat:
        return MatmulSpec(product(pixels), spec.c_out, spec.c_in, trans_b=True)
    return MatmulSpec(spec.spatial[-1], spec.c_out, spec.c_in, batch_a=pixels[:-1], trans_b=True)


def _panels(spec: ConvSpec, tile: RegisterTile) -> tuple[int, int, int]:
    """The panels of a group's weights: how many, their steps, the elements of a step."""
    runs, length = spec.runs
    steps = runs * tile.arithmetic.steps(length)
    return -(-spec.c_out // spec.group // tile.panel), steps, tile.panel * tile.arithmetic.depth


def _pixel_tiles(
    spec: ConvSpec, g: _Geometry, target: Target, arithmetic: Arithmetic
) -> list[tuple[RegisterTile, int, int, int, bool]]:
    """(tile, height, width, taps side by side, whether they clip) choices, the cheapest by estimate first, then those
    with fewer loads."""
    out_h, out_w = static(g.out[1]), static(g.out[2])
    width, columns, c_group = max(1, guess(g.out[2])), spec.c_out // spec.group, spec.c_in // spec.group
    found: dict[tuple[RegisterTile, int, int, int, bool], tuple[float, float]] = {}
    can_clip = spec.padded and arithmetic.a == F32.a and static(g.size[2]) is not None and not _pads_depth(spec)
    inside = g.inside(1) * g.inside(2) if can_clip else 1.0

    def reads(count: int, taps: int) -> float:
        """Elements of x that `count` pixels of a row read in a step, each once."""
        places = {i * g.strides[2] + tap * g.dilations[2] for i in range(count) for tap in range(taps)}
        return len(places) / taps

    for vectors in range(1, min(6, -(-columns // target.lanes)) + 1):
        panels = -(-columns // (vectors * target.lanes))
        one = RegisterTile(1, vectors, target.lanes, arithmetic)
        far = is_far(one, c_group * int(product(g.kernel)), target)
        for most in range(1, min(16, width) + 1):
            tw = -(-width // -(-width // most)) if out_w else most
            heights = range(1, 1 + max(1, min(14 // tw, out_h or 4))) if tw == out_w else (1,)
            for th, taps in itertools.product(heights, {1, g.kernel[2]}):
                tile = replace(one, rows=th * tw)
                if not tile.fits(target, taps) or (taps > 1 and c_group % arithmetic.depth):
                    continue
                along = arithmetic.along if taps == 1 else 1
                loads = th * reads(tw, taps) / along
                per_row = width // tw * tile.cycles(far, loads)
                if width % tw:
                    rest = width % tw
                    per_row += replace(one, rows=th * rest).cycles(far, th * reads(rest, taps) / along)
                clip = can_clip and th == 1 and taps == g.kernel[2] and len(_clipped(g, tw)) <= MOST_CLIPPED
                cycles = panels * per_row * -(-guess(g.out[1]) // th) * (inside if clip else 1.0)
                found[tile, th, tw, taps, clip] = cycles, (loads + vectors) / (tile.rows * vectors)
    return sorted(found, key=lambda t: (*found[t], -t[0].rows))


def _pads_depth(spec: ConvSpec) -> bool:
    return len(spec.spatial) == 3 and (spec.pads[0] > 0 or spec.pads[3] > 0)


def _clipped(g: _Geometry, width: int) -> list[int]:
    """First pixels of the tiles of a row that are clipped; its width is known."""
    return [ox for ox in range(0, g.out[2], width) if g.is_clipped(ox, min(width, g.out[2] - ox))]


def _strip(
    kb: KernelBuilder,
    spec: ConvSpec,
    plan: ConvPlan,
    g: _Geometry,
    x: Expr,
    scratch: tuple[Expr, Dim] | None,
    border: Expr | None,
    w: Expr,
    output: Output,
    image: Expr,
    strip: Expr,
    part: Expr,
) -> None:
    """All output pixels of one strip, for one part of the panels."""
    c, c_group = spec.c_in, spec.c_in // spec.group
    n = kb.let(floordiv(image, g.out[0]), "n")
    oz = kb.let(floormod(image, g.out[0]), "oz")
    plane = known(g.size[1] * g.pitch)
    top = kb.let(strip * plan.strip, "top")
    if scratch is None:
        source = x
        skipped = g.begin[1] * g.pitch + g.begin[2] * c if plan.clip else 0
        first = (n * g.size[0] + oz * g.strides[0]) * plane + top * (g.strides[1] * g.pitch)
        origin = kb.let(first - skipped, "origin")
    else:
        source, origin = scratch
        plane = known(g.rows(plan.strip) * g.pitch)
        kind = plan.tile.arithmetic
        _copy_strip(kb, spec, g, kind, x, source, origin, border, n, oz, top, g.rows(plan.strip))
    planes = (g.kernel[0], g.dilations[0] * plane)
    lines = (g.kernel[1], g.dilations[1] * g.pitch)
    count, length = spec.runs
    if plan.taps == g.kernel[2]:
        run = Run((planes, lines), c_group, 1, plan.taps, g.dilations[2] * c)
    elif count < int(product(g.kernel)):
        run = Run((planes, lines), length)
    else:
        run = Run((planes, lines, (g.kernel[2], g.dilations[2] * c)), length)
    run = replace(run, slack=scratch is not None and plan.tile.arithmetic.sum != "float32")
    each = spec.c_out // spec.group
    panels, steps, width = _panels(spec, plan.tile)
    per_part = -(-panels // plan.groups)
    mine = minimum(per_part, panels - part * per_part) if plan.groups > 1 else panels
    with kb.loop(spec.group, "g") as group, kb.loop(mine, "p") as p:
        number = kb.let(part * per_part + p, "panel")
        b_base = kb.let((group * panels + number) * (steps * width), "b_base")

        def tile(oy: Dim, th: int, ox: Dim, tw: int) -> None:
            y_step, x_step = g.strides[1] * g.pitch, g.strides[2] * c
            base = origin + (oy - top) * y_step + ox * x_step + group * c_group
            pixels = [(dy, dx) for dy in range(th) for dx in range(tw)]
            walk = _clip(kb, g, run, c, oy, ox, tw) if plan.clip else run
            rows = Rows(kb.let(base, "base"), [dy * y_step + dx * x_step for dy, dx in pixels], plan.a_ahead)
            turn = floordiv(oy - top, plan.height) * ceildiv(g.out[2], plan.width) + floordiv(ox, plan.width)
            later = later_panel(kb, b_base, steps // run.taps, width * run.taps, turn, plan.spread)
            first = kb.let((image * g.out[1] + oy) * g.out[2] + ox, "pixel")
            out_rows = [first + dy * g.out[2] + dx for dy, dx in pixels]

            def index(i: Any) -> list[Expr]:
                if output.epilogue is not None and output.epilogue.flat:
                    return [i64(out_rows[i])]
                dy, dx = pixels[i]
                return [n, *[oz, oy + dy, ox + dx][3 - len(spec.spatial) :]]

            tile_to_output(
                kb, replace(plan.tile, rows=len(pixels)), source, rows, walk,
                Panels(w, b_base, width, plan.ahead, later), number,
                output, out_rows, index, first_column=group * each,
            )  # fmt: skip

        def line(oy: Dim, th: int) -> None:
            if plan.clip:
                _clipped_tiles(kb, g, plan.width, lambda ox, tw: tile(oy, th, ox, tw))
            else:
                row_tiles(kb, plan.width, g.out[2], lambda ox, tw: tile(oy, th, ox, tw))

        def own(oy: Dim, th: int) -> None:
            """Rows left over lie in one strip, but the strip before it may end where they begin."""
            with kb.when(oy < top + plan.strip if th < plan.height else True):
                line(oy, th)

        row_tiles(kb, plan.height, g.out[1], own, strip, plan.strip)


def _clip(kb: KernelBuilder, g: _Geometry, run: Run, c: int, oy: Dim, ox: Dim, count: int) -> Run:
    """The walk for `count` pixels from (oy, ox) on without what lies beyond the border. `ox` is an int where any does
    at the sides."""
    above = g.begin[1] - oy * g.strides[1]
    d = g.dilations[1]
    first = kb.let(maximum(floordiv(above + (d - 1), d), 0), "first_line")
    end = kb.let(minimum(floordiv(g.size[1] + above + (d - 1), d), g.kernel[1]), "end_line")
    lines = (first, kb.let(maximum(end - first, 0), "lines"))
    if not isinstance(ox, int) or not g.is_clipped(ox, count):
        return replace(run, turns=lines)
    left = g.begin[2] - ox * g.strides[2]
    return replace(run, turns=lines, span=(left * c, (left + g.size[2]) * c))


def _clipped_tiles(kb: KernelBuilder, g: _Geometry, width: int, emit: Callable[[Dim, int], None]) -> None:
    """Covers a row of the output by tiles: `emit(first pixel, pixels)`; clipped ones and the remainder by themselves,
    the others, which follow each other, in a loop."""
    clipped, full = _clipped(g, width), g.out[2] // width
    inner = [ox for ox in range(0, full * width, width) if ox not in clipped]
    for ox in range(0, g.out[2], width):
        if ox not in inner:
            emit(ox, min(width, g.out[2] - ox))
        elif ox == inner[0]:
            with kb.loop(len(inner), "t") as t:
                emit(kb.let(t * width + ox, "row"), width)


def _copy_strip(
    kb: KernelBuilder,
    spec: ConvSpec,
    g: _Geometry,
    kind: Arithmetic,
    x: Expr,
    scratch: Expr,
    origin: Dim,
    border: Expr | None,
    n: Expr,
    oz: Expr,
    top: Expr,
    rows: int,
) -> None:
    """Copies the input rows of a strip into scratch, with `border` (or zeros) where they leave the image."""
    c = spec.c_in

    def blank(at: Dim, count: Dim) -> None:
        kind.blank(kb, scratch, at, count, border)

    left = g.begin[2] * c
    row = known(g.size[2] * c)
    right = known(g.pitch - row - left)
    with kb.loop(g.kernel[0], "z") as z, kb.loop(rows, "r") as r:
        iz = kb.let(oz * g.strides[0] + z * g.dilations[0] - g.begin[0], "iz")
        iy = kb.let(top * g.strides[1] + r - g.begin[1], "iy")
        to = kb.let(origin + (z * rows + r) * g.pitch, "to")
        inside = tirx.all(iz >= 0, iz < i64(g.size[0]), iy >= 0, iy < i64(g.size[1]))

        def copy() -> None:
            if left:
                blank(to, left)
            kind.copy(kb, scratch, to + left, x, ((n * g.size[0] + iz) * g.size[1] + iy) * row, row)
            if not isinstance(right, int) or right:
                blank(to + left + row, right)

        kb.branch(inside, copy, lambda: blank(to, g.pitch))
