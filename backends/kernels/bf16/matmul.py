"""Matrix products of bfloat16 with a constant B by dot products of pairs: `y[..., m, n] = a b + bias`, sums f32.

The loops are those of float32 (../matmul.py). Params of the kernel: a, packed b, bias f32 [n], the epilogue's buffers,
y.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...isa.bf16 import DotPairs
from ...target import Target
from .. import matmul
from ..builder import Dim, Epilogue
from ..dot.bias import Biased
from ..matmul import MatmulPlan, MatmulSpec, pack_weights

__all__ = ["build", "pack_weights", "plans"]


def plans(spec: MatmulSpec, target: Target) -> Iterator[MatmulPlan]:
    """Legal plans, the best guess first."""
    return matmul.plans(spec, target, DotPairs())


def build(
    spec: MatmulSpec, plan: MatmulPlan, epilogue: Epilogue | None = None, rows: tuple[Dim, ...] | None = None
) -> Any:
    """The kernel; `rows` as in matmul.build."""
    return matmul.build(spec, plan, Biased(int(spec.n), epilogue, dtype="float32"), rows)
