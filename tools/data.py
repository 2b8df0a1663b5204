"""Sample inputs: read from what a user names, or made up."""

from __future__ import annotations

import contextlib
import functools
import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..backends.runtime.cache import digest
from ..backends.runtime.model import Port
from ..backends.runtime.types import numpy_dtype
from ..compiler.errors import CalibrationError, ShapeError
from ..compiler.ir import Graph
from ..compiler.types import dim_text

Sample = dict[str, np.ndarray]


def open_data(path: str | Path, ports: Sequence[Port]) -> Dataset:
    """The samples in an `.npz` (an array per input, stacked on the first axis), a folder of `.npz` files (a sample
    each) or a folder in the ONNX `test_data_set_N` layout.

    Raises CalibrationError naming the file if there is nothing of the kind; reading raises it for damaged files.
    """
    source = Path(path)
    if source.is_file():
        return _Stack((source,), tuple(ports))
    if not source.is_dir():
        raise CalibrationError("no such file or folder", node=str(source))
    if files := sorted(source.glob("*.npz")):
        return _Files(tuple(files), tuple(ports))
    sets = sorted(source.glob("test_data_set_*"), key=_number) or [source] * any(source.glob("input_*.pb"))
    if not sets:
        raise CalibrationError("folder holds neither .npz files nor test_data_set_N folders", node=str(source))
    return _OnnxSets(tuple(sets), tuple(ports))


def read_samples(path: str | Path, ports: Sequence[Port]) -> Iterator[Sample]:
    """The samples of `open_data`, each checked: exactly the inputs' names, dtypes and shapes.

    Raises CalibrationError naming the file and, where names or shapes do not fit, the input.
    """
    data = open_data(path, ports)
    for index, sample in enumerate(data):
        yield _checked(data.origin(index), sample, ports)


def ports_of(graph: Graph) -> list[Port]:
    """A graph's inputs as an artifact declares them. Raises CalibrationError for an input of unknown rank."""
    ports = []
    for value in graph.inputs:
        if value.type.shape is None:
            raise CalibrationError("the input's rank is not known", node=value.name, hint="Fix its shape.")
        dims = tuple(d if isinstance(d, int) else dim_text(d) for d in value.type.shape)
        ports.append(Port(value.name, value.type.dtype.numpy.name, dims))
    return ports


# --- readers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset(ABC):
    """Samples on disk, read one by one and anew by each iteration. `paths` are what holds them."""

    paths: tuple[Path, ...]
    ports: tuple[Port, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]: ...

    def origin(self, index: int) -> Path:
        """Where a sample comes from."""
        return self.paths[index]

    @functools.cached_property
    def key(self) -> str:
        """A hash of the files' names and contents."""
        files = [f for p in self.paths for f in (sorted(p.rglob("*.pb")) if p.is_dir() else [p])]
        parts = [part for file in files for part in (file.name.encode(), file)]
        try:
            return digest(parts)
        except OSError as error:
            raise CalibrationError(f"cannot read the data: {error.strerror}", node=str(error.filename)) from error


class _Stack(Dataset):
    """An .npz with an array per input; what is in memory at once is one row of each."""

    def __len__(self) -> int:
        with contextlib.ExitStack() as stack:
            return self._members(stack)[1]

    def __iter__(self) -> Iterator[Sample]:
        with contextlib.ExitStack() as stack:
            members, count = self._members(stack)
            for _ in range(count):
                yield {port.name: _batched(members[port.name].row(), port) for port in self.ports}

    def origin(self, index: int) -> Path:
        return self.paths[0]

    def _members(self, stack: contextlib.ExitStack) -> tuple[dict[str, _Member], int]:
        """The arrays, open at their first row, and the number of rows."""
        (path,) = self.paths
        archive = stack.enter_context(_archive(path))
        names = _array_names(path, archive, self.ports)
        found = {p.name: _Member(path, stack.enter_context(archive.open(names[p.name]))) for p in self.ports}
        counts = {m.shape[0] for m in found.values() if m.shape}
        if len(counts) != 1:
            raise CalibrationError("arrays hold different numbers of samples", node=str(path), found=sorted(counts))
        return found, counts.pop()


class _Files(Dataset):
    """A folder of .npz files, each a sample."""

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Sample]:
        for path in self.paths:
            with contextlib.ExitStack() as stack:
                archive = stack.enter_context(_archive(path))
                names = _array_names(path, archive, self.ports)
                files = {p.name: stack.enter_context(archive.open(names[p.name])) for p in self.ports}
                sample = {name: _Member(path, file).all() for name, file in files.items()}
            yield sample


class _OnnxSets(Dataset):
    """Folders of input_0.pb, input_1.pb and so on, in the order of the model's inputs."""

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Sample]:
        for folder in self.paths:
            yield {port.name: _tensor(folder / f"input_{i}.pb") for i, port in enumerate(self.ports)}


