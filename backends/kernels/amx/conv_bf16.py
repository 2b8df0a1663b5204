"""The conv kernels of this folder for bfloat16: operands bf16, sums and bias f32."""

from __future__ import annotations

from collections.abc import Iterator

from ...isa.amx import BF16
from ...target import Target
from ..conv import ConvSpec
from . import conv
from .conv import ConvPlan, build, pack_weights
from .matmul import MatmulPlan

__all__ = ["applies", "build", "pack_weights", "plans"]


def applies(spec: ConvSpec, target: Target) -> bool:
    """Whether there are plans."""
    return conv.applies(spec, target, BF16)


def plans(spec: ConvSpec, target: Target) -> Iterator[ConvPlan | MatmulPlan]:
    """Legal plans, the best guess first. Raises UnsupportedError where none `applies`."""
    return conv.plans(spec, target, BF16)
