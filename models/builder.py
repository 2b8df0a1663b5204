"""Writes ONNX graphs by hand: the few layers that the zoo's own models are made of.

Values are passed around by name, as ONNX does. Weights come from the caller or, if none are given, from a seeded
generator with He initialisation (He et al. 2015), which keeps activations at unit scale however deep the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Dim = int | str
FloatArray = NDArray[np.float32]


class GraphBuilder:
    """Collects nodes and initializers, then builds a checked model. Names repeat from run to run."""

    def __init__(self, name: str, opset: int = 17, seed: int = 0) -> None:
        self.name, self.opset = name, opset
        self.rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[Dim], elem_type: int = TensorProto.FLOAT) -> str:
        """Declares a model input; a string in `shape` is a symbolic dim."""
        self._inputs.append(helper.make_tensor_value_info(name, elem_type, list(shape)))
        return name

    def output(self, value: str, name: str, shape: Sequence[Dim]) -> None:
        """Gives the float32 `value` the public `name`; an Identity is avoided by renaming its producer's output."""
        for node in self._nodes:
            node.input[:] = [name if i == value else i for i in node.input]
            node.output[:] = [name if o == value else o for o in node.output]
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def node(self, op: str, *inputs: str, name: str | None = None, **attrs: Any) -> str:
        """Appends one node with one output and returns the output's name. Empty inputs are omitted ones."""
        name = name or f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attrs))
        return f"{name}_out"

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        """Splits `x` into equal parts along `axis`."""
        name = f"Split_{len(self._nodes)}"
        outputs = [f"{name}_out{i}" for i in range(parts)]
        node = helper.make_node("Split", [x], outputs, name=name, axis=axis)
        if self.opset >= 18:
            node.attribute.append(helper.make_attribute("num_outputs", parts))
        self._nodes.append(node)
        return outputs

    def constant(self, array: NDArray[Any] | float | Sequence[int], name: str | None = None) -> str:
        """Adds an initializer. Python floats become float32 scalars and sequences of int become int64 vectors."""
        if isinstance(array, float):
            array = np.float32(array)
        elif not isinstance(array, np.ndarray):
            array = np.array(array, np.int64)
        name = name or f"const_{len(self._weights)}"
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name)
        return name

    def he(self, *shape: int, fan_in: int, gain: float = 2.0) -> FloatArray:
        """Random weights of variance gain / fan_in: gain 2 behind a ReLU, 1 behind anything linear."""
        weights = self.rng.standard_normal(shape, dtype=np.float32)
        weights *= np.float32(np.sqrt(gain / fan_in))
        return weights

    def conv(
        self,
        x: str,
        name: str,
        weight: FloatArray,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: FloatArray | None = None,
        pads: Sequence[int] | None = None,
    ) -> str:
        """2-D convolution, weight [out, in / groups, kh, kw]; pads (top, left, bottom, right), else (k - 1) / 2."""
        kernel = weight.shape[2:]
        inputs = [x, self.constant(weight, f"{name}.weight")]
        if bias is not None:
            inputs.append(self.constant(bias, f"{name}.bias"))
        return self.node(
            "Conv",
            *inputs,
            name=name,
            kernel_shape=list(kernel),
            strides=[stride, stride],
            pads=list(pads) if pads is not None else [(k - 1) // 2 for k in kernel] * 2,
            dilations=[1, 1],
            group=groups,
        )

    def batch_norm(self, x: str, name: str, params: Sequence[FloatArray], eps: float = 1e-5) -> str:
        """Inference batch normalisation; `params` are gamma, beta, running mean and variance, each [channels]."""
        names = ("weight", "bias", "running_mean", "running_var")
        values = [self.constant(p, f"{name}.{n}") for n, p in zip(names, params, strict=True)]
        return self.node("BatchNormalization", x, *values, name=name, epsilon=eps)

    def random_batch_norm(self, x: str, name: str, channels: int, gamma: float = 1.0) -> str:
        """Batch normalisation with statistics spread by a third about those of unit-variance input."""

        def spread(centre: float) -> FloatArray:
            return (centre * self.rng.uniform(0.7, 1.3, channels)).astype(np.float32)

        def shift() -> FloatArray:
            return (0.1 * self.rng.standard_normal(channels)).astype(np.float32)

        return self.batch_norm(x, name, (spread(gamma), shift(), shift(), spread(1.0)))

    def linear(self, x: str, name: str, weight: FloatArray, bias: FloatArray) -> str:
        """Fully connected layer on [N, in], weight [out, in] as torch keeps it (Gemm with transB)."""
        operands = self.constant(weight, f"{name}.weight"), self.constant(bias, f"{name}.bias")
        return self.node("Gemm", x, *operands, name=name, transB=1)

    def build(self, doc: str = "") -> onnx.ModelProto:
        """The finished, checked model. Raises `onnx.checker.ValidationError` if it is not valid."""
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._weights.values()), doc_string=doc
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="optc")
        onnx.checker.check_model(model, full_check=True)
        return model
