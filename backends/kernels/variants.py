"""Plans that differ from a given one in how the work is cut and fetched: smaller and larger blocks, other splits among
threads, one thread, no fetching ahead. All are legal; a search measures them where a cost model cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from ..target import Target
from .builder import static
from .conv import ConvSpec
from .dot.depthwise import DepthwisePlan
from .matmul import MatmulSpec

BLOCKS: dict[str, Callable[[Any], int]] = {
    "row_block": lambda plan: plan.tile.rows,
    "strip": lambda plan: plan.height,
    "block": lambda plan: plan.tile.panel if hasattr(plan, "tile") else 0,
    "chunk": lambda plan: 1,
    "rows": lambda plan: 1,
}
"""Fields that say how much a task does before it goes on, and what each is a multiple of (0: it is no such thing)."""
PARTS = ("groups", "parts")
"""How many threads share the columns."""
HINTS = ("ahead", "a_ahead", "touch")
"""What fetches data before its use; nothing legal depends on it."""


def variants(spec: Any, plan: Any, target: Target) -> Iterator[Any]:
    """Legal plans for `spec` like `plan`; `plan` itself is not among them."""
    names = {f.name for f in fields(plan)}
    for name, unit in BLOCKS.items():
        size = getattr(plan, name, None)
        if isinstance(size, int) and not isinstance(plan, DepthwisePlan):  # whose rows are its register tile
            step = unit(plan)
            smaller = size // 2 // step * step if step else 0
            yield from (replace(plan, **{name: n}) for n in (smaller, size * 2) if n >= step > 0)
    splits = {1, target.num_cores if _columns(spec) >= target.num_cores * _panel(plan) else 1}
    for part in (n for n in PARTS if n in names):
        if is_parallel(plan):
            yield from (replace(plan, **{part: n}) for n in sorted(splits - {getattr(plan, part)}))
    if is_parallel(plan):
        yield replace(plan, **{n: v for n, v in _SERIAL.items() if n in names})
    for name in HINTS:
        value = getattr(plan, name, 0)
        if value:
            yield replace(plan, **{name: type(value)(0)})
        if value and name == "ahead" and not isinstance(value, bool):
            yield replace(plan, ahead=value * 2)


_SERIAL = {"parallel": False, "workers": 1, "groups": 1, "parts": 1}


def is_parallel(plan: Any) -> bool:
    """Whether several threads run a plan's kernel."""
    return bool(getattr(plan, "parallel", False)) or getattr(plan, "workers", 1) > 1


def _columns(spec: Any) -> int:
    """Columns of the result that threads may share; 0 where their number is not known."""
    if isinstance(spec, ConvSpec):
        return spec.c_out // spec.group
    return (static(spec.n) or 0) if isinstance(spec, MatmulSpec) else 0


def _panel(plan: Any) -> int:
    """Columns that are computed together."""
    if hasattr(plan, "tile"):
        return int(plan.tile.panel)
    return int(plan.block.columns) * 16 if hasattr(plan, "block") and hasattr(plan.block, "columns") else 1
