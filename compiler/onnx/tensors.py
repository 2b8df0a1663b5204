"""TensorProto, TypeProto and AttributeProto from and to numpy arrays, TensorTypes and attributes."""

from __future__ import annotations

import keyword
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError, UnsupportedError
from ..types import DType, Shape, TensorType, dim_text

if TYPE_CHECKING:
    import onnx

_DENSE_LIMIT = 1 << 31  # elements a sparse tensor may have when written out
NARROW = {21: (DType.U8, 4), 22: (DType.I8, 4), 25: (DType.U8, 2), 26: (DType.I8, 2)}
"""UINT4, INT4, UINT2, INT2: the bits of an element, and what a constant of them becomes, which holds the same numbers.
No other value may have such a type."""


class ExternalData:
    """The files beside a model, each memory-mapped once. None of them may lie outside the model's folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._maps: dict[Path, np.ndarray] = {}

    def array(self, tensor: onnx.TensorProto, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """A read-only view of the tensor's bytes. Raises ModelError if it may not or cannot be read."""
        info = {e.key: e.value for e in tensor.external_data}
        nbytes = math.prod(shape) * dtype.itemsize
        content = self._map(tensor.name, info.get("location", ""))
        try:
            offset, length = int(info.get("offset") or 0), int(info.get("length") or nbytes)
        except ValueError as error:
            raise ModelError("external data: offset or length is no number", node=tensor.name) from error
        if length != nbytes:
            raise ModelError(
                "external data: length does not fit the shape", node=tensor.name, expected=nbytes, found=length
            )
        if offset < 0 or offset + nbytes > content.size:
            raise ModelError(
                "external data: the file is too short",
                node=tensor.name,
                expected=f"{offset + nbytes} bytes",
                found=content.size,
            )
        return content[offset : offset + nbytes].view(dtype).reshape(shape)

    def _map(self, name: str, location: str) -> np.ndarray:
        path = self._confined(name, location)
        if path not in self._maps:
            size = path.stat().st_size
            self._maps[path] = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
        return self._maps[path]

    def _confined(self, name: str, location: str) -> Path:
        """The file, which must lie in the model's folder, links followed."""
        if self.folder is None:
            raise ModelError(
                "external data: the model was given as bytes, without a folder", node=name, hint="Give the path."
            )
        relative = Path(location.replace("\\", "/"))
        if not location or relative.is_absolute() or ".." in relative.parts or ":" in location:
            raise ModelError("external data: the location must be a path below the model's folder", node=name,
                             found=repr(location))  # fmt: skip
        path = Path(os.path.realpath(self.folder / relative))
        if not path.is_relative_to(os.path.realpath(self.folder)):
            raise ModelError("external data: a link leads out of the model's folder", node=name, found=repr(location))
        if not path.is_file():
            raise ModelError("external data: no such file", node=name, found=repr(location))
        return path


def element_type(number: int, name: str) -> DType:
    """The DType of an onnx.TensorProto.DataType. Raises UnsupportedError for the 4- and 8-bit float types and such."""
    import onnx

    try:
        dtype = DType(number)
    except ValueError:
        known = number in onnx.TensorProto.DataType.values()
        text = onnx.TensorProto.DataType.Name(number) if known else str(number)
        raise UnsupportedError(f"element type {text} is not supported", node=name) from None
    if dtype is DType.STRING:
        raise UnsupportedError("string tensors are not supported", node=name)
    return dtype


def to_array(tensor: onnx.TensorProto, external: ExternalData, name: str = "") -> np.ndarray:
    """The elements, read-only, without a copy where the proto holds raw or external bytes.

    Raises ModelError if the bytes present do not fit the declared shape, before anything is allocated.
    """
    import onnx

    name = name or tensor.name
    shape = tuple(int(d) for d in tensor.dims)
    if any(d < 0 for d in shape):
        raise ModelError("a constant's dims must not be negative", node=name, found=list(shape))
    if tensor.data_type in NARROW:
        return _widened(tensor, external, name, shape)
    dtype = element_type(tensor.data_type, name).numpy
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return external.array(tensor, dtype, shape)
    if tensor.HasField("raw_data"):
        raw = tensor.raw_data
        if len(raw) != math.prod(shape) * dtype.itemsize:
            _wrong_size(name, shape, math.prod(shape) * dtype.itemsize, len(raw), "bytes")
        return np.frombuffer(raw, dtype).reshape(shape)
    present = sum(len(getattr(tensor, f)) for f in _TYPED_FIELDS)
    expected = math.prod(shape) * (2 if dtype.kind == "c" else 1)
    if present != expected:
        _wrong_size(name, shape, expected, present, "elements")
    array = onnx.numpy_helper.to_array(tensor)
    array.flags.writeable = False
    return array


