"""Compiles kernels and loads them into this process as functions of numpy arrays: for tests, tuning and measuring."""

from __future__ import annotations

import ctypes
import functools
import math
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.errors import TargetError
from .codegen import Signature, compile_kernels, own_features, signature
from .kernels.builder import itemsize
from .target import Target

LAUNCH_SLOT = "__TVMBackendParallelLaunch"
LAUNCHER = Path(__file__).parent / "runtime" / "c" / "jit_launch.c"
"""A pool of threads that spin, and the function that launches parallel loops on it."""


class JitKernel:
    """A compiled kernel: call it with numpy arrays in the order of its buffers, without the workspace.

    Dims that its shapes leave open are read off the arrays; the workspace is made here and kept for the next call.
    Arrays must be C-contiguous and of the buffers' dtypes; the kernel writes its output arrays.
    """

    def __init__(self, function: Any, known: Signature) -> None:
        self._function, self._signature = function, known
        self._workspace: np.ndarray | None = None

    def __call__(self, *arrays: np.ndarray) -> None:
        self.bind(*arrays)()

    def bind(self, *arrays: np.ndarray) -> Callable[[], None]:
        """A call without arguments, all preparation done: what to time."""
        keep, dims = self.arguments(*arrays)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in keep]
        sizes = [ctypes.c_int64(d) for d in dims]
        function = self._function

        def call(_keep: Any = keep) -> None:
            function(*pointers, *sizes)

        return call

    def arguments(self, *arrays: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
        """What the C function takes: the arrays with the workspace, and the dims."""
        known = self._signature
        buffers = known.buffers[: len(known.buffers) - (known.workspace is not None)]
        if len(arrays) != len(buffers):
            raise ValueError(f"kernel takes {[b.name for b in buffers]}, got {len(arrays)} arrays")
        dims = self._dims(buffers, arrays)
        keep = list(arrays)
        if known.workspace is not None:
            keep.append(self._scratch(dims))
        return keep, [dims[v] for v in known.dims]

    def _dims(self, buffers: Any, arrays: Any) -> dict[Any, int]:
        values: dict[Any, int] = {}
        for formal, actual in zip(buffers, arrays, strict=True):
            if str(formal.dtype) != str(actual.dtype) or not actual.flags.c_contiguous:
                raise ValueError(f"{formal.name}: expected contiguous {formal.dtype}, got {actual.dtype}")
            if len(formal.shape) == actual.ndim:
                for extent, size in zip(formal.shape, actual.shape, strict=True):
                    if extent in self._signature.dims:
                        values[extent] = size
        missing = [v for v in self._signature.dims if v not in values]
        if missing:
            raise ValueError(f"no array shows the dims {missing}")
        for formal, actual in zip(buffers, arrays, strict=True):
            if _count(formal.shape, values) != actual.size:
                raise ValueError(f"{formal.name}: expected shape {list(formal.shape)}, got {actual.shape}")
        return values

    def _scratch(self, dims: dict[Any, int]) -> np.ndarray:
        buffer: Any = self._signature.workspace
        nbytes = _count(buffer.shape, dims) * itemsize(str(buffer.dtype))
        if self._workspace is None or self._workspace.nbytes < nbytes:
            raw = np.full(nbytes + 64, 0xFF, "uint8")  # NaN as float32: nothing may read what it did not write
            self._workspace = raw[-raw.ctypes.data % 64 :]
        return self._workspace


def _count(shape: Any, values: Mapping[Any, int]) -> int:
    """Elements of a tensor of this shape."""
    return math.prod([evaluate(extent, values) for extent in shape])


def evaluate(expr: Any, values: Mapping[Any, int]) -> int:
    """The number that an int64 TIR expression has for these values of its variables."""
    import tvm
    import tvm_ffi

    def replace(var: Any) -> Any:
        return tvm.tirx.IntImm("int64", next(value for known, value in values.items() if known.same_as(var)))

    return int(tvm.sym.Analyzer().simplify(tvm_ffi.structural_map(expr, (tvm.tirx.Var, replace))))


@functools.cache
def _pool(threads: int) -> ctypes.CDLL:
    """The threads that all libraries of this process share which run on so many."""
    with tempfile.TemporaryDirectory(prefix="optc-jit-") as folder:
        library = Path(folder, "pool.so")
        subprocess.run(["cc", "-shared", "-O2", "-fPIC", str(LAUNCHER), "-o", str(library), "-lpthread"], check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.jit_start(ctypes.c_int32(threads))
    return loaded


def jit(kernels: Mapping[str, Any], target: Target | None = None, threads: int = 1) -> dict[str, JitKernel]:
    """Compiles `kernels` and returns them as callables that run on `threads` threads.

    Raises TargetError if they use AMX and the operating system does not grant it.
    """
    target = target or Target.host()
    pool = _pool(threads)
    if any("amx-tile" in own_features(func) for func in kernels.values()) and not pool.jit_request_amx():
        raise TargetError("the operating system does not let this process use AMX", found=target.name)
    with tempfile.TemporaryDirectory(prefix="optc-jit-") as folder:
        obj, library = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        obj.write_bytes(compile_kernels(kernels, target))
        subprocess.run(["cc", "-shared", str(obj), "-o", str(library), "-lm"], check=True)
        loaded = ctypes.CDLL(str(library))
    if hasattr(loaded, LAUNCH_SLOT):  # only where some kernel has a parallel loop
        launch = ctypes.cast(pool.jit_launch, ctypes.c_void_p)
        ctypes.c_void_p.in_dll(loaded, LAUNCH_SLOT).value = launch.value
    return {name: JitKernel(getattr(loaded, name), signature(func)) for name, func in kernels.items()}
