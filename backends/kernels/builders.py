"""The kernels of single nodes as loops (`@builds`): families to load."""

from __future__ import annotations

import functools
import importlib

_FAMILIES = ("reduce", "contract", "windowed", "normalize", "misc")


@functools.cache
def load_all() -> None:
    """Registers every kernel builder."""
    for family in _FAMILIES:
        importlib.import_module(f".{family}", __package__)