def _widened(tensor: onnx.TensorProto, external: ExternalData, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Elements of less than a byte, a byte each; packed ones lie in the low bits of a byte first."""
    import onnx

    dtype, bits = NARROW[tensor.data_type]
    count = math.prod(shape)
    nbytes = -(-count * bits // 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raw = external.array(tensor, np.dtype(np.uint8), (nbytes,))
    elif tensor.HasField("raw_data"):
        raw = np.frombuffer(tensor.raw_data, np.uint8)
    else:
        raw = np.array(tensor.int32_data, np.uint8)
    if raw.size != nbytes:
        _wrong_size(name, shape, nbytes, raw.size, "bytes")
    fields: np.ndarray = (raw[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    wide: np.ndarray = fields.reshape(-1)[:count].astype(dtype.numpy)
    if dtype is DType.I8:
        half = np.int8(1 << (bits - 1))
        wide = (wide ^ half) - half
    wide.flags.writeable = False
    return wide.reshape(shape)


_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def _wrong_size(name: str, shape: tuple[int, ...], expected: int, found: int, unit: str) -> None:
    raise ModelError(
        f"a constant of shape {list(shape)} has the wrong amount of data",
        node=name,
        expected=f"{expected} {unit}",
        found=found,
    )


def sparse_to_array(sparse: onnx.SparseTensorProto, external: ExternalData) -> np.ndarray:
    """A sparse tensor written out. Raises ModelError if its indices do not fit its shape."""
    name = sparse.values.name
    values = to_array(sparse.values, external)
    indices = to_array(sparse.indices, external, name)
    shape = tuple(int(d) for d in sparse.dims)
    if math.prod(shape) > _DENSE_LIMIT:
        raise ModelError("a sparse constant is too large to be written out", node=name, found=list(shape))
    dense = np.zeros(shape, values.dtype)
    places = tuple(indices.T) if indices.ndim == 2 else (indices,)
    flat = dense.reshape(-1) if indices.ndim == 1 else dense
    try:
        flat[places] = values
    except (IndexError, ValueError) as error:
        raise ModelError(f"the indices of a sparse constant do not fit: {error}", node=name) from error
    dense.flags.writeable = False
    return dense


def tensor_proto(name: str, array: np.ndarray) -> onnx.TensorProto:
    """The array as raw bytes."""
    import onnx

    if array.dtype == object:
        return onnx.numpy_helper.from_array(array, name)
    raw = np.ascontiguousarray(array).tobytes()
    dtype = DType.from_numpy(array.dtype)
    return onnx.TensorProto(name=name, data_type=dtype.value, dims=array.shape, raw_data=raw)


def type_proto(type: TensorType) -> onnx.TypeProto:
    """Expressions become dim_param text; data symbols become unknown dims."""
    import onnx

    shape = None if type.shape is None else [d if isinstance(d, int) else _param(d) for d in type.shape]
    return onnx.helper.make_tensor_type_proto(type.dtype.value, shape)


def _param(dim: object) -> str | None:
    text = dim_text(dim)
    return None if re.search(r"(?<!\w)_", text) else text


def identifier(text: str) -> str:
    """A dim_param as a symbol's name: letters, digits and inner underscores, no Python keyword or sympy function."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    if not name[:1].isalpha():
        name = f"d{name}"
    reserved = keyword.iskeyword(name) or name in ("floor", "ceiling", "Max", "Min", "Mod", "Abs")
    return f"{name}_" if reserved else name


def unknown_kind(type: onnx.TypeProto) -> str | None:
    """What a type is, if it is no tensor: "sequence", "map", "optional", "sparse tensor" or "untyped"."""
    kind = type.WhichOneof("value")
    names: dict[str | None, str | None] = {"tensor_type": None, "sequence_type": "sequence", "map_type": "map"}
    names |= {"optional_type": "optional", "sparse_tensor_type": "sparse tensor", None: "untyped"}
    return names.get(kind, str(kind))


def tensor_type(info: onnx.ValueInfoProto, dims: Iterable[object] | None) -> TensorType:
    """The type of a declared value, with the dims the caller made of its shape (None: unknown rank)."""
    shape: Shape | None = None if dims is None else tuple(dims)
    return TensorType(element_type(info.type.tensor_type.elem_type, info.name), shape)
