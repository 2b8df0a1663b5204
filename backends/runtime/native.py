"""The C interface of a compiled model (c/optc.h) by ctypes: structs, the loaded library, a context."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import struct
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ...compiler.errors import ArtifactError, OptcError, ShapeError
from .artifact import ABI_VERSION, WrongHostError

if TYPE_CHECKING:
    from .hostcall import Engine

MAX_RANK = 8
MAX_ARRAYS = 32  # inputs and outputs that the fast path takes
OK, BAD_INPUT, OUT_OF_MEMORY, BAD_HOST, RUNTIME = range(5)
NOT_PLAIN = -1  # the fast path cannot take these arrays


class Tensor(ctypes.Structure):
    """optc_tensor: a dense row-major tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
    )

    def fill(self, dtype: int, shape: tuple[int, ...], data: int | None) -> None:
        self.data, self.dtype, self.rank = data, dtype, len(shape)
        self.shape[: len(shape)] = shape

    def dims(self) -> tuple[int, ...]:
        return tuple(self.shape[: self.rank])


class _Port(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("dim_names", ctypes.POINTER(ctypes.c_char_p)),
    )


class _Info(ctypes.Structure):
    _fields_ = (
        ("abi_version", ctypes.c_int32),
        ("name", ctypes.c_char_p),
        ("num_inputs", ctypes.c_int32),
        ("num_outputs", ctypes.c_int32),
        ("inputs", ctypes.POINTER(_Port)),
        ("outputs", ctypes.POINTER(_Port)),
        ("weight_bytes", ctypes.c_int64),
        ("required_features", ctypes.c_char_p),
        ("num_steps", ctypes.c_int32),
        ("step_names", ctypes.POINTER(ctypes.c_char_p)),
    )


HostCall = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_int32,
    ctypes.POINTER(Tensor),
    ctypes.c_int32,
    ctypes.POINTER(Tensor),
    ctypes.c_int32,
)


class _Options(ctypes.Structure):
    _fields_ = (("num_threads", ctypes.c_int32), ("host_call", HostCall), ("host_user", ctypes.c_void_p))


class _ArrayFacts(ctypes.Structure):
    _fields_ = (
        ("header_bytes", ctypes.c_int64),
        ("array_type", ctypes.c_void_p),
        ("dtypes", ctypes.POINTER(ctypes.c_void_p)),
    )


class _NumpyFields(ctypes.Structure):
    """PyArrayObject_fields after the object header, as c/arrays.c reads it."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("base", ctypes.c_void_p),
        ("dtype", ctypes.c_void_p),
        ("flags", ctypes.c_int),
    )


def _struct_is_known() -> bool:
    """Whether NumPy's arrays look in memory as c/arrays.c expects (CPython's object header, NumPy's public struct)."""
    if sys.implementation.name != "cpython":
        return False
    array = np.zeros((3, 5), np.float32)[1:, ::2]
    header = object.__basicsize__
    fields = _NumpyFields.from_address(id(array) + header)
    kind = ctypes.c_void_p.from_address(id(array) + header - ctypes.sizeof(ctypes.c_void_p)).value
    return (
        np.ndarray.__basicsize__ >= header + ctypes.sizeof(_NumpyFields)
        and (kind, fields.dtype, fields.rank) == (id(np.ndarray), id(array.dtype), 2)
        and fields.data == array.__array_interface__["data"][0]
        and (fields.shape[0], fields.shape[1]) == array.shape
        and (fields.strides[0], fields.strides[1]) == array.strides
        and fields.flags & 0xFFF == array.flags.num & 0xFFF
    )


STRUCT_IS_KNOWN = _struct_is_known()


