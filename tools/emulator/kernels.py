"""Single kernels compiled for another processor and called under QEMU with numpy arrays, as jit does for this one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.codegen import compile_kernels, signature
from ...backends.jit import JitKernel
from ...backends.runtime.toolchain import find_compiler
from . import Emulator


class EmulatedKernel(JitKernel):
    """A kernel in an emulator; the arrays it is called with hold afterwards what it left in them."""

    def __init__(self, emulator: Emulator, library: int, name: str, func: Any) -> None:
        super().__init__(None, signature(func))
        self._emulator, self._library, self._name = emulator, library, name

    def bind(self, *arrays: np.ndarray) -> Callable[[], None]:
        keep, dims = self.arguments(*arrays)
        return lambda: self._emulator.call(self._library, self._name, keep, dims)


def emulate(kernels: Mapping[str, Any], emulator: Emulator) -> dict[str, EmulatedKernel]:
    """Compiles `kernels` for the emulator's target and loads them there; parallel loops run as three tasks in turn."""
    compiler = find_compiler(emulator.target.triple)
    with tempfile.TemporaryDirectory(prefix="optc-emulated-") as folder:
        obj, library = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        obj.write_bytes(compile_kernels(kernels, emulator.target))
        compiler.run("-shared", obj, "-o", library, "-lm")
        number = emulator.load_library(library)
    return {name: EmulatedKernel(emulator, number, name, func) for name, func in kernels.items()}
