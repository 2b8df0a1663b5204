"""The mean over all pixels of each image, from bytes or bfloat16: x [batch, spatial..., channels] gives
[batch, channels]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..target import Target
from .builder import (
    Dim,
    Epilogue,
    Expr,
    KernelBuilder,
    buffer,
    floordiv,
    floormod,
    i64,
    known,
    pieces,
    product,
    result_dtype,
)
from .depthwise import PARALLEL_MACS
from .exprs import bf16_to_f32, cast_raw, const
from .matmul import guess
from .pool import mean_of_bytes

VECTORS = 4
"""Sums side by side: a cache line of bytes on AVX-512."""


@dataclass(frozen=True)
class MeanSpec:
    """x is uint8 that stands for `scale * (x - zero_point)`, its sums int32, so for up to 2^23 pixels; or `dtype` is
    uint16, the bits of bfloat16, whose sums are float32."""

    batch: Dim
    spatial: tuple[Dim, ...]
    channels: int
    scale: float
    zero_point: int
    dtype: Literal["uint8", "uint16"] = "uint8"

    @property
    def sum(self) -> str:
        """The dtype of the sums."""
        return "int32" if self.dtype == "uint8" else "float32"

    @property
    def pixels(self) -> Dim:
        return product(self.spatial)


@dataclass(frozen=True)
class MeanPlan:
    """`block` channels of an image are a task's share, `lanes` of them a vector."""

    block: int
    lanes: int
    parallel: bool


def plans(spec: MeanSpec, target: Target) -> Iterator[MeanPlan]:
    """Legal plans, the best guess first."""
    work = guess(spec.batch) * guess(spec.pixels) * spec.channels
    for vectors in (VECTORS, 2, 1):
        yield MeanPlan(vectors * target.lanes, target.lanes, target.num_cores > 1 and work >= PARALLEL_MACS)


def build(spec: MeanSpec, plan: MeanPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, the epilogue's buffers, y. An epilogue must be flat."""
    kb = KernelBuilder()
    channels, blocks = spec.channels, -(-spec.channels // plan.block)
    x = buffer("x", (spec.batch, *spec.spatial, channels), spec.dtype)
    y = buffer("y", (spec.batch, channels), result_dtype(epilogue))
    source, target = kb.flat(x), kb.flat(y)

    def block(image: Expr, first: Expr, columns: int) -> None:
        parts = pieces(columns, plan.lanes)
        total = kb.local(columns, spec.sum, "total")
        for start, lanes in parts:
            kb.store(total, start, const(0, spec.sum, lanes), lanes)
        base = kb.let(image * spec.pixels * channels + first, "base")
        with kb.loop(spec.pixels, "pixel") as pixel:
            at = kb.let(base + pixel * channels, "at")
            for start, lanes in parts:
                value = kb.load(source, at + start, lanes)
                value = cast_raw(value, "int32") if spec.dtype == "uint8" else bf16_to_f32(value)
                kb.store(total, start, kb.load(total, start, lanes) + value, lanes)
        for start, lanes in parts:
            value = kb.load(total, start, lanes)
            value = mean_of_bytes(value, spec.pixels, spec.pixels, spec.scale, spec.zero_point, lanes)
            if epilogue is not None:
                value = epilogue(value, [image, first + start], lanes)
            kb.store(target, image * channels + first + start, value, lanes)

    with kb.loop(known(spec.batch * blocks), "task", parallel=plan.parallel) as task:
        image, number = kb.let(floordiv(task, blocks), "image"), kb.let(floormod(task, blocks), "number")
        last = channels - (blocks - 1) * plan.block
        if last == plan.block:
            block(image, kb.let(number * plan.block, "first"), plan.block)
        else:
            kb.branch(
                i64(number) < blocks - 1 if blocks > 1 else False,
                lambda: block(image, kb.let(number * plan.block, "first"), plan.block),
                lambda: block(image, i64(channels - last), last),
            )
    return kb.finish([x, *(epilogue.buffers if epilogue else ()), y])