class Library:
    """A model's code in this process. Every instance is a copy of its own, so models cannot meet.

    The code is unloaded when the library and all its contexts are gone. They are counted here, because the garbage
    collector may finalize the library first.
    """

    _users = 0

    def __init__(self, code: memoryview) -> None:
        try:
            self._file, path = _code_file(code)
            library = ctypes.CDLL(path, mode=os.RTLD_LOCAL | os.RTLD_NOW)
        except OSError as error:
            raise ArtifactError(f"the compiled code cannot be loaded: {error}") from error
        self._handle, self._unload = library._handle, _ctypes.dlclose
        self.retain()
        try:
            self._declare(library)
        except AttributeError as error:
            raise ArtifactError(f"the compiled code lacks a function: {error}") from error
        info = self._info().contents
        if info.abi_version != ABI_VERSION:
            raise ArtifactError("the compiled code has another ABI", expected=ABI_VERSION, found=info.abi_version)
        self.step_names = [info.step_names[i].decode() for i in range(info.num_steps)]
        self.input_names = [info.inputs[i].name.decode() for i in range(info.num_inputs)]
        self.output_names = [info.outputs[i].name.decode() for i in range(info.num_outputs)]

    def _declare(self, library: ctypes.CDLL) -> None:
        context, tensors = ctypes.c_void_p, ctypes.POINTER(Tensor)

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(library, name)
            found.restype, found.argtypes = result, arguments
            return found

        self._info = function("optc_info", ctypes.POINTER(_Info))
        self.create = function(
            "optc_create",
            ctypes.c_int32,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.POINTER(_Options),
            ctypes.POINTER(ctypes.c_void_p),
        )
        self.destroy = function("optc_destroy", None, context)
        self.run = function("optc_run", ctypes.c_int32, context, tensors, tensors)
        self.output_shapes = function("optc_output_shapes", ctypes.c_int32, context, tensors, tensors)
        self.workspace_bytes = function("optc_workspace_bytes", ctypes.c_int64, context, tensors)
        self.num_threads = function("optc_num_threads", ctypes.c_int32, context)
        self.profile = function("optc_profile", ctypes.c_int32, context, ctypes.c_int32, ctypes.POINTER(ctypes.c_int64))
        self.error = function("optc_error", ctypes.c_char_p, context)
        self.free = function("optc_free", None, ctypes.c_void_p)
        fast = (context, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self.run_arrays = function("optc_run_arrays", ctypes.c_int32, *fast)
        self.array_shapes = function("optc_array_shapes", ctypes.c_int32, *fast)

    def retain(self) -> None:
        self._users += 1

    def release(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._unload(self._handle)
            self._file.close()

    def __del__(self) -> None:
        if self._users:  # else loading had failed
            self.release()


def _code_file(code: memoryview) -> tuple[IO[bytes], str]:
    """An unnamed file with the code, in memory where the system can, and the path to load it from.

    The file stays open as long as the code is loaded: the loader takes two libraries of one path for the same, and the
    number of an open file is unique.
    """
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("optc-code"), "wb")
        path = f"/proc/self/fd/{file.fileno()}"
    else:
        file = tempfile.NamedTemporaryFile(suffix=".so")  # noqa: SIM115
        path = file.name
    file.write(code)
    file.flush()
    return file, path


class Context:
    """One call in flight: a workspace and a thread pool. Used by one thread at a time."""

    handle: int | None = None

    def __init__(self, library: Library, weights: memoryview, threads: int, engine: Engine | None = None) -> None:
        self._weights = np.frombuffer(weights, np.uint8)  # keeps the mapping; gives its address though it is read-only
        options = _Options(threads, engine.call if engine else HostCall(), None)
        self._engine, self._destroy, self.library = engine, library.destroy, library
        created = ctypes.c_void_p()
        address = self._weights.ctypes.data if len(weights) else None
        status = library.create(address, len(weights), ctypes.byref(options), ctypes.byref(created))
        if status:
            raise _error(status, library.error(None))
        library.retain()
        self.handle = created.value
        self.outputs = (Tensor * max(len(library.output_names), 1))()
        self.outputs_address = ctypes.addressof(self.outputs)
        # Of the last fast call: the input shapes, and the output shapes (None if it depends on data) with dtypes.
        self.last_shapes: list[tuple[int, ...]] | None = None
        self.last_outputs: list[tuple[tuple[int, ...] | None, np.dtype[Any]]] = []

    def check(self, status: int) -> None:
        """Raises the error of the last call if `status` says that it failed."""
        if status:
            error = _error(status, self.library.error(self.handle))
            if self._engine and self._engine.error:
                error.args = (f"{error}: {self._engine.error}",)
            raise error

    def __del__(self) -> None:
        if self.handle is not None:
            self._destroy(self.handle)
            self.library.release()


def _error(status: int, text: bytes | None) -> OptcError:
    message = (text or b"").decode(errors="replace") or f"the model failed with status {status}"
    kinds: dict[int, type[OptcError]] = {BAD_INPUT: ShapeError, BAD_HOST: WrongHostError}
    return kinds.get(status, OptcError)(message)


class FastCall:
    """Calls a library on plain NumPy arrays: dense, aligned, and of exactly the declared dtypes."""

    def __init__(self, library: Library, dtypes: list[np.dtype[Any]]) -> None:
        self._dtypes = dtypes  # kept alive: C compares their addresses
        addresses = (ctypes.c_void_p * len(dtypes))(*map(id, dtypes))
        self._facts = _ArrayFacts(object.__basicsize__, id(np.ndarray), addresses)
        self.facts = ctypes.addressof(self._facts)
        # Packing addresses costs half of making a ctypes array.
        self.pack = struct.Struct(f"{len(dtypes)}P").pack
        self.pack_inputs = struct.Struct(f"{len(library.input_names)}P").pack
        self.run, self.shapes = library.run_arrays, library.array_shapes
