"""Runs an artifact's fallback nodes on ONNX Runtime: the other side of optc_call_host (c/program.h).

The artifact's member `fallback/<index>.onnx` is the node as a model; its inputs and outputs are in the call's order.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...compiler.errors import ArtifactError, TargetError
from .artifact import Artifact
from .native import BAD_INPUT, MAX_RANK, OK, RUNTIME, HostCall, Tensor
from .types import dtype_of, number_of

FOLDER = "fallback/"


class Engine:
    """The sessions of a model's fallback nodes. `call` is the C callback; it may run in several threads at once."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Raises TargetError if ONNX Runtime is missing, ArtifactError if it does not take a node."""
        try:
            import onnxruntime
        except ImportError as error:
            raise TargetError(
                f"{artifact.path} has nodes that run on ONNX Runtime, which is not installed",
                hint="Install it with `pip install onnxruntime`",
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        self._sessions = []
        for index in range(sum(name.startswith(FOLDER) for name in artifact.extras)):
            model = bytes(artifact.extras[f"{FOLDER}{index}.onnx"])
            try:
                session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime's own errors have no common class
                raise ArtifactError(f"{artifact.path}: ONNX Runtime does not take node {index}: {error}") from error
            self._sessions.append((session, [port.name for port in session.get_inputs()]))
        self._thread = threading.local()  # .results: memory of the last call's outputs; .error: why it failed
        self.call = HostCall(self._call)

    @property
    def error(self) -> str | None:
        """Why the last call of this thread failed, if it did."""
        return getattr(self._thread, "error", None)

    def _call(self, user: Any, index: int, inputs: Any, num_inputs: int, outputs: Any, num_outputs: int) -> int:
        self._thread.error = None
        try:
            session, names = self._sessions[index]
            arrays = [_view(inputs[i]) for i in range(num_inputs)]
            results = session.run(None, dict(zip(names, arrays, strict=True)))
            results = [np.require(result, requirements=["C", "A"]) for result in results]
        except Exception as error:  # nothing may be raised into C; the message reaches the caller through `error`
            self._thread.error = f"ONNX Runtime: {error}"
            return RUNTIME
        self._thread.results = results
        return self._hand_over(results, [outputs[i] for i in range(num_outputs)])

    def _hand_over(self, results: Sequence[np.ndarray], outputs: Sequence[Tensor]) -> int:
        """Copies to where the program wants a result, or tells where the result is (the runtime copies it then)."""
        for result, output in zip(results, outputs, strict=True):
            if result.ndim > MAX_RANK:
                self._thread.error = f"a result has {result.ndim} dims, more than {MAX_RANK}"
                return BAD_INPUT
            if not output.data:
                output.fill(number_of(result.dtype), result.shape, result.ctypes.data)
            elif (number_of(result.dtype), result.shape) == (output.dtype, output.dims()):
                ctypes.memmove(output.data, result.ctypes.data, result.nbytes)
            else:
                self._thread.error = f"expected a result of shape {output.dims()}, found {result.shape}"
                return BAD_INPUT
        return OK


def _view(tensor: Tensor) -> np.ndarray:
    """The tensor's memory as an array, valid during the call."""
    dtype, shape = dtype_of(tensor.dtype), tensor.dims()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    memory = memoryview((ctypes.c_char * size).from_address(tensor.data or 0))
    array: np.ndarray = np.ndarray(shape, dtype, memory)
    return array
