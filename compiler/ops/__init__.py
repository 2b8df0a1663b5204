"""The op vocabulary, a file a family."""

from __future__ import annotations

import functools
import importlib

_FAMILIES = (
    "bf16", "control", "conv", "fused", "gather", "generate", "host", "image", "integer", "matmul", "microsoft",
    "movement", "nhwc", "norm", "pointwise", "pool", "quantize", "recurrent", "reduce", "shape", "signal", "sort",
    "unknown", "weights",
)  # fmt: skip


@functools.cache
def load_all() -> None:
    """Registers every op."""
    for family in _FAMILIES:
        importlib.import_module(f".{family}", __package__)
