"""The checkpoint reader: strides honoured, foreign classes and bad views refused."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import pytest
from optc import OptcError
from optc.models.torchfile import MAGIC, read_checkpoint

PROTOCOL = 2


class StorageId:
    """Stands for a storage; pickled as a persistent id."""


class FloatStorage:
    """Pickled under torch's name."""


def _rebuild_tensor_v2() -> None:
    """Pickled under torch's name."""


class Tensor:
    def __init__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.layout = offset, shape, strides

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_tensor_v2, (StorageId(), *self.layout, False, OrderedDict())


class Pickler(pickle._Pickler):
    """Writes what torch would have written."""

    def persistent_id(self, obj: Any) -> Any:
        return ("storage", FloatStorage, "0", "cpu", 6, None) if isinstance(obj, StorageId) else None

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = {FloatStorage: "torch", _rebuild_tensor_v2: "torch._utils"}.get(obj)
        if module is None:
            return super().save_global(obj, name)
        self.write(f"c{module}\n{obj.__name__}\n".encode())
        return None

    dispatch: ClassVar = pickle._Pickler.dispatch | {type: save_global, FunctionType: save_global}


def write_checkpoint(path: Path, state: Any) -> Path:
    with path.open("wb") as file:
        for value in (MAGIC, 1001, {}, state, ["0"]):
            Pickler(file, PROTOCOL).dump(value)
        file.write(struct.pack("<q6f", 6, *range(6)))
    return path


def test_tensors_keep_their_strides(tmp_path: Path) -> None:
    state = OrderedDict(rows=Tensor(0, (2, 3), (3, 1)), columns=Tensor(0, (2, 3), (1, 2)), tail=Tensor(4, (2,), (1,)))
    arrays = read_checkpoint(write_checkpoint(tmp_path / "x.pth", state))
    np.testing.assert_array_equal(arrays["rows"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["columns"], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(arrays["tail"], [4, 5])


def test_a_view_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.pth", {"x": Tensor(4, (3,), (1,))})
    with pytest.raises(OptcError, match="reaches beyond"):
        read_checkpoint(path)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.pth", {"x": Path("/")})
    with pytest.raises(OptcError, match=r"refused to unpickle \(found pathlib"):
        read_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(OptcError, match="not a torch checkpoint"):
        read_checkpoint(path)
