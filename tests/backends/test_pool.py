"""Pooling against ONNX Runtime: pads, ceil_mode, dilations, counted padding, 1-D to 3-D, global, symbolic sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from optc.backends.jit import jit
from optc.backends.kernels import pool
from optc.backends.kernels.pool import PoolSpec
from optc.backends.target import Target
from tvm import tirx


def expected(x: np.ndarray, spec: PoolSpec, ceil_mode: bool) -> np.ndarray:
    """ONNX Runtime's result for channels-last x."""
    attributes: dict[str, Any] = {
        "kernel_shape": spec.kernel,
        "strides": spec.strides,
        "pads": spec.pads,
        "dilations": spec.dilations,
        "ceil_mode": int(ceil_mode),
    }
    if spec.kind == "average":
        attributes["count_include_pad"] = int(spec.count_include_pad)
    op = "MaxPool" if spec.kind == "max" else "AveragePool"
    moved = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, moved.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.moveaxis(session.run(None, {"x": moved})[0], 1, -1)


CASES = {
    "padded": ((14, 15), (7, 8), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False),
    "ceil": ((14, 15), (7, 7), (3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True),
    "ceil and padded": ((14, 15), (7, 8), (3, 3), (2, 2), (1, 1, 0, 0), (1, 1), True),
    "dilated": ((14, 15), (10, 11), (3, 3), (1, 1), (0, 0, 0, 0), (2, 2), False),
    "global": ((7, 7), (1, 1), (7, 7), (1, 1), (0, 0, 0, 0), (1, 1), False),
    "1-D": ((9,), (4,), (3,), (2,), (0, 0), (1,), False),
    "3-D": ((5, 6, 7), (2, 3, 3), (2, 2, 3), (2, 2, 2), (0, 0, 0, 0, 0, 0), (1, 1, 1), False),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("kind", "counted"), [("max", False), ("average", False), ("average", True)])
def test_pool(name: str, kind: Any, counted: bool) -> None:
    size, out, kernel, strides, pads, dilations, ceil_mode = CASES[name]
    channels = 20
    spec = PoolSpec(kind, 2, size, out, channels, kernel, strides, pads, dilations, counted)
    x = np.random.default_rng(0).standard_normal((2, *size, channels), dtype="float32")
    y = np.full((2, *out, channels), np.nan, "float32")
    jit({"f": pool.build(spec, next(iter(pool.plans(spec, Target.host()))))})["f"](x, y)
    np.testing.assert_allclose(y, expected(x, spec, ceil_mode), rtol=1e-6, atol=1e-6)


def test_sizes_known_only_at_run_time() -> None:
    h, w = tirx.Var("h", "int64"), tirx.Var("w", "int64")
    spec = PoolSpec("max", 1, (h, w), ((h - 1) // 2 + 1, (w - 1) // 2 + 1), 24, (3, 3), (2, 2), (1,) * 4, (1, 1))
    x = np.random.default_rng(0).standard_normal((1, 13, 22, 24), dtype="float32")
    y = np.empty((1, 7, 11, 24), "float32")
    jit({"f": pool.build(spec, next(iter(pool.plans(spec, Target.host()))))})["f"](x, y)
    fixed = PoolSpec("max", 1, (13, 22), (7, 11), 24, (3, 3), (2, 2), (1,) * 4, (1, 1))
    np.testing.assert_array_equal(y, expected(x, fixed, False))
