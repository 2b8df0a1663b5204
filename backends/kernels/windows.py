"""Sliding windows that keep channels apart: what depthwise convolution and pooling have in common.

Channels last, vectors run over channels. Several neighbouring pixels are done together, with the window's columns
unrolled. Where the width is known, those at the left and right border leave out the taps beyond it; else they are done
one by one, over the taps that exist. Rows and planes of a window are clipped to the image by the bounds of their loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .builder import (
    Dim,
    Epilogue,
    Expr,
    KernelBuilder,
    floordiv,
    floormod,
    i64,
    known,
    maximum,
    minimum,
    pieces,
    product,
    result_pitch,
    static,
)
from .exprs import const
from .tile import row_tiles

UNROLLED_TAPS = 16
"""Windows up to this width are unrolled."""


@dataclass(frozen=True)
class Windows:
    """Windows over an image [batch, size..., channels] that give an image [batch, out..., channels].

    `begin` is the padding before each dim. All tuples have one entry a spatial dim; `lifted` makes that three.
    """

    batch: Dim
    size: tuple[Dim, ...]
    out: tuple[Dim, ...]
    channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]

    def lifted(self) -> Windows:
        """The same with three spatial dims."""
        lead = 3 - len(self.size)

        def fill(values: tuple[Any, ...], value: int) -> tuple[Any, ...]:
            return (*[value] * lead, *map(known, values))

        return replace(
            self,
            size=fill(self.size, 1),
            out=fill(self.out, 1),
            kernel=fill(self.kernel, 1),
            strides=fill(self.strides, 1),
            dilations=fill(self.dilations, 1),
            begin=fill(self.begin, 0),
        )

    def taps(self, kb: KernelBuilder, d: int, o: Expr) -> tuple[Dim, Dim, Expr]:
        """(first tap inside the image, one past the last, input position of tap 0) of the window at `o` along `d`."""
        k, dilation = self.kernel[d], self.dilations[d]
        start = kb.let(o * self.strides[d] - self.begin[d], "start")
        first = kb.let(maximum(0, floordiv(dilation - 1 - start, i64(dilation))), "first")
        end = kb.let(minimum(i64(k), floordiv(self.size[d] - start + (dilation - 1), i64(dilation))), "end")
        return first, end, start


@dataclass(frozen=True)
class Reduction:
    """What is done with a window: `step(acc, x, tap, c, lanes)` from `initial`, then `finish(acc, counts)`.

    `tap` is the number of the tap within the kernel, `counts[d]` the taps inside the image along each of three dims,
    `starts[d]` the input position of tap 0. `dtype` is the accumulator's; x has that of its buffer.
    """

    initial: float
    step: Callable[[Expr, Expr, Expr, Expr, int], Expr]
    finish: Callable[[Expr, Sequence[Dim], Sequence[Expr], int], Expr]
    dtype: str = "float32"


def emit_windows(
    kb: KernelBuilder,
    windows: Windows,
    reduction: Reduction,
    x: Expr,
    y: Expr,
    lanes: int,
    pixels: int,
    parallel: bool,
    epilogue: Epilogue | None,
    block: int = 0,
    ahead: bool = False,
) -> None:
    """All windows from flat view `x` to flat view `y`, `pixels` of a row at a time.

    The image is passed over for `block` channels (a multiple of `lanes`; 0: all) after the other, so that the rows that
    windows share stay in L1. `ahead`: what the next pixels read for the first time and what these write is fetched
    before they are computed, for images that do not stay in L2.
    """
    rank, w = len(windows.size), windows.lifted()
    inner_from = minimum(max(0, -(-w.begin[2] // w.strides[2])), w.out[2])
    reach = (w.kernel[2] - 1) * w.dilations[2] + 1
    fitting = floordiv(w.size[2] + w.begin[2] - reach, w.strides[2]) + 1
    inner_to = kb.let(minimum(w.out[2], maximum(fitting, inner_from)), "inner_to")
    inner = known(inner_to - inner_from)
    border = known(w.out[2] - inner)
    rows = known(product((w.batch, w.out[0], w.out[1])))
    c = w.channels
    block = block or c
    pitch = result_pitch(epilogue, c)
    width_known = static(w.size[2]) is not None and w.kernel[2] <= UNROLLED_TAPS

    with kb.loop(known(rows * -(-c // block)), "row", parallel=parallel) as task:
        row, part = (task, 0) if block >= c else (kb.let(task % rows, "row"), kb.let(floordiv(task, rows), "part"))
        oy = kb.let(floormod(row, w.out[1]), "oy")
        image = kb.let(floordiv(row, w.out[1]), "image")
        oz, n = kb.let(floormod(image, w.out[0]), "oz"), kb.let(floordiv(image, w.out[0]), "n")
        z, yy = w.taps(kb, 0, oz), w.taps(kb, 1, oy)
        plane = kb.let(n * w.size[0] + z[2], "plane")

        def window(ox: Dim, count: int, unrolled: bool) -> None:
            """`count` neighbouring pixels from `ox` on: unrolled, over the taps that exist if `ox` is an int and else
            over all; or one pixel over the taps that exist."""
            x0 = kb.let(ox * w.strides[2] - w.begin[2], "x0")
            xs: tuple[Dim, Dim, Dim] = (0, w.kernel[2], x0) if unrolled else w.taps(kb, 2, i64(ox))
            places = {
                (i, kx): i * w.strides[2] + kx * w.dilations[2] for kx in range(w.kernel[2]) for i in range(count)
            }
            if isinstance(x0, int):
                places = {at: dx for at, dx in places.items() if 0 <= x0 + dx < w.size[2]}

            def channels(at: Expr, width: int) -> None:
                if ahead and unrolled:
                    for below in range(max(0, w.kernel[1] - w.strides[1]), w.kernel[1]):
                        fresh = (plane * w.size[1] + yy[2] + below * w.dilations[1]) * w.size[2] + x0 + reach - 1
                        for i in range(count * w.strides[2]):
                            kb.prefetch(x, (fresh + count * w.strides[2] + i) * c + at)
                    for i in range(count):
                        kb.prefetch(y, (row * w.out[2] + ox + i) * pitch + at, write=True)
                acc = kb.local(count * width, reduction.dtype)
                for i in range(count):
                    kb.store(acc, i * width, const(reduction.initial, reduction.dtype, width), width)

                def line(kz: Expr, ky: Expr) -> None:
                    iz, iy = plane + kz * w.dilations[0], yy[2] + ky * w.dilations[1]
                    base = kb.let(((iz * w.size[1] + iy) * w.size[2] + xs[2]) * c + at, "base")
                    tap = (kz * w.kernel[1] + ky) * w.kernel[2]

                    def step(i: int, kx: Dim, dx: Dim) -> None:
                        value = kb.load(x, base + dx * c, width)
                        old = kb.load(acc, i * width, width)
                        kb.store(acc, i * width, reduction.step(old, value, tap + kx, at, width), width)

                    if unrolled:
                        for (i, kx), dx in places.items():
                            step(i, kx, dx)
                        return
                    with kb.loop(known(xs[1] - xs[0]), "kx") as k:
                        kx = kb.let(xs[0] + k, "kx")
                        step(0, kx, kx * w.dilations[2])

                with kb.loop(known(z[1] - z[0]), "kz") as kz, kb.loop(known(yy[1] - yy[0]), "ky") as ky:
                    line(kb.let(z[0] + kz, "kz"), kb.let(yy[0] + ky, "ky"))
                for i in range(count):
                    across = sum(at[0] == i for at in places) if unrolled else xs[1] - xs[0]
                    counts = [z[1] - z[0], yy[1] - yy[0], across]
                    starts = [z[2], yy[2], i64(x0 + i * w.strides[2])]
                    value = reduction.finish(kb.load(acc, i * width, width), counts, starts, width)
                    pixel = row * w.out[2] + ox + i
                    if epilogue is not None:
                        place = [pixel] if epilogue.flat else [n, *[oz, oy, ox + i][3 - rank :]]
                        value = epilogue(value, [*place, at], width)
                    kb.store(y, pixel * pitch + at, value, width)

            first = kb.let(part * (block // lanes), "first")
            vectors = known(minimum(i64(block // lanes), c // lanes - first)) if block < c else c // lanes
            with kb.loop(vectors, "cv") as cv:
                if c >= lanes:
                    channels(kb.let((first + cv) * lanes, "c"), lanes)
            with kb.when(part == -(-c // block) - 1 if block < c and c % lanes else True):
                for start, width in pieces(c % lanes, lanes // 2):
                    channels(i64(c // lanes * lanes + start), width)

        if width_known:
            _tiles_of_row(kb, w, pixels, lambda ox, count: window(ox, count, True))
            return
        unroll = w.kernel[2] <= UNROLLED_TAPS
        row_tiles(
            kb, pixels if unroll else 1, inner, lambda ox, count: window(kb.let(inner_from + ox, "ox"), count, unroll)
        )
        if static(border) != 0:
            with kb.loop(border, "edge") as edge:
                after = _choose(edge, inner_from, inner)
                window(kb.let(after, "ox"), 1, False)


def _tiles_of_row(kb: KernelBuilder, w: Windows, pixels: int, emit: Callable[[Dim, int], None]) -> None:
    """Covers a row of known width: `emit(first pixel, pixels)`, by numbers for tiles with windows that leave the image
    and for the remainder; tiles between them, in a loop, by an expression."""
    starts = range(0, w.out[2], pixels)
    reach = (w.kernel[2] - 1) * w.dilations[2]

    def is_inner(ox: int) -> bool:
        low = ox * w.strides[2] - w.begin[2]
        return low >= 0 and low + (pixels - 1) * w.strides[2] + reach < w.size[2] and ox + pixels <= w.out[2]

    inner = [ox for ox in starts if is_inner(ox)]
    for ox in starts:
        if ox not in inner:
            emit(ox, min(pixels, w.out[2] - ox))
        elif ox == inner[0]:
            with kb.loop(len(inner), "t") as t:
                emit(kb.let(t * pixels + ox, "ox"), pixels)


def _choose(edge: Expr, inner_from: Dim, inner: Dim) -> Expr:
    """The column of border pixel number `edge`: those left of the interior come first."""
    from tvm import tirx

    return tirx.Select(edge < i64(inner_from), edge, edge + i64(inner))
