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
from .windows import Reduction, Windows, emit_windows

PARALLEL_MACS = 150_000
"""Convolutions below this many multiply-adds (about 20 microseconds) run on one thread."""


@dataclass(frozen=True)
class DepthwisePlan:
    """`pixels` neighbouring outputs are computed together, `lanes` channels at a time."""

    pixels: int
    lanes: int
    parallel: bool


def plans(spec: ConvSpec, target: Target) -> Iterator[DepthwisePlan]:
    """Legal plans, the best guess first."""
    width = guess(spec.out_spatial[-1])
    parallel = target.num_cores > 1 and spec.macs >= PARALLEL_MACS
    for most in (8, 4, 6, 2):
        tiles = -(-width // most)
        yield DepthwisePlan(-(-width // tiles), target.lanes, parallel)


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
    emit_windows(kb, windows, reduction, kb.flat(x), kb.flat(y), plan.lanes, plan.pixels, plan.parallel, epilogue)
    return kb.finish([x, w, *(epilogue.buffers if epilogue else ()), y])
