"""The op vocabulary, a file a family."""

from __future__ import annotations

import functools
import importlib

_FAMILIES = (
    "conv", "gather", "generate", "matmul", "movement", "norm", "pointwise", "pool", "reduce", "shape", "unknown",
)  # fmt: skip


@functools.cache
def load_all() -> None:
    """Registers every op."""
    for family in _FAMILIES:
        importlib.import_module(f".{family}", __package__)
