"""Shared by the AMX tests: who can run them, integer data, memory that ends at a page nobody may touch, an epilogue."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from optc.backends.kernels.builder import Dim, buffer
from optc.backends.runtime.host import host_features
from tvm import tirx

needs_amx = pytest.mark.skipif("amx-int8" not in host_features(), reason="this processor has no AMX")


def integers(dtype: str, *shape: int) -> np.ndarray:
    """The whole range of a type."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(len(shape)).integers(limits.min, limits.max, shape, dtype, endpoint=True)


def fenced(array: np.ndarray) -> np.ndarray:
    """A copy that ends where a page begins that cannot be read or written: who leaves it crashes."""
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(first + size), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    out = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    out[...] = array
    return out


class AddFull:
    """Adds a tensor of the output's shape and gives float32: reads at the indices it is told."""

    dtype = "float32"

    def __init__(self, shape: Sequence[Dim], flat: bool) -> None:
        self.flat = flat
        rows: Any = 1
        for dim in shape[:-1]:
            rows = rows * dim
        self.buffers = [buffer("full", (rows, shape[-1]) if flat else shape, "uint8")]

    def __call__(self, value: Any, indices: Sequence[Any], lanes: int) -> Any:
        last = indices[-1] if lanes == 1 else tirx.Ramp(indices[-1], tirx.IntImm("int64", 1), lanes)
        added = tirx.BufferLoad(self.buffers[0], [*indices[:-1], last])
        wide = "float32" if lanes == 1 else f"float32x{lanes}"
        return tirx.Cast(wide, value) + tirx.Cast(wide, added)
