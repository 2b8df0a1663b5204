"""Convolutions of bfloat16 by dot products of pairs, channels last: x and weights bf16, sums f32.

The loops are those of float32 (../conv.py). Params of the kernel: x, packed weights, bias f32 [c_out], the epilogue's
buffers, y, and the workspace if there is a border.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...isa.bf16 import DotPairs
from ...target import Target
from .. import conv
from ..builder import Epilogue
from ..conv import ConvPlan, ConvSpec, pack_weights
from ..dot.bias import Biased
from ..matmul import MatmulPlan

__all__ = ["build", "pack_weights", "plans"]


def plans(spec: ConvSpec, target: Target) -> Iterator[ConvPlan | MatmulPlan]:
    """Legal plans, the best guess first. Raises UnsupportedError for negative padding, which crops."""
    return conv.direct_plans(spec, target, DotPairs())


def build(spec: ConvSpec, plan: ConvPlan | MatmulPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel."""
    return conv.build(spec, plan, Biased(spec.c_out, epilogue, dtype="float32"))