class _Member:
    """An array of an .npz file, read from front to back. A 0-d array is the same in every row.

    Raises CalibrationError if it is no array of numbers, or ends too soon.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            self.shape, fortran, self._dtype = read_header(file)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise CalibrationError(f"not an .npz file: {error}", node=str(path)) from error
        if self._dtype.hasobject:
            raise CalibrationError("an array holds Python objects", node=str(path), expected="numbers")
        self._rows = iter(self._read(self.shape[::-1]).T) if fortran and self.shape else None
        self._scalar = None if self.shape else self._read(())

    def row(self) -> np.ndarray:
        """The next one along the first axis."""
        if self._scalar is not None:
            return self._scalar
        return self._read(self.shape[1:]) if self._rows is None else np.asarray(next(self._rows))

    def all(self) -> np.ndarray:
        """All rows."""
        if self._scalar is not None:
            return self._scalar
        return self._read(self.shape) if self._rows is None else np.array(list(self._rows), self._dtype)

    def _read(self, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * self._dtype.itemsize
        try:
            data = bytearray(self._file.read(size))
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise CalibrationError(f"cannot read the data: {error}", node=str(self._path)) from error
        if len(data) != size:
            raise CalibrationError("an array ends too soon", node=str(self._path))
        return np.frombuffer(data, self._dtype).reshape(shape)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"not an .npz file: {error}", node=str(path)) from error


def _array_names(path: Path, archive: zipfile.ZipFile, ports: Sequence[Port]) -> dict[str, str]:
    """{input name: name in the archive}. Raises CalibrationError if an input has no array."""
    names = {name.removesuffix(".npy"): name for name in archive.namelist()}
    if len(ports) == 1 and list(names) == ["arr_0"]:  # np.savez of one array that was given no name
        return {ports[0].name: names["arr_0"]}
    _check_names(path, names, ports)
    return names


def _batched(array: np.ndarray, port: Port) -> np.ndarray:
    """One item of a stack, with the batch dim put back where stacking used it up."""
    return array[None] if array.ndim == len(port.shape) - 1 else array


def _tensor(file: Path) -> np.ndarray:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import numpy_helper

    if not file.is_file():
        raise CalibrationError("test data lacks an input", node=str(file.parent), expected=file.name)
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(file.read_bytes())
        return numpy_helper.to_array(tensor)
    except (OSError, ValueError, TypeError, KeyError, DecodeError) as error:
        raise CalibrationError(f"not a tensor: {error}", node=str(file)) from error


def _number(folder: Path) -> tuple[int, str]:
    """Sorts test_data_set_10 behind test_data_set_9."""
    digits = folder.name.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0), folder.name


def _check_names(path: Path, arrays: Mapping[str, Any], ports: Sequence[Port]) -> None:
    missing = [p.name for p in ports if p.name not in arrays]
    if missing:
        raise CalibrationError(
            f"no array for input {', '.join(missing)}", node=str(path), found=", ".join(arrays) or "nothing"
        )


def _checked(path: Path, sample: Sample, ports: Sequence[Port]) -> Sample:
    _check_names(path, sample, ports)
    for port in ports:
        array = sample[port.name]
        fits = array.ndim == len(port.shape) and all(
            isinstance(d, str) or d == n for d, n in zip(port.shape, array.shape, strict=True)
        )
        if not fits or str(array.dtype) != port.dtype:
            raise CalibrationError(
                f"array for input {port.name} does not fit",
                node=str(path),
                expected=str(port),
                found=f"{array.dtype}{list(array.shape)}",
            )
    return {p.name: sample[p.name] for p in ports}


def random_sample(ports: Sequence[Port], shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0) -> Sample:
    """Made-up inputs: normal floats, small non-negative integers. A symbolic dim is 1 unless `shapes` says otherwise.

    Raises ShapeError if `shapes` contradicts a fixed dim or names no input.
    """
    rng = np.random.default_rng(seed)
    shapes = dict(shapes or {})
    unknown = set(shapes) - {p.name for p in ports}
    if unknown:
        raise ShapeError(f"no input is called {', '.join(sorted(unknown))}", expected=", ".join(p.name for p in ports))
    sizes = bind_dims(ports, shapes)
    sample = {}
    for port in ports:
        shape = [sizes.get(d, 1) if isinstance(d, str) else d for d in port.shape]
        sample[port.name] = _random(rng, port, shape)
    return sample


def bind_dims(ports: Sequence[Port], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The sizes that `shapes` gives to symbolic dims. Raises ShapeError on contradictions."""
    sizes: dict[str, int] = {}
    for port in ports:
        given = shapes.get(port.name)
        if given is None:
            continue
        if len(given) != len(port.shape):
            raise ShapeError("wrong rank", node=port.name, expected=str(port), found=list(given))
        for dim, size in zip(port.shape, given, strict=True):
            if (isinstance(dim, int) and dim != size) or sizes.setdefault(str(dim), size) != size:
                raise ShapeError("shape does not fit", node=port.name, expected=str(port), found=list(given))
    return sizes


def _random(rng: np.random.Generator, port: Port, shape: Sequence[int]) -> np.ndarray:
    dtype = numpy_dtype(port.dtype)
    if port.dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, 2 if len(shape) == 0 else 16, shape).astype(dtype)
    if dtype.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def parse_shapes(items: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224` items. Raises UsageError for one that is not of that form."""
    from ..compiler.errors import UsageError

    shapes = {}
    for item in items:
        name, equals, text = item.rpartition("=")
        try:
            dims = tuple(int(d) for d in text.lower().split("x")) if text else ()
        except ValueError:
            dims = (-1,)
        if not equals or any(d < 0 for d in dims):
            raise UsageError("not a shape", expected="NAME=1x3x224x224", found=item)
        shapes[name] = dims
    return shapes


def as_json(value: Any) -> str:
    """JSON with numpy numbers as numbers."""
    return json.dumps(value, indent=1, default=lambda v: v.item() if hasattr(v, "item") else str(v))
