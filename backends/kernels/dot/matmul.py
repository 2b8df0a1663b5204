"""Integer matrix products with a constant B: `y[..., m, n] = Σ_k a[..., m, k] * b[k, n] + bias[n]`, a u8, b s8, y s32.

The loops are those of float32 (../matmul.py) around a tile of byte dot products. Params of the kernel: a, packed b,
bias s32 [n], what the sums lack s32 [n] if the arithmetic shifts, the epilogue's buffers, y.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...isa.dot import arithmetic
from ...target import Target
from .. import matmul
from ..builder import Dim, Epilogue
from ..matmul import MatmulPlan, MatmulSpec, pack_weights
from .bias import Biased

__all__ = ["build", "pack_weights", "plans"]


def plans(spec: MatmulSpec, target: Target) -> Iterator[MatmulPlan]:
    """Legal plans, the best guess first."""
    return matmul.plans(spec, target, arithmetic(target))


def build(
    spec: MatmulSpec, plan: MatmulPlan, epilogue: Epilogue | None = None, rows: tuple[Dim, ...] | None = None
) -> Any:
    """The kernel; `rows` as in matmul.build."""
    shifted = plan.tile.arithmetic.shift != 0
    return matmul.build(spec, plan, Biased(int(spec.n), epilogue, shifted=shifted), rows)
