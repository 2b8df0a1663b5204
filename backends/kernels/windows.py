"""Sliding windows that keep channels apart: what depthwise convolution and pooling have in common.

Channels last, vectors run over channels. Pixels whose windows lie inside the image along its width are done several at
a time, with the window's columns unrolled; pixels at the left and right border one by one, over the taps that exist.
Rows and planes of a window are clipped to the image by the bounds of their loops.
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
) -> None:
    """All windows from flat view `x` to flat view `y`, `pixels` interior ones at a time."""
    rank, w = len(windows.size), windows.lifted()
    inner_from = minimum(max(0, -(-w.begin[2] // w.strides[2])), w.out[2])
    reach = (w.kernel[2] - 1) * w.dilations[2] + 1
    fitting = floordiv(w.size[2] + w.begin[2] - reach, w.strides[2]) + 1
    inner_to = kb.let(minimum(w.out[2], maximum(fitting, inner_from)), "inner_to")
    inner = known(inner_to - inner_from)
    border = known(w.out[2] - inner)
    rows = known(product((w.batch, w.out[0], w.out[1])))
    c = w.channels
    pitch = result_pitch(epilogue, c)

    with kb.loop(rows, "row", parallel=parallel) as row:
        oy = kb.let(floormod(row, w.out[1]), "oy")
        image = kb.let(floordiv(row, w.out[1]), "image")
        oz, n = kb.let(floormod(image, w.out[0]), "oz"), kb.let(floordiv(image, w.out[0]), "n")
        z, yy = w.taps(kb, 0, oz), w.taps(kb, 1, oy)
        plane = kb.let(n * w.size[0] + z[2], "plane")

        def window(ox: Expr, count: int, whole: bool) -> None:
            """`count` neighbouring pixels from `ox` on, whose windows are whole along the width or are clipped."""
            xs: tuple[Dim, Dim, Expr] = (0, w.kernel[2], kb.let(ox * w.strides[2] - w.begin[2], "x0"))
            xs = xs if whole else w.taps(kb, 2, ox)
            counts = [z[1] - z[0], yy[1] - yy[0], w.kernel[2] if whole else xs[1] - xs[0]]

            def channels(at: Expr, width: int) -> None:
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

                    if whole and w.kernel[2] <= UNROLLED_TAPS:
                        for kx in range(w.kernel[2]):
                            for i in range(count):
                                step(i, kx, i * w.strides[2] + kx * w.dilations[2])
                        return
                    with kb.loop(known(xs[1] - xs[0]), "kx") as k:
                        kx = kb.let(xs[0] + k, "kx")
                        for i in range(count):
                            step(i, kx, i * w.strides[2] + kx * w.dilations[2])

                with kb.loop(known(z[1] - z[0]), "kz") as kz, kb.loop(known(yy[1] - yy[0]), "ky") as ky:
                    line(kb.let(z[0] + kz, "kz"), kb.let(yy[0] + ky, "ky"))
                for i in range(count):
                    value = reduction.finish(kb.load(acc, i * width, width), counts, [z[2], yy[2], xs[2]], width)
                    pixel = row * w.out[2] + ox + i
                    if epilogue is not None:
                        place = [pixel] if epilogue.flat else [n, *[oz, oy, ox + i][3 - rank :]]
                        value = epilogue(value, [*place, at], width)
                    kb.store(y, pixel * pitch + at, value, width)

            with kb.loop(c // lanes, "cv") as cv:
                if c >= lanes:
                    channels(kb.let(cv * lanes, "c"), lanes)
            for start, width in pieces(c % lanes, lanes // 2):
                channels(i64(c // lanes * lanes + start), width)

        row_tiles(kb, pixels, inner, lambda ox, count: window(kb.let(inner_from + ox, "ox"), count, True))
        if static(border) != 0:
            with kb.loop(border, "edge") as edge:
                after = _choose(edge, inner_from, inner)
                window(kb.let(after, "ox"), 1, False)


def _choose(edge: Expr, inner_from: Dim, inner: Dim) -> Expr:
    """The column of border pixel number `edge`: those left of the interior come first."""
    from tvm import tirx

    return tirx.Select(edge < i64(inner_from), edge, edge + i64(inner))
