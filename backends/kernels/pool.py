"""Max and average pooling over windows, channels last; global pooling is a window as large as the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx

from ..target import Target
from .builder import (
    Dim,
    Epilogue,
    Expr,
    KernelBuilder,
    buffer,
    floordiv,
    i64,
    known,
    maximum,
    minimum,
    product,
    result_dtype,
    splat,
)
from .depthwise import PARALLEL_MACS
from .matmul import guess
from .windows import Reduction, Windows, emit_windows


@dataclass(frozen=True)
class PoolSpec:
    """One pooling of x [batch, spatial..., channels]. `out` is the output's spatial shape (ceil_mode is in there).

    `pads` are as in ONNX. With `count_include_pad` an average divides by the taps within the padded image, else by
    those within the image.
    """

    kind: Literal["max", "average"]
    batch: Dim
    spatial: tuple[Dim, ...]
    out: tuple[Dim, ...]
    channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    count_include_pad: bool = False


@dataclass(frozen=True)
class PoolPlan:
    """`pixels` neighbouring outputs are computed together, `lanes` channels at a time."""

    pixels: int
    lanes: int
    parallel: bool


def plans(spec: PoolSpec, target: Target) -> Iterator[PoolPlan]:
    """Legal plans, the best guess first."""
    taps = guess(spec.batch) * spec.channels * int(product(spec.kernel))
    for extent in spec.out:
        taps *= guess(extent)
    parallel = target.num_cores > 1 and taps >= PARALLEL_MACS
    for pixels in (4, 2, 8):
        yield PoolPlan(min(pixels, guess(spec.out[-1])), target.lanes, parallel)


def build(spec: PoolSpec, plan: PoolPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, the epilogue's buffers, y."""
    kb = KernelBuilder()
    x = buffer("x", (spec.batch, *spec.spatial, spec.channels))
    y = buffer("y", (spec.batch, *spec.out, spec.channels), result_dtype(epilogue))
    rank = len(spec.kernel)
    windows = Windows(
        known(spec.batch), spec.spatial, spec.out, spec.channels, spec.kernel, spec.strides, spec.dilations,
        spec.pads[:rank],
    )  # fmt: skip
    reduction = _maximum() if spec.kind == "max" else _average(spec, windows)
    emit_windows(kb, windows, reduction, kb.flat(x), kb.flat(y), plan.lanes, plan.pixels, plan.parallel, epilogue)
    return kb.finish([x, *(epilogue.buffers if epilogue else ()), y])


def _maximum() -> Reduction:
    def step(acc: Expr, value: Expr, _tap: Expr, _c: Expr, _lanes: int) -> Expr:
        return tirx.Select(value > acc, value, acc)

    return Reduction(float("-inf"), step, lambda acc, *_: acc)


def _average(spec: PoolSpec, windows: Windows) -> Reduction:
    w = windows.lifted()
    rank = len(spec.kernel)
    after = (*[0] * (3 - rank), *spec.pads[rank:])

    def finish(acc: Expr, counts: Sequence[Dim], starts: Sequence[Expr], lanes: int) -> Expr:
        if spec.count_include_pad:
            counts = [_taps_in_padded(w, d, starts[d], after[d]) for d in range(3)]
        count = tirx.Cast("float32", i64(product(counts)))
        return acc / splat(count, lanes)

    return Reduction(0.0, lambda acc, value, *_: acc + value, finish)


def _taps_in_padded(w: Windows, d: int, start: Expr, after: int) -> Dim:
    """Taps of a window that lie within the padded image along dim `d`; ceil_mode windows may leave it."""
    if w.kernel[d] == 1:
        return 1
    room = w.size[d] + after - start + (w.dilations[d] - 1)
    return maximum(1, minimum(i64(w.kernel[d]), floordiv(room, w.dilations[d])))
