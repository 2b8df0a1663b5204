"""Runs C ops alone: their sources linked with a stub of the runtime's services, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from optc.backends.base import C_OPS, CCall
from optc.backends.kernels import c_ops
from optc.backends.runtime.toolchain import find_compiler
from optc.compiler.ir import Attr, Node, Value
from optc.compiler.types import DType, TensorType

BACKENDS = Path(c_ops.__file__).parent.parent
SOURCES = sorted((BACKENDS / "kernels" / "c").glob("*.c"))
MAX_RANK = 8

STUB = """
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "program.h"
static char message[1000];
__attribute__((visibility("default"))) const char* stub_message(void) { return message; }
int32_t optc_fail(optc_context* c, int32_t status, const char* format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(message, sizeof message, format, list);
  va_end(list);
  return status;
}
void* optc_alloc(optc_context* c, int64_t bytes) {
  void* data = bytes < 0 || bytes > (1ll << 32) ? NULL : aligned_alloc(64, (size_t)bytes / 64 * 64 + 64);
  if (data) memset(data, 0xa5, (size_t)bytes);
  return data;
}
void optc_release(optc_context* c, void* data) { free(data); }
void optc_free(void* data) { free(data); }
int64_t optc_now(void) { return 1; }
int32_t optc_num_threads(const optc_context* c) { return 2; }
int32_t optc_parallel(optc_context* c, int32_t (*fn)(int32_t, int32_t, void*), void* argument, int32_t num_tasks) {
  int32_t tasks = num_tasks ? num_tasks : 2;
  for (int32_t i = tasks - 1; i >= 0; i--) {
    int32_t status = fn(i, tasks, argument);
    if (status) return status;
  }
  return 0;
}
"""


class Tensor(ctypes.Structure):
    """optc_tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
    )


class COpError(Exception):
    """A C op returned a failure; the text is its message."""


@functools.cache
def library() -> ctypes.CDLL:
    """All C ops in one library, with warnings as errors."""
    folder = Path(tempfile.mkdtemp(prefix="optc-c-ops-"))
    stub, out = folder / "stub.c", folder / "ops.so"
    stub.write_text(STUB)
    flags = ["-std=c11", "-O2", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    command = [*find_compiler().command, *flags, "-march=native", f"-I{BACKENDS / 'runtime' / 'c'}"]
    subprocess.run([*command, str(stub), *map(str, SOURCES), "-lm", "-o", str(out)], check=True)
    loaded = ctypes.CDLL(str(out))
    loaded.stub_message.restype = ctypes.c_char_p
    return loaded


def tensor_of(array: np.ndarray | None) -> Tensor:
    """The descriptor of an array, which must outlive it; of an omitted input for None."""
    if array is None:
        return Tensor(None, 0, -1)
    shape = (ctypes.c_int64 * MAX_RANK)(*array.shape)
    return Tensor(array.ctypes.data, DType.from_numpy(array.dtype).value, array.ndim, shape)


def call(
    c_call: CCall, inputs: Sequence[np.ndarray | None], dtypes: Sequence[DType], planned: Sequence[np.ndarray] = ()
) -> list[np.ndarray]:
    """Calls a C op. `dtypes` are its outputs'; `planned` arrays receive them, else the op allocates.

    Raises COpError with the op's message.
    """
    arrays = [None if a is None else np.ascontiguousarray(a).reshape(np.shape(a)) for a in inputs]
    ins = (Tensor * max(len(arrays), 1))(*map(tensor_of, arrays))
    given = map(tensor_of, planned) if planned else (Tensor(None, d.value, -1) for d in dtypes)
    outs = (Tensor * len(dtypes))(*given)
    ints = (ctypes.c_int64 * max(len(c_call.ints), 1))(*c_call.ints)
    floats = (ctypes.c_double * max(len(c_call.floats), 1))(*c_call.floats)
    status = getattr(library(), c_call.function)(None, ins, len(arrays), outs, len(dtypes), ints, floats)
    if status:
        raise COpError(library().stub_message().decode())
    results = []
    for out, dtype in zip(outs, dtypes, strict=True):
        shape = tuple(out.shape[: out.rank])
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        results.append(np.frombuffer(ctypes.string_at(out.data, count), dtype.numpy).reshape(shape))
        if not planned:
            library().optc_free(ctypes.c_void_p(out.data))
    return results


def run_node(
    op: str,
    inputs: Sequence[np.ndarray | None],
    dtypes: Sequence[DType],
    ranks: Sequence[int] | None = None,
    **attrs: Attr,
) -> list[np.ndarray]:
    """Selects and calls the C op of one ONNX node, as the program builder would."""
    values = [
        None if a is None else Value(f"x{i}", TensorType(DType.from_numpy(a.dtype), a.shape))
        for i, a in enumerate(inputs)
    ]
    shapes: list[tuple[int, ...] | None] = [(1,) * r for r in ranks] if ranks else [None] * len(dtypes)
    outputs = [Value(f"y{i}", TensorType(d, s)) for i, (d, s) in enumerate(zip(dtypes, shapes, strict=True))]
    selected = C_OPS[op](Node(op, values, outputs, attrs))
    assert selected is not None
    return call(selected, inputs, dtypes)


def attributes(proto: onnx.NodeProto) -> dict[str, Attr]:
    """The attributes of an ONNX node as the IR has them."""
    found: dict[str, Attr] = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            found[attribute.name] = onnx.numpy_helper.to_array(value)
        elif isinstance(value, bytes):
            found[attribute.name] = value.decode()
        elif isinstance(value, (list, tuple)):
            found[attribute.name] = tuple(v.decode() if isinstance(v, bytes) else v for v in value)
        else:
            found[attribute.name] = value
    return found
