"""Shared by all tests: graphs from text, comparison, random inputs, and what ONNX says a graph computes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from optc.compiler.ir import Graph
from optc.compiler.text import difference, parse_graph, print_graph, random_array
from optc.compiler.types import substitute
from optc.compiler.verify import verify


def graph_of(text: str) -> Graph:
    """Parses and verifies."""
    graph = parse_graph(text)
    verify(graph)
    return graph


def assert_same(graph: Graph, expected: str | Graph) -> None:
    """The graph is valid and structurally equal to the expected one (text or graph)."""
    verify(graph)
    wanted = parse_graph(expected) if isinstance(expected, str) else expected
    found = difference(graph, wanted)
    assert found is None, f"{found}\n--- is\n{print_graph(graph)}\n--- should be\n{print_graph(wanted)}"


def random_inputs(graph: Graph, dims: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """An array per graph input, symbolic dims bound by `dims` (3 where it says nothing)."""
    arrays = {}
    for index, value in enumerate(graph.inputs):
        shape = value.type.dims
        names = {s for d in shape if not isinstance(d, int) for s in d.free_symbols}
        bound = substitute(shape, {s: (dims or {}).get(s.name, 3) for s in names})
        arrays[value.name] = random_array(value.type.with_shape(bound), seed + index)
    return arrays


def run_reference(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Exports the graph and runs it on ONNX Runtime, or on onnx.reference where ONNX Runtime lacks an op."""
    from optc.compiler.onnx.exporter import export_model

    return run_model(export_model(graph).SerializeToString(), inputs)


def run_model(model: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a serialized ONNX model, unoptimized; returns {output name: array}."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (
        ort.capi.onnxruntime_pybind11_state.NotImplemented,
        ort.capi.onnxruntime_pybind11_state.Fail,
        ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ):
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx.load_from_string(model))
        return dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
