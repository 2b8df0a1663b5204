"""Integer convolutions, channels last: x u8, weights s8, sums s32 from the bias on; the border is a byte given at run
time, the activation's zero point.

The loops are those of float32 (../conv.py) around a tile of byte dot products. Params of the kernel: x, packed
weights, bias s32 [c_out], what the sums lack s32 [c_out] if the arithmetic shifts, the border u8 [1] if there is one,
the epilogue's buffers, y, and the workspace if there is a border.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import tirx

from ...isa.dot import arithmetic
from ...target import Target
from .. import conv
from ..builder import Epilogue, buffer, i64
from ..conv import ConvPlan, ConvSpec, pack_weights
from ..matmul import MatmulPlan
from .bias import Biased

__all__ = ["build", "pack_weights", "plans"]


def plans(spec: ConvSpec, target: Target) -> Iterator[ConvPlan | MatmulPlan]:
    """Legal plans, the best guess first. Raises UnsupportedError for negative padding, which crops."""
    return conv.direct_plans(spec, target, arithmetic(target))


def build(spec: ConvSpec, plan: ConvPlan | MatmulPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel."""
    shifted = plan.tile.arithmetic.shift != 0
    if not spec.padded:
        return conv.build(spec, plan, Biased(spec.c_out, epilogue, shifted=shifted))
    pad = buffer("pad", (1,), "uint8")
    return conv.build(spec, plan, Biased(spec.c_out, epilogue, [pad], shifted=shifted), tirx.BufferLoad(pad, [i64(0)]))
