"""Which register tile suits a product, and what is fetched ahead for it: estimates from cache sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from ..target import Target
from .builder import itemsize
from .tile import F32, Arithmetic, RegisterTile

AHEAD_BYTES, AHEAD_BYTES_IN_L2 = 8 << 10, 4 << 10
"""How far before its use a panel is fetched that comes from beyond L2, and from L2."""


@lru_cache(maxsize=4096)
def tiles(
    rows: int | None, columns: int, depth: int, target: Target, most_rows: int = 16, arithmetic: Arithmetic = F32
) -> tuple[RegisterTile, ...]:
    """Register tiles for a matrix of `rows` (None: many, unknown) x `columns` with `depth` products a sum, the cheapest
    by estimate first."""
    found: dict[RegisterTile, float] = {}
    whole, columns = max(1, rows) if rows is not None else 1 << 12, max(1, columns)
    in_l2 = columns * depth * itemsize(arithmetic.b) <= target.l2
    for vectors in range(1, min(6, -(-columns // target.lanes)) + 1):
        far = is_far(RegisterTile(1, vectors, target.lanes, arithmetic), depth, target)
        for most in range(1, min(most_rows, whole) + 1):
            blocks = -(-whole // most)
            tile = RegisterTile(-(-whole // blocks), vectors, target.lanes, arithmetic)
            if tile.fits(target):
                found[tile] = estimate(tile, whole, columns, far, in_l2 and is_near(tile, depth, target))
    return tuple(sorted(found, key=lambda t: (found[t], -t.rows)))


def is_far(tile: RegisterTile, depth: int, target: Target) -> bool:
    """Whether a panel of `depth` products a sum takes more than half of L1."""
    return itemsize(tile.arithmetic.b) * tile.panel * depth > target.l1 // 2


def is_near(tile: RegisterTile, depth: int, target: Target) -> bool:
    """Whether L1 holds the rows of this tile and of the next, beside a panel."""
    return 2 * itemsize(tile.arithmetic.held) * tile.rows * depth <= 0.6 * target.l1


def steps_ahead(tile: RegisterTile, depth: int, b_bytes: int, target: Target, taps: int = 1) -> int:
    """How many steps ahead to fetch panels of `depth` products a sum, of a B of this size: none if they stay in L1."""
    step = tile.arithmetic.lane_bytes * tile.panel * taps
    if b_bytes > target.l2 // 2:
        return AHEAD_BYTES // step
    return AHEAD_BYTES_IN_L2 // step if is_far(tile, depth, target) else 0


def is_spread(b_bytes: int, row_tiles: int, target: Target) -> bool:
    """Whether so many tiles should share in fetching the next panel of a B of this size, which hardly stays in L2."""
    return b_bytes > target.l2 // 4 and 2 <= row_tiles <= 32


def estimate(tile: RegisterTile, rows: int, columns: int, far: bool, near: bool) -> float:
    """Cycles per step of k over a whole matrix (see RegisterTile.cycles)."""
    full, rest = divmod(rows, tile.rows)
    per_panel = full * tile.cycles(far, near=near)
    per_panel += replace(tile, rows=rest).cycles(far, near=near) if rest else 0.0
    return -(-columns // tile.panel) * per_panel
