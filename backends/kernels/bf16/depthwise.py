"""Depthwise convolution of bfloat16: x in bf16, weights and sums in float32 (see ../depthwise.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...target import Target
from ..builder import Epilogue, Expr, KernelBuilder, buffer, known, product, result_dtype, result_pitch
from ..conv import ConvSpec
from ..depthwise import DepthwisePlan, pack_weights
from ..depthwise import plans as float_plans
from ..exprs import bf16_to_f32
from ..windows import Reduction, Windows, emit_windows

__all__ = ["build", "pack_weights", "plans"]


def plans(spec: ConvSpec, target: Target) -> Iterator[DepthwisePlan]:
    """Legal plans, the best guess first."""
    return float_plans(spec, target)


def build(spec: ConvSpec, plan: DepthwisePlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, packed weights, the epilogue's buffers, y."""
    kb = KernelBuilder()
    x = buffer("x", (spec.batch, *spec.spatial, spec.c_in), "uint16")
    w = buffer("w", (int(product(spec.kernel)), spec.c_in))
    y = buffer("y", (spec.batch, *spec.out_spatial, result_pitch(epilogue, spec.c_out)), result_dtype(epilogue))
    weights = kb.flat(w)

    def step(acc: Expr, value: Expr, tap: Expr, c: Expr, lanes: int) -> Expr:
        return acc + bf16_to_f32(value) * kb.load(weights, tap * spec.c_in + c, lanes)

    windows = Windows(
        known(spec.batch), spec.spatial, spec.out_spatial, spec.c_in, spec.kernel, spec.strides, spec.dilations,
        spec.pads[: len(spec.kernel)],
    )  # fmt: skip
    reduction = Reduction(0.0, step, lambda acc, *_: acc)
    emit_windows(kb, windows, reduction, kb.flat(x), kb.flat(y), plan.lanes, plan.pixels, plan.parallel, epilogue)
    return kb.finish([x, w, *(epilogue.buffers if epilogue else ()), y])
