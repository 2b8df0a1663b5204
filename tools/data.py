"""Sample inputs: read from what a user names, or made up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.runtime.model import Port
from ..backends.runtime.types import numpy_dtype
from ..compiler.errors import CalibrationError, ShapeError

Sample = dict[str, np.ndarray]


def read_samples(path: str | Path, ports: Sequence[Port]) -> Iterator[Sample]:
    """Samples from an `.npz` (an array per input, stacked on the first axis), a folder of `.npz` files (a sample each)
    or a folder in the ONNX `test_data_set_N` layout.

    Raises CalibrationError naming the file and, where names or shapes do not fit, the input.
    """
    source = Path(path)
    if source.is_file():
        yield from _stacked(source, ports)
    elif source.is_dir():
        files = sorted(source.glob("*.npz"))
        sets = sorted(source.glob("test_data_set_*")) or ([source] if list(source.glob("input_*.pb")) else [])
        if not files and not sets:
            raise CalibrationError("folder holds neither .npz files nor test_data_set_N folders", node=str(source))
        for file in files:
            yield _checked(file, dict(_load(file)), ports)
        for folder in sets:
            yield _onnx_set(folder, ports)
    else:
        raise CalibrationError("no such file or folder", node=str(source))


def _load(path: Path) -> Mapping[str, np.ndarray]:
    try:
        arrays: Mapping[str, np.ndarray] = np.load(path, allow_pickle=False)
        return arrays
    except (OSError, ValueError) as error:
        raise CalibrationError(f"not an .npz file: {error}", node=str(path)) from error


def _stacked(path: Path, ports: Sequence[Port]) -> Iterator[Sample]:
    arrays = dict(_load(path))
    _check_names(path, arrays, ports)
    counts = {len(arrays[p.name]) for p in ports if arrays[p.name].ndim}
    if len(counts) != 1:
        raise CalibrationError("arrays hold different numbers of samples", node=str(path), found=sorted(counts))
    for index in range(counts.pop()):
        yield _checked(path, {p.name: _batched(arrays[p.name][index], p) for p in ports}, ports)


def _batched(array: np.ndarray, port: Port) -> np.ndarray:
    """One item of a stack, with the batch dim put back where stacking used it up."""
    return array[None] if array.ndim == len(port.shape) - 1 else array


def _onnx_set(folder: Path, ports: Sequence[Port]) -> Sample:
    import onnx
    from onnx import numpy_helper

    sample = {}
    for index, port in enumerate(ports):
        file = folder / f"input_{index}.pb"
        if not file.is_file():
            raise CalibrationError("test data lacks an input", node=str(folder), expected=file.name)
        tensor = onnx.TensorProto()
        tensor.ParseFromString(file.read_bytes())
        sample[port.name] = numpy_helper.to_array(tensor)
    return _checked(folder, sample, ports)


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
