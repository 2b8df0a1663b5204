"""Small float models, and what ONNX Runtime's quantizer makes of them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper, save_model
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

Inputs = dict[str, np.ndarray]
Call = tuple[str, list[str], str, dict[str, object]]
FORMATS = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}
TYPES = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}


class Weights:
    """Initializers, random but the same each time."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.tensors: list[TensorProto] = []

    def random(self, name: str, *shape: int, scale: float = 0.3) -> str:
        return self.array(name, (self.rng.standard_normal(shape) * scale).astype(np.float32))

    def array(self, name: str, array: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(array, name))
        return name


def small_model(nodes: list[Call], weights: Weights, shape: list[object], opset: int = 17) -> ModelProto:
    """A model from input `x` to output `y`; a node is its op, inputs, output and attributes."""
    graph = helper.make_graph(
        [helper.make_node(op, ins, [out], name=f"{op}_{out}", **attrs) for op, ins, out, attrs in nodes],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights.tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(8, 3 + opset // 3))


def cnn(opset: int = 17) -> ModelProto:
    """Every op that ONNX Runtime's quantizer has a QLinear form of, but MatMul."""
    w = Weights()
    three: dict[str, object] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    return small_model(
        [
            ("Conv", ["x", w.random("w1", 8, 3, 3, 3), w.random("b1", 8)], "c1", three),
            ("Relu", ["c1"], "r1", {}),
            ("MaxPool", ["r1"], "m", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("Conv", ["m", w.random("w2", 8, 1, 3, 3)], "c2", {**three, "group": 8}),
            ("Add", ["c2", "m"], "sum", {}),
            ("LeakyRelu", ["sum"], "leaky", {"alpha": 0.1}),
            ("Sigmoid", ["sum"], "gate", {}),
            ("Mul", ["leaky", "gate"], "product", {}),
            ("Concat", ["product", "m"], "both", {"axis": 1}),
            ("AveragePool", ["both"], "mean", three),
            ("GlobalAveragePool", ["mean"], "pooled", {}),
            ("Flatten", ["pooled"], "flat", {}),
            ("Gemm", ["flat", w.random("w3", 10, 16), w.random("b3", 10)], "logits", {"transB": 1}),
            ("Softmax", ["logits"], "y", {"axis": 1}),
        ],
        w,
        ["N", 3, 12, 12],
        opset,
    )


def attention() -> ModelProto:
    """One layer of self-attention with a residual and a norm: products with weights and of two activations."""
    w = Weights()
    heads, merged = w.array("heads", np.array([0, 0, 4, 8])), w.array("merged", np.array([0, 0, 32]))
    nodes: list[Call] = []
    for k in "qkv":
        nodes += [
            ("MatMul", ["x", w.random(f"w{k}", 32, 32)], f"m{k}", {}),
            ("Add", [f"m{k}", w.random(f"b{k}", 32)], f"a{k}", {}),
            ("Reshape", [f"a{k}", heads], f"r{k}", {}),
            ("Transpose", [f"r{k}"], f"t{k}", {"perm": [0, 2, 3, 1] if k == "k" else [0, 2, 1, 3]}),
        ]
    nodes += [
        ("MatMul", ["tq", "tk"], "scores", {}),
        ("Mul", ["scores", w.array("scale", np.float32(0.35))], "scaled", {}),
        ("Softmax", ["scaled"], "p", {"axis": -1}),
        ("MatMul", ["p", "tv"], "o", {}),
        ("Transpose", ["o"], "ot", {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["ot", merged], "or", {}),
        ("MatMul", ["or", w.random("wo", 32, 32)], "om", {}),
        ("Add", ["om", "x"], "residual", {}),
        ("LayerNormalization", ["residual", w.random("g", 32, scale=1.0), w.random("b", 32)], "y", {"axis": -1}),
    ]
    return small_model(nodes, w, ["N", "S", 32])


def mlp() -> ModelProto:
    w = Weights()
    return small_model(
        [
            ("MatMul", ["x", w.random("w1", 16, 24)], "m1", {}),
            ("Add", ["m1", w.random("b1", 24)], "a1", {}),
            ("Relu", ["a1"], "r1", {}),
            ("MatMul", ["r1", w.random("w2", 24, 8)], "y", {}),
        ],
        w,
        ["N", "S", 16],
    )


def convolutions() -> ModelProto:
    """Strided, padded on some sides only, grouped."""
    w = Weights()
    strided: dict[str, object] = {"pads": [1, 0, 1, 2], "strides": [2, 1]}
    return small_model(
        [
            ("Conv", ["x", w.random("w1", 8, 3, 3, 3), w.random("b1", 8)], "c1", strided),
            ("Relu", ["c1"], "r1", {}),
            ("Conv", ["r1", w.random("w2", 8, 2, 3, 3)], "y", {"group": 4, "pads": [1, 1, 1, 1]}),
        ],
        w,
        ["N", 3, 10, "W"],
    )


def lstm() -> ModelProto:
    w = Weights()
    operands = ["x", w.random("w", 2, 48, 8), w.random("r", 2, 48, 12), w.random("b", 2, 96)]
    return small_model([("LSTM", operands, "y", {"hidden_size": 12, "direction": "bidirectional"})], w, [6, "N", 8])


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class _Reader(CalibrationDataReader):
    def __init__(self, samples: list[Inputs]) -> None:
        self.samples: Iterator[Inputs] = iter(samples)

    def get_next(self) -> Inputs | None:
        return next(self.samples, None)


def quantized(
    model: ModelProto, samples: list[Inputs], form: str, activations: str, weights: str, per_channel: bool
) -> bytes:
    """What `quantize_static` writes."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, out = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        save_model(model, source)
        quantize_static(
            source,
            out,
            _Reader(samples),
            quant_format=FORMATS[form],
            activation_type=TYPES[activations],
            weight_type=TYPES[weights],
            per_channel=per_channel,
        )
        return out.read_bytes()


def dynamically_quantized(model: ModelProto, weights: str, per_channel: bool) -> bytes:
    """What `quantize_dynamic` writes."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, out = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        save_model(model, source)
        quantize_dynamic(source, out, weight_type=TYPES[weights], per_channel=per_channel)
        return out.read_bytes()


def optimized(model: bytes, *, layout: bool = False) -> bytes:
    """What ONNX Runtime saves after its graph optimizations; with `layout`, those for this processor too."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if layout else levels.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        options.log_severity_level = 4
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return Path(folder, "optimized.onnx").read_bytes()


class _quiet:
    """No warnings of ONNX Runtime's quantizer, which asks for a pre-processing that these models need not."""

    def __enter__(self) -> None:
        self.before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *error: object) -> None:
        logging.disable(self.before)
