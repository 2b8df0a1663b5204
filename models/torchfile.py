"""Reads tensors out of a torch checkpoint without torch, and without running what a pickle may ask for.

The format is torch's first: four pickles (magic number, version, machine, the object), one more with the storages'
keys, then each storage as an int64 count and its raw numbers. Tensors are views into storages by offset and stride.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiler.errors import ModelError

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


@dataclass(frozen=True)
class _Storage:
    """Flat numbers of one dtype; `key` names them in the file."""

    dtype: str
    key: str
    size: int


@dataclass(frozen=True)
class _View:
    """A tensor: where in which storage, in numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """The tensor, copied out of its storage's numbers. Raises `ModelError` if it reaches beyond them."""
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.strides)) < 0 or last >= len(numbers):
            raise ModelError("a tensor reaches beyond its storage", node=self.storage.key)
        strides = [s * numbers.itemsize for s in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides))


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """Knows tensors in an ordered dict and refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in DTYPES:
            return partial(_Storage, DTYPES[name])
        raise ModelError("refused to unpickle", found=f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        _, storage_type, key, _, size, _ = pid
        storage: _Storage = storage_type(key, size)
        return storage


def read_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a state dict by name. Raises `ModelError` if the file is not of this format."""
    raw = path.read_bytes()
    stream = io.BytesIO(raw)
    try:
        magic, _, _, views, keys = (_Unpickler(stream).load() for _ in range(5))
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"not a torch checkpoint: {error}", node=str(path)) from error
    if magic != MAGIC:
        raise ModelError("not a torch checkpoint", node=str(path), expected=hex(MAGIC), found=magic)
    dtypes = {view.storage.key: view.storage.dtype for view in views.values()}
    numbers: dict[str, NDArray[Any]] = {}
    position = stream.tell()
    for key in keys:
        count = int.from_bytes(raw[position : position + 8], "little")
        numbers[key] = np.frombuffer(raw, dtypes[key], count, position + 8)
        position += 8 + numbers[key].nbytes
    return {name: view.array(numbers[view.storage.key]) for name, view in views.items()}
