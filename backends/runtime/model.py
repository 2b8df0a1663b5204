"""A compiled model in Python: `load` opens an artifact, `Model` runs it. Needs NumPy and nothing else."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...compiler.errors import ShapeError
from .artifact import Artifact, atomic_file, read_artifact
from .native import BAD_INPUT, MAX_ARRAYS, NOT_PLAIN, OUT_OF_MEMORY, STRUCT_IS_KNOWN, Context, FastCall, Library, Tensor
from .types import NUMBERS, numpy_dtype

if TYPE_CHECKING:
    from .hostcall import Engine


@dataclass(frozen=True)
class Port:
    """A declared input or output. A dim that is not fixed is its name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def is_static(self) -> bool:
        return all(isinstance(dim, int) for dim in self.shape)

    @property
    def number(self) -> int:
        """The dtype as ONNX numbers it."""
        return NUMBERS[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class StepTime:
    """What one step of a run took: `milliseconds`, the median over the runs profiled."""

    name: str
    milliseconds: float


class Model:
    """A compiled model. Immutable; several threads may call it at once, each call then has its own workspace.

    `inputs` and `outputs` are lists of Port, `manifest` is the artifact's, as a dict.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self.manifest = artifact.manifest
        self.inputs = [_port(entry) for entry in self.manifest["inputs"]]
        self.outputs = [_port(entry) for entry in self.manifest["outputs"]]
        self._artifact, self._threads = artifact, threads or 0
        self._library = Library(artifact.code)
        self._engine = _engine(artifact, self._threads)
        self._input_dtypes = [numpy_dtype(port.dtype) for port in self.inputs]
        self._output_dtypes = [numpy_dtype(port.dtype) for port in self.outputs]
        dtypes = self._input_dtypes + self._output_dtypes
        fast = STRUCT_IS_KNOWN and len(dtypes) <= MAX_ARRAYS
        self._fast = FastCall(self._library, dtypes) if fast else None
        self._static = all(port.is_static for port in self.inputs + self.outputs)
        self._fixed_outputs = [(port.shape, d) for port, d in zip(self.outputs, self._output_dtypes, strict=True)]
        self._names = [port.name for port in self.inputs]
        self._output_names = [port.name for port in self.outputs]
        self._idle = [self._new_context()]

    # --- running ---

    def __call__(self, *args: Any, out: Mapping[str, np.ndarray] | None = None, **kwargs: Any) -> Any:
        """Runs on inputs given by position or by name; returns the output, or a tuple of them if there are several.

        Inputs are NumPy arrays, DLPack producers (taken without a copy) or nested lists. `out` maps output names to
        arrays that receive the results. Raises ShapeError if an input does not fit.
        """
        if kwargs or len(args) != len(self._names):
            args = tuple(self._by_position(args, kwargs))
        results = self._execute(args, out)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, inputs: Mapping[str, Any], out: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Runs on {input name: array}; returns {output name: array}. See __call__ for `out` and errors."""
        results = self._execute(self._by_position((), inputs), out)
        return dict(zip(self._output_names, results, strict=True))

    def _by_position(self, args: Sequence[Any], named: Mapping[str, Any]) -> Sequence[Any]:
        """The inputs in the model's order. Raises ShapeError that names the missing and the unknown ones."""
        if not args and len(named) == len(self._names):
            try:
                return [named[name] for name in self._names]
            except KeyError:
                pass  # explained below
        found = dict(zip(self._names, args, strict=False))
        doubled, unknown = sorted(found.keys() & named.keys()), sorted(named.keys() - set(self._names))
        missing = [name for name in self._names if name not in found and name not in named]
        if len(args) > len(self._names) or doubled or unknown or missing:
            problems = [f"{len(args)} are given by position"] if len(args) > len(self._names) else []
            problems += [f"{word} {', '.join(names)}" for word, names in
                         (("missing", missing), ("unknown", unknown), ("given twice", doubled)) if names]  # fmt: skip
            raise ShapeError(f"the inputs do not fit: {'; '.join(problems)}", expected=", ".join(self._names) or "none")
        found.update(named)
        return [found[name] for name in self._names]

    def _execute(self, args: Sequence[Any], out: Mapping[str, np.ndarray] | None) -> list[np.ndarray]:
        try:
            context = self._idle.pop()
        except IndexError:
            context = self._new_context()
        try:
            if self._fast is not None and out is None:
                results = self._run_fast(context, self._fast, args)
                if results is not None:
                    return results
            return self._run_checked(context, args, out or {})
        finally:
            self._idle.append(context)

    def _run_fast(self, context: Context, fast: FastCall, args: Sequence[Any]) -> list[np.ndarray] | None:
        """Runs if all arrays are plain; else returns None, and nothing was done."""
        if self._static:
            specs: Any = self._fixed_outputs
        else:
            try:
                shapes = [array.shape for array in args]
            except AttributeError:
                return None
            if shapes != context.last_shapes and not self._bind_fast(context, fast, args, shapes):
                return None
            specs = context.last_outputs
        empty = np.empty
        results: list[Any] = [None if shape is None else empty(shape, dtype) for shape, dtype in specs]
        addresses = [0 if result is None else id(result) for result in results]
        packed = fast.pack(*map(id, args), *addresses)
        status = fast.run(context.handle, fast.facts, packed, context.outputs_address)
        if status:
            if status not in (NOT_PLAIN, BAD_INPUT):  # _run_checked knows how to convert, or what to say
                context.check(status)
            return None
        if 0 in addresses:
            for index, address in enumerate(addresses):
                if address == 0:
                    results[index] = self._adopt(context.outputs[index], self._output_dtypes[index])
        return results

    def _bind_fast(self, context: Context, fast: FastCall, args: Sequence[Any], shapes: list[tuple[int, ...]]) -> bool:
        """Asks for the output shapes that belong to new input shapes; False if _run_checked must see to it."""
        if fast.shapes(context.handle, fast.facts, fast.pack_inputs(*map(id, args)), context.outputs_address):
            return False
        context.last_shapes = shapes
        context.last_outputs = []
        for tensor, dtype in zip(context.outputs, self._output_dtypes, strict=False):
            shape = tensor.dims()
            context.last_outputs.append((None if -1 in shape else shape, dtype))
        return True

    def _run_checked(self, context: Context, args: Sequence[Any], out: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Converts and checks the inputs, then runs."""
        arrays = [_as_input(p, d, a) for p, d, a in zip(self.inputs, self._input_dtypes, args, strict=True)]
        if unknown := sorted(out.keys() - {port.name for port in self.outputs}):
            raise ShapeError(f"out= names no output: {', '.join(unknown)}")
        inputs = _tensors(self.inputs, [array.shape for array in arrays])
        for tensor, array in zip(inputs, arrays, strict=True):
            tensor.data = array.ctypes.data
        shapes = self._shapes(context, inputs)
        outputs = _tensors(self.outputs, shapes)
        results: list[np.ndarray | None] = []
        for port, dtype, shape, tensor in zip(self.outputs, self._output_dtypes, shapes, outputs, strict=True):
            result = None
            if port.name in out:
                result = _as_output(port, dtype, out[port.name])
                tensor.fill(port.number, result.shape, result.ctypes.data)
            elif all(dim >= 0 for dim in shape):
                result = np.empty(shape, dtype)
                tensor.data = result.ctypes.data
            results.append(result)
        context.check(self._library.run(context.handle, inputs, outputs))
        return [
            self._adopt(tensor, dtype) if result is None else result
            for result, tensor, dtype in zip(results, outputs, self._output_dtypes, strict=True)
        ]

    def _shapes(self, context: Context, inputs: Any) -> list[tuple[int, ...]]:
        outputs = _tensors(self.outputs, [(0,) * len(port.shape) for port in self.outputs])
        context.check(self._library.output_shapes(context.handle, inputs, outputs))
        return [outputs[i].dims() for i in range(len(self.outputs))]

    def _adopt(self, tensor: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
        """An array over memory that the model allocated, which is freed with the array."""
        shape, data = tensor.dims(), tensor.data or 0
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size == 0:
            self._library.free(data)
            return np.empty(shape, dtype)
        memory = (ctypes.c_char * size).from_address(data)
        weakref.finalize(memory, _free, self._library, data).atexit = False
        array: np.ndarray = np.ndarray(shape, dtype, memoryview(memory))
        return array

    def _new_context(self) -> Context:
        return Context(self._library, self._artifact.weights, self._threads, self._engine)

    # --- facts ---

    @property
    def threads(self) -> int:
        """Threads that one call may use, the caller's included."""
        context = self._idle[0] if self._idle else self._new_context()
        return int(self._library.num_threads(context.handle))

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each part of the artifact."""
        return self._artifact.sizes

    def summary(self) -> str:
        """What the compiler did and what to expect, as text."""
        found = self.manifest.get("summary", "")
        if isinstance(found, str):
            return found
        from ..summary import render

        return render(found)

    def report(self, path: str | os.PathLike[str], inputs: Mapping[str, Any] | None = None) -> None:
        """Writes all that is known about this model as one HTML page; with `inputs`, also the time of each step.

        Raises ArtifactError if it cannot be written, ShapeError if the inputs do not fit.
        """
        from ..report import Timed, page

        times = [] if inputs is None else [Timed(t.name, t.milliseconds) for t in self.profile(**inputs)]
        with atomic_file(Path(path)) as file:
            file.write(page(self.manifest, self._artifact.sizes, times).encode())

    def workspace_bytes(self, shapes: Mapping[str, Sequence[int]] | None = None) -> int:
        """Bytes of working memory that a call with inputs of these shapes plans; a static model needs no shapes.

        Tensors whose size depends on data come on top. Raises ShapeError if the shapes do not fit.
        """
        wanted = {port.name: port.shape for port in self.inputs if port.is_static} | dict(shapes or {})
        ordered = self._by_position((), wanted)
        context = self._new_context()
        inputs = _tensors(self.inputs, ordered)
        self._shapes(context, inputs)  # raises if they contradict each other
        found = self._library.workspace_bytes(context.handle, inputs)
        if found < 0:
            context.check(OUT_OF_MEMORY)
        return int(found)

    def profile(self, *args: Any, repeat: int = 10, **kwargs: Any) -> list[StepTime]:
        """Runs `repeat` times on these inputs, after one run to warm up; returns the median time of each step."""
        run = self.profiler(*args, **kwargs)
        times = np.median([run() for _ in range(repeat)], axis=0)
        return [StepTime(name, float(ms)) for name, ms in zip(self._library.step_names, times, strict=True)]

    def profiler(self, *args: Any, **kwargs: Any) -> Callable[[], np.ndarray]:
        """A call that runs once on these inputs and returns the milliseconds of each step, in the manifest's order."""
        ordered = self._by_position(args, kwargs)
        context, library = self._new_context(), self._library
        count = len(library.step_names)
        times = (ctypes.c_int64 * max(count, 1))()
        self._run_checked(context, ordered, {})

        def run() -> np.ndarray:
            context.check(library.profile(context.handle, 1, None))
            self._run_checked(context, ordered, {})
            context.check(library.profile(context.handle, 0, times))
            return np.array(times[:count]) / 1e6

        return run

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the artifact to `path`, atomically. Raises ArtifactError if it cannot be written."""
        with atomic_file(Path(path)) as file:
            file.write(self._artifact.mapping)

    def __repr__(self) -> str:
        sides = (", ".join(f"{port.name}: {port}" for port in side) for side in (self.inputs, self.outputs))
        return f"<optc.Model ({' -> '.join(sides)})>"


def load(path: str | os.PathLike[str], threads: int | None = None, *, verify: bool = True) -> Model:
    """Opens an artifact for running on `threads` threads (default: one per physical core).

    Raises ArtifactError if the file is damaged or of another version, with exit code 5 if it does not fit this host;
    `verify=False` skips the hashes of code and weights.
    """
    return Model(read_artifact(path, verify=verify), threads)


def _free(library: Library, data: int) -> None:
    """Takes the library, so that the code of `free` stays loaded as long as the memory lives."""
    library.free(data)


def _port(entry: Mapping[str, Any]) -> Port:
    return Port(entry["name"], entry["dtype"], tuple(entry["shape"]))


def _tensors(ports: Sequence[Port], shapes: Sequence[Sequence[int]]) -> Any:
    """A C array of tensors without data. Raises ShapeError for a rank the interface cannot carry."""
    tensors = (Tensor * max(len(ports), 1))()
    for tensor, port, shape in zip(tensors, ports, shapes, strict=False):
        if len(shape) != len(port.shape):
            raise ShapeError("wrong rank", node=port.name, expected=str(port), found=f"shape {tuple(shape)}")
        tensor.fill(port.number, tuple(shape), None)
    return tensors


def _as_input(port: Port, dtype: np.dtype[Any], value: Any) -> np.ndarray:
    """`value` as a dense array of the port's dtype, copied only if it must be."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
    elif hasattr(value, "__dlpack__"):
        try:
            array = np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise ShapeError(f"NumPy cannot take this tensor: {error}", node=port.name, expected=str(port)) from error
    else:
        try:
            array = np.asarray(value, dtype)
        except (TypeError, ValueError) as error:
            raise ShapeError(f"not an array: {error}", node=port.name, expected=str(port)) from error
    fixed = zip(port.shape, array.shape, strict=False)
    if array.dtype != dtype or array.ndim != len(port.shape) or any(isinstance(d, int) and d != n for d, n in fixed):
        found = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
        raise ShapeError("the input does not fit", node=port.name, expected=str(port), found=found)
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy(order="C")


def _as_output(port: Port, dtype: np.dtype[Any], array: np.ndarray) -> np.ndarray:
    flags = array.flags if isinstance(array, np.ndarray) else None
    if flags is None or not (flags.c_contiguous and flags.aligned and flags.writeable) or array.dtype != dtype:
        found = getattr(array, "dtype", type(array).__name__)
        raise ShapeError("out= needs a writable dense array", node=port.name, expected=str(port), found=found)
    return array


def _engine(artifact: Artifact, threads: int) -> Engine | None:
    """What runs the fallback nodes; None for models without any, which are most."""
    if not any(name.startswith("fallback/") for name in artifact.extras):
        return None
    from .hostcall import Engine

    return Engine(artifact, threads)
