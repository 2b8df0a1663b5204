"""The matmul kernels of this folder for bfloat16: operands bf16, sums and bias f32."""

from __future__ import annotations

from collections.abc import Iterator

from ...isa.amx import BF16
from ...target import Target
from ..matmul import MatmulSpec
from . import matmul
from .matmul import MatmulPlan, build, pack_weights

__all__ = ["applies", "build", "pack_weights", "plans"]


def applies(spec: MatmulSpec, target: Target) -> bool:
    """Whether there are plans."""
    return matmul.applies(spec, target, BF16)


def plans(spec: MatmulSpec, target: Target) -> Iterator[MatmulPlan]:
    """Legal plans, the best guess first. Raises UnsupportedError where none `applies`."""
    return matmul.plans(spec, target, BF16)
