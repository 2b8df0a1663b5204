"""optc compiles trained ONNX models into small, fast, checked artifacts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .compiler.errors import (
    ArtifactError,
    CalibrationError,
    CheckError,
    DatabaseError,
    ModelError,
    OptcError,
    ShapeError,
    TargetError,
    UnsupportedError,
    UsageError,
)

if TYPE_CHECKING:
    from .backends.runtime.model import Model, load
    from .backends.target import Target
    from .compiler.driver import compile, tune

# Looked up when first used: loading a compiled model needs numpy alone, compiling needs TVM and ONNX.
_LAZY = {
    "compile": ".compiler.driver",
    "tune": ".compiler.driver",
    "load": ".backends.runtime.model",
    "Model": ".backends.runtime.model",
    "Target": ".backends.target",
}

__version__ = "0.1.0"
__all__ = [
    "ArtifactError",
    "CalibrationError",
    "CheckError",
    "DatabaseError",
    "Model",
    "ModelError",
    "OptcError",
    "ShapeError",
    "Target",
    "TargetError",
    "UnsupportedError",
    "UsageError",
    "compile",
    "load",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
