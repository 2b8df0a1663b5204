"""Whether a product goes to AMX tiles or to dot products: the same question for bytes and for bfloat16."""

from __future__ import annotations

from typing import Any

from ..kernels.builder import product, static
from ..kernels.convspec import ConvSpec
from ..kernels.matmul import MatmulSpec
from ..target import Target

FEWEST_ROWS = 9
"""Products of fewer rows are bound by reading the weights, which dot products do as fast, without setting up tiles."""


def families(dots: Any, tiles: Any, spec: ConvSpec | MatmulSpec, target: Target, fewest: int) -> list[Any]:
    """The families that compute `spec`, the likely best one first: `dots`, and `tiles` where the target has them.

    Tiles come first from `fewest` products a sum on (shorter sums leave most of a tile empty, and its way through
    memory to the epilogue takes longer than they do) and from FEWEST_ROWS rows; measured on Sapphire Rapids. A number
    of rows known only at run time is taken to be large.
    """
    if not tiles.applies(spec, target):
        return [dots]
    if isinstance(spec, ConvSpec):
        rows, products = product((spec.batch, *spec.out_spatial)), spec.c_in // spec.group * product(spec.kernel)
    else:
        rows, products = product((*spec.batch_a, spec.m)), spec.k
    known = static(rows)
    fills = products >= fewest and (known is None or known >= FEWEST_ROWS)
    return [tiles, dots] if fills else [dots, tiles]
