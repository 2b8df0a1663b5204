"""Small ONNX models, and what calls the command line, for end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Cli = Callable[..., tuple[int, str, str]]
"""Called with the arguments of `optc`; returns exit code, stdout, stderr."""


def make_model(nodes: list[NodeProto], weights: dict[str, np.ndarray], shape: list[int | str]) -> ModelProto:
    """A float model from input `x` to output `y`."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, name) for name, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
