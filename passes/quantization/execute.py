"""Runs a graph of ours on ONNX Runtime, with any of its values as results.

Calibration, bias correction, sensitivity and diagnosis ask for values between the layers; this is where they get them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.errors import CalibrationError, OptcError, UnsupportedError, UsageError
from ...compiler.ir import Graph, Value
from ...compiler.onnx.exporter import export_model
from ...compiler.onnx.tensors import tensor_proto
from ...compiler.types import DType
from ..base import PassContext
from ..simplify.dead_code import DeadCode

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Sample = Mapping[str, np.ndarray]

_PACKED_UP_TO = 128 << 20
"""Bytes of shared constants up to which a session keeps copies of them in the order that suits its products."""
_SHARED_FROM = 1024
"""Bytes of a constant from which it is shared; smaller ones may decide on shapes, which ONNX Runtime wants to read."""


class Runner:
    """A graph, or the part of it that `outputs` need, ready to run on ONNX Runtime.

    `outputs` are names of values of the main graph (those inside If, Loop and Scan cannot be had); None means the
    graph's outputs by their own names. `threads` are those of one run, 0 for all cores. Runs may overlap in threads.
    `free` names constants that a run may replace without a new Runner; what uses them is optimized less. `brief` is
    for few runs: made sooner, it runs more slowly. The graph is not changed, and later changes to it are not seen.

    Raises UsageError for an unknown name, UnsupportedError if ONNX Runtime does not take the model.
    """

    def __init__(
        self,
        graph: Graph,
        outputs: Sequence[str] | None = None,
        *,
        threads: int = 1,
        free: Sequence[str] = (),
        brief: bool = False,
    ) -> None:
        found = dict(zip(graph.output_names, graph.outputs, strict=True))
        if outputs is not None:
            found = values_by_name(graph, outputs)
        self.names = tuple(found)
        inputs = {v: v.name for v in graph.inputs}
        self._given = {name: inputs[v] for name, v in found.items() if v in inputs}
        self._constant = {name: v.data for name, v in found.items() if v.data is not None}
        made = {n: v for n, v in found.items() if n not in self._given and n not in self._constant}
        self._made = list(made)
        self._free = {name: v.data for name, v in values_by_name(graph, free).items() if v.data is not None}
        if made:
            self._session, self._shared = _session(_part(graph, made, self._free), threads, brief)
            self._reads = {i.name for i in self._session.get_inputs()}

    def run(self, sample: Sample, constants: Sample | None = None) -> dict[str, np.ndarray]:
        """{name: array} of the outputs for one sample {input name: array}, `constants` in place of free ones.

        Raises CalibrationError if ONNX Runtime fails, as it does on an input of a wrong shape.
        """
        results = {name: sample[source] for name, source in self._given.items()}
        results |= {name: data for name, data in self._constant.items() if data is not None}
        if self._made:
            arrays = {**self._free, **sample, **(constants or {})}
            feed = {name: array for name, array in arrays.items() if name in self._reads}
            results |= zip(self._made, self._run(feed), strict=True)
        return {name: results[name] for name in self.names}

    def _run(self, feed: Sample) -> list[np.ndarray]:
        try:
            arrays: list[np.ndarray] = self._session.run(self._made, feed)
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise CalibrationError(f"ONNX Runtime cannot run the model: {error}") from error
        return arrays


def values_by_name(graph: Graph, names: Sequence[str]) -> dict[str, Value]:
    """The values of the main graph of these names. Raises UsageError for a name it does not have."""
    known = {v.name: v for v in graph.values()}
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError("the graph has no such values", found=", ".join(missing))
    return {name: known[name] for name in names}


def _part(graph: Graph, outputs: Mapping[str, Value], free: Collection[str]) -> Graph:
    """A copy with these outputs and nothing that they do not need; constants in `free` become inputs."""
    mapping: dict[Value, Value] = {}
    part = graph.clone(mapping)
    part.set_outputs([mapping[v] for v in outputs.values()], list(outputs))
    DeadCode().run(part, PassContext())
    for value in part.constants():
        if value.name in free:
            value.data = value.content = None
            part.inputs.append(value)
    part.inputs = [v for v in part.inputs if v.uses]
    return part


class _Shared:
    """Large constants that a session reads where they are: neither its model nor ONNX Runtime has a copy."""

    def __init__(self) -> None:
        self.values: dict[str, onnxruntime.OrtValue] = {}
        self.nbytes = 0

    def write(self, name: str, array: np.ndarray) -> onnx.TensorProto:
        """A tensor of the model; of one that is shared it has the type only."""
        import onnx
        import onnxruntime

        if array.nbytes < _SHARED_FROM or array.dtype.kind not in "fiu" or not array.dtype.isbuiltin:
            return tensor_proto(name, array)
        self.nbytes += array.nbytes
        self.values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        tensor = onnx.TensorProto(name=name, data_type=DType.from_numpy(array.dtype).value, dims=array.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="memory")
        return tensor


def _session(graph: Graph, threads: int, brief: bool) -> tuple[onnxruntime.InferenceSession, _Shared]:
    """The graph on ONNX Runtime's CPU provider, and what must live as long. `brief`: little optimized.

    Raises UnsupportedError if ONNX Runtime does not take the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 4
    # Its optimizer would round float weights beside rounded activations to 8 bits a tensor: not what the graph says.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if brief:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    shared = _Shared()
    try:
        model = export_model(graph, writer=shared.write).SerializeToString()
        if brief or shared.nbytes > _PACKED_UP_TO:
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_external_initializers(list(shared.values), list(shared.values.values()))
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), shared
    except OptcError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base but this
        raise UnsupportedError(f"ONNX Runtime does not take the model: {error}") from error
