"""Import, export, ONNX Runtime: the same outputs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import random_inputs, run_model, run_reference
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.case.test_case import TestCase as Case
from optc.compiler.onnx.exporter import export_model
from optc.compiler.onnx.importer import import_model
from optc.compiler.text import difference, parse_graph, print_graph
from optc.compiler.verify import verify

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))

# Ops of every family; those with bodies, functions and omitted operands among them. (Pools: their cases are slow to
# make, and the light models have them.)
OPS = (
    "ArgMax", "Attention", "BatchNormalization", "Cast", "Clip", "Concat", "ConstantOfShape", "Conv",
    "ConvTranspose", "CumSum", "DepthToSpace", "DequantizeLinear", "Einsum", "Expand", "Flatten", "Gather", "GatherND",
    "Gemm", "GRU", "If", "InstanceNormalization", "LayerNormalization", "Loop", "LSTM", "MatMul",
    "NonMaxSuppression", "OneHot", "Pad", "Pow", "QuantizeLinear", "Range", "ReduceMean", "Reshape", "Resize",
    "RoiAlign", "Scan", "ScatterElements", "Shape", "Slice", "Softmax", "SoftmaxCrossEntropyLoss", "Split", "Squeeze",
    "Tile", "TopK", "Transpose", "Unique", "Unsqueeze", "Where",
)  # fmt: skip
MODULES = {
    "BatchNormalization": "batch_normalization",
    "If": "if_",
    "InstanceNormalization": "instance_normalization",
    "Range": "rangeop",
    "SoftmaxCrossEntropyLoss": "softmax_cross_entropy_loss",
}  # where onnx names the module of an op's node tests other than the op
SAMPLE = 3  # cases of an op
PLAIN = {
    onnx.TensorProto.DataType.Value(n)
    for n in ("FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "INT64", "BOOL")
}


def samples(op: str) -> list[Case]:
    """Some of onnx's cases of an op whose inputs and outputs are plain tensors."""
    importlib.import_module(f"onnx.backend.test.case.node.{MODULES.get(op, op.lower())}")
    cases = [c for c in node_cases._NodeTestCases if [n.op_type for n in c.model.graph.node] == [op]]
    cases = [c for c in cases if _is_plain(c.model)]
    return cases[:: max(1, len(cases) // SAMPLE)]


def _is_plain(model: onnx.ModelProto) -> bool:
    types = [i.type.tensor_type for i in (*model.graph.input, *model.graph.output)]
    return model.opset_import[0].version >= 9 and all(t.elem_type in PLAIN for t in types)


def _array(data: Any) -> np.ndarray:
    """Cases hold arrays, numpy scalars or TensorProtos."""
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_models(path: Path) -> None:
    """Bit for bit what ONNX Runtime makes of the model itself."""
    graph = import_model(path)
    inputs = random_inputs(graph)
    expected, found = run_model(path.read_bytes(), inputs), run_reference(graph, inputs)
    assert list(expected) == list(found)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("op", OPS)
def test_node_models(op: str) -> None:
    """The outputs that onnx gives for the case, within its tolerance."""
    for case in samples(op):
        inputs, outputs = case.data_sets[0]
        names = [i.name for i in case.model.graph.input]
        found = run_reference(import_model(case.model), dict(zip(names, map(_array, inputs), strict=True)))
        assert list(found) == [o.name for o in case.model.graph.output]
        for array, expected in zip(found.values(), outputs, strict=True):
            wanted = _array(expected)
            np.testing.assert_allclose(array, wanted, rtol=case.rtol, atol=case.atol, err_msg=case.name)
            assert array.dtype == wanted.dtype


@pytest.mark.parametrize("op", OPS)
def test_node_models_survive_text_and_export(op: str) -> None:
    for case in samples(op):
        graph = import_model(case.model)
        verify(graph)
        assert difference(graph, parse_graph(print_graph(graph, consts="full"))) is None
        assert difference(graph, graph.clone()) is None
        again = import_model(export_model(graph))  # may lack attributes that said what their absence says
        assert difference(again, import_model(export_model(again)), names=True) is None
