"""ADD AN INDEX DEFINITION: a function under `@defines` (or `@pointwise`) in a file of its family, listed here."""

from __future__ import annotations

import functools
import importlib

_FAMILIES = ("arithmetic", "activation", "cast", "movement", "gather", "generate", "resize", "sample", "nhwc")


@functools.cache
def load_all() -> None:
    """Registers every index definition."""
    for family in _FAMILIES:
        importlib.import_module(f".{family}", __package__)
