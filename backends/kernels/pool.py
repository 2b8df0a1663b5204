"""Max and average pooling over windows, channels last; global pooling is a window as large as the image.

The maximum of bytes is a byte. The average of bytes is a float: they are summed exactly, in integers, and what they
stand for comes in at the end, mean = (sum - count * zero_point) * (scale / count).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
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
    itemsize,
    known,
    maximum,
    minimum,
    product,
    result_dtype,
    result_pitch,
    splat,
    static,
)
from .depthwise import PARALLEL_MACS
from .exprs import cast_raw, const, widen, widened
from .matmul import guess
from .windows import Reduction, Windows, emit_windows


@dataclass(frozen=True)
class PoolSpec:
    """One pooling of x [batch, spatial..., channels]. `out` is the output's spatial shape (ceil_mode is in there).

    `pads` are as in ONNX. With `count_include_pad` an average divides by the taps within the padded image, else by
    those within the image. `dtype` is x's: float32, uint16 for the bits of bfloat16, or uint8 that stands for
    `scale * (x - zero_point)`.
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
    dtype: Literal["float32", "uint16", "uint8"] = "float32"
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True)
class PoolPlan:
    """`pixels` neighbouring outputs are computed together, `lanes` channels at a time; `ahead`: see emit_windows."""

    pixels: int
    lanes: int
    parallel: bool
    ahead: bool = False


def plans(spec: PoolSpec, target: Target) -> Iterator[PoolPlan]:
    """Legal plans, the best guess first."""
    taps = guess(spec.batch) * spec.channels * int(product(spec.kernel))
    for extent in spec.out:
        taps *= guess(extent)
    parallel = target.num_cores > 1 and taps >= PARALLEL_MACS
    lanes = 4 * target.lanes if spec.kind == "max" and spec.dtype == "uint8" else target.lanes
    ahead = itemsize(spec.dtype) * guess(product((spec.batch, *spec.spatial))) * spec.channels > target.l2 // 2
    for pixels in (4, 2, 8):
        yield PoolPlan(min(pixels, guess(spec.out[-1])), lanes, parallel, ahead)


def build(spec: PoolSpec, plan: PoolPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, the epilogue's buffers, y."""
    kb = KernelBuilder()
    result = "uint8" if spec.kind == "max" and spec.dtype == "uint8" else "float32"
    x = buffer("x", (spec.batch, *spec.spatial, spec.channels), spec.dtype)
    y = buffer("y", (spec.batch, *spec.out, result_pitch(epilogue, spec.channels)), result_dtype(epilogue, result))
    rank = len(spec.kernel)
    windows = Windows(
        known(spec.batch), spec.spatial, spec.out, spec.channels, spec.kernel, spec.strides, spec.dilations,
        spec.pads[:rank],
    )  # fmt: skip
    reduction = _maximum(result) if spec.kind == "max" else _average(spec, windows)
    emit_windows(
        kb, windows, reduction, kb.flat(x), kb.flat(y), plan.lanes, plan.pixels, plan.parallel, epilogue,
        ahead=plan.ahead,
    )  # fmt: skip
    return kb.finish([x, *(epilogue.buffers if epilogue else ()), y])


def _maximum(dtype: str) -> Reduction:
    def step(acc: Expr, value: Expr, _tap: Expr, _c: Expr, _lanes: int) -> Expr:
        value = widened(value)
        return tirx.Select(value > acc, value, acc)

    return Reduction(float("-inf") if dtype == "float32" else 0, step, lambda acc, *_: acc, dtype)


def _average(spec: PoolSpec, windows: Windows) -> Reduction:
    w = windows.lifted()
    rank = len(spec.kernel)
    after = (*[0] * (3 - rank), *spec.pads[rank:])
    bytes_ = spec.dtype == "uint8"

    def step(acc: Expr, value: Expr, *_: Any) -> Expr:
        return acc + (cast_raw(value, "int32") if bytes_ else widened(value))

    def finish(acc: Expr, counts: Sequence[Dim], starts: Sequence[Expr], lanes: int) -> Expr:
        present = product(counts)
        if spec.count_include_pad:
            counts = [_taps_in_padded(w, d, starts[d], after[d]) for d in range(3)]
        if bytes_:
            return mean_of_bytes(acc, present, product(counts), spec.scale, spec.zero_point, lanes)
        return acc / splat(tirx.Cast("float32", i64(product(counts))), lanes)

    return Reduction(0, step, finish, "int32" if bytes_ else "float32")


def mean_of_bytes(total: Expr, present: Dim, count: Dim, scale: float, zero_point: int, lanes: int) -> Expr:
    """What `present` bytes that sum to `total` stand for, divided by `count`, in float32."""
    if zero_point:
        total = total - widen(tirx.Cast("int32", i64(known(present * zero_point))), lanes)
    if static(count) is not None:
        factor = const(float(np.float32(scale) / np.float32(static(count))), "float32")
    else:
        factor = const(scale, "float32") / tirx.Cast("float32", i64(count))
    return cast_raw(total, "float32") * widen(factor, lanes)


def _taps_in_padded(w: Windows, d: int, start: Expr, after: int) -> Dim:
    """Taps of a window that lie within the padded image along dim `d`; ceil_mode windows may leave it."""
    if w.kernel[d] == 1:
        return 1
    room = w.size[d] + after - start + (w.dilations[d] - 1)
    return maximum(1, minimum(i64(w.kernel[d]), floordiv(room, w.dilations[d])))
