"""The engines optc is measured against and checked with, each at its best settings for a thread count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.errors import TargetError, UsageError

Sample = Mapping[str, np.ndarray]
Run = Callable[[Sample], dict[str, np.ndarray]]


def onnxruntime_runner(
    model: str | Path | bytes,
    threads: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    copy: bool = True,
) -> Run:
    """ONNX Runtime on the CPU, all graph optimizations on; inputs fixed to `shapes` where it can load them so.

    Its outputs are new arrays anyway, so `copy` changes nothing.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    plain: Any = model if isinstance(model, bytes) else str(model)
    try:
        source = with_shapes(model, shapes) if shapes else plain
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.Fail:
        if not shapes:
            raise
        session = ort.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]

    def run(sample: Sample) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(sample)), strict=True))

    return run


def with_shapes(model: str | Path | bytes, shapes: Mapping[str, Sequence[int]]) -> bytes:
    """The model with its inputs declared at these fixed shapes, so that a peer can specialise as optc does."""
    import onnx

    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
    for port in proto.graph.input:
        if port.name in shapes:
            dims = port.type.tensor_type.shape.dim
            for dim, size in zip(dims, shapes[port.name], strict=True):
                dim.dim_value = size
    del proto.graph.value_info[:]
    for port in proto.graph.output:
        port.type.tensor_type.ClearField("shape")
    content: bytes = proto.SerializeToString()
    return content


def openvino_runner(
    model: str | Path | bytes,
    threads: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    precision: str | None = "f32",
    *,
    copy: bool = True,
) -> Run:
    """OpenVINO on the CPU, latency mode, one stream. Raises TargetError if it is not installed.

    `precision` is that of float arithmetic, None for OpenVINO's own choice: bf16 where the processor has AMX. Without
    `copy` results last until the next run only, which is its fastest way.
    """
    try:
        import openvino as ov
    except ImportError as error:
        raise TargetError("OpenVINO is not installed", hint="Install it with `pip install optc[bench]`") from error
    core = ov.Core()
    network = core.read_model(model if isinstance(model, bytes) else str(model))
    if shapes:
        network.reshape({name: list(shape) for name, shape in shapes.items()})
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if precision:
        config["INFERENCE_PRECISION_HINT"] = precision
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(network, "CPU", config)
    request = compiled.create_infer_request()
    names = [_name_of(output) for output in compiled.outputs]

    def run(sample: Sample) -> dict[str, np.ndarray]:
        results = request.infer(dict(sample), share_inputs=True, share_outputs=not copy)
        return {name: results[i] for i, name in enumerate(names)}

    return run


def _name_of(output: Any) -> str:
    """An output's name in the ONNX model: the result's own name begins with it; a tensor can have several."""
    name: str = output.get_node().get_friendly_name().split("/sink_port_")[0]
    return name if name in output.names else str(output.any_name)


PEERS: dict[str, Callable[..., Run]] = {
    "onnxruntime": onnxruntime_runner,
    "openvino": openvino_runner,
    "openvino-bf16": partial(openvino_runner, precision="bf16"),
}

IN_PRECISION = {
    "bf16": {"openvino": "openvino-bf16"},
    "int8": {"onnxruntime": "onnxruntime-int8", "openvino": "openvino-int8"},
}
"""What an engine is called in a precision; those of int8 are in peers_int8.py. ONNX Runtime multiplies no bf16."""


def peer_in(name: str, precision: str) -> str:
    """The peer that stands for an engine in a precision: itself where it has no other."""
    return IN_PRECISION.get(precision, {}).get(name, name)


def peer(name: str) -> Callable[..., Run]:
    """The engine of that name. Raises UsageError if there is none."""
    if name not in PEERS:
        raise UsageError("unknown peer", expected=" or ".join(PEERS), found=name)
    return PEERS[name]
