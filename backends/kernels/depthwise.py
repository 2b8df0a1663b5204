"""Depthwise convolution: each channel by itself, any kernel, stride and dilation, 1-D to 3-D, channels last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..target import Target
from .builder import Epilogue, Expr, KernelBuilder, buffer, known, product, result_dtype, result_pitch
from .conv import ConvSpec
from .matmul import guess
from .tile import LINE_BYTES
from .windows import Reduction, Windows, emit_windows

PARALLEL_MACS = 150_000
"""Convolutions below this many multiply-adds (about 20 microseconds) run on one thread."""
FEWEST_LINES = 5
"""Neighbouring lines of a pixel that are worth passing over the image for."""


@dataclass(frozen=True)
class DepthwisePlan:
    """`pixels` neighbouring outputs are computed together, `lanes` channels at a time; the image is passed over for
    `block` channels (0: all) after the other. `ahead`: see emit_windows."""

    pixels: int
    lanes: int
    parallel: bool
    block: int = 0
    ahead: bool = False


def plans(spec: ConvSpec, target: Target) -> Iterator[DepthwisePlan]:
    """Legal plans, the best guess first."""
    width = guess(spec.out_spatial[-1])
    parallel = target.num_cores > 1 and spec.macs >= PARALLEL_MACS
    image = 4 * guess(product(spec.spatial)) * spec.c_in
    block = _block(spec, target) if image <= target.l2 // 2 else 0
    for most in (8, 4, 6, 2):
        tiles = -(-width // most)
        yield DepthwisePlan(-(-width // tiles), target.lanes, parallel, block, image > target.l2 // 2)


def _block(spec: ConvSpec, target: Target) -> int:
    """Channels of which L1 holds the rows of a window; all where those would be too few to use whole lines well."""
    row = 4 * guess(spec.spatial[-1])
    for taps in spec.kernel[:-1]:
        row *= taps
    fit = target.l1 // 2 // row
    if fit >= spec.c_out or fit < FEWEST_LINES * LINE_BYTES // 4:
        return 0
    parts = -(-spec.c_out // (fit // target.lanes * target.lanes))
    return -(-spec.c_out // parts // target.lanes) * target.lanes


def pack_weights(array: np.ndarray, spec: ConvSpec, plan: DepthwisePlan) -> np.ndarray:
    """Weights [c, 1, kernel...] as [taps, c]."""
    return np.ascontiguousarray(array.reshape(spec.c_out, -1).T)


def build(spec: ConvSpec, plan: DepthwisePlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, packed weights, the epilogue's buffers, y."""
    kb = KernelBuilder()
    taps = int(product(spec.kernel))
    x = buffer("x", (spec.batch, *spec.spatial, spec.c_in))
    w = buffer("w", (taps, spec.c_in))
    y = buffer("y", (spec.batch, *spec.out_spatial, result_pitch(epilogue, spec.c_out)), result_dtype(epilogue))
    weights = kb.flat(w)

    def step(acc: Expr, value: Expr, tap: Expr, c: Expr, lanes: int) -> Expr:
        return acc + value * kb.load(weights, tap * spec.c_in + c, lanes)

    windows = Windows(
        known(spec.batch), spec.spatial, spec.out_spatial, spec.c_in, spec.kernel, spec.strides, spec.dilations,
        spec.pads[: len(spec.kernel)],
    )  # fmt: skip
    reduction = Reduction(0.0, step, lambda acc, *_: acc)
    emit_windows(
        kb,
        windows,
        reduction,
        kb.flat(x),
        kb.flat(y),
        plan.lanes,
        plan.pixels,
        plan.parallel,
        epilogue,
        plan.block,
        plan.ahead,
    )
    return kb.finish([x, w, *(epilogue.buffers if epilogue else ()), y])
