"""optc.backends.runtime.hostcall: nodes that run on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from optc.backends.runtime.model import Model, load
from optc.compiler.errors import ArtifactError, OptcError

Write = Callable[..., None]


def node_model(op: str, output: int, **attributes: object) -> bytes:
    """The member that holds a node of one float vector to one vector of type `output`."""
    node = helper.make_node(op, ["x"], ["y0"], **attributes)
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y0", output, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def model(write: Write, tmp_path: Path) -> Model:
    members = {
        "fallback/0.onnx": node_model("Neg", TensorProto.FLOAT),
        "fallback/1.onnx": node_model("NonZero", TensorProto.INT64),
    }
    write(tmp_path / "a.optc", "hosted", extras=members)
    return load(tmp_path / "a.optc", threads=1)


@pytest.mark.parametrize("x", [[1, 0, 2], [0], []], ids=str)
def test_results_in_planned_and_in_new_memory(model: Model, x: list[float]) -> None:
    negated, positions = model(np.float32(x))
    np.testing.assert_array_equal(negated, -np.float32(x))
    np.testing.assert_array_equal(positions, np.nonzero(x))


def test_a_result_of_another_shape_is_an_error(write: Write, tmp_path: Path) -> None:
    members = {f"fallback/{i}.onnx": node_model("NonZero", TensorProto.INT64) for i in range(2)}
    write(tmp_path / "a.optc", "hosted", extras=members)
    with pytest.raises(OptcError, match=r"node 0 failed.*expected a result of shape"):
        load(tmp_path / "a.optc")(np.float32([1, 0]))


def test_an_error_of_the_engine_reaches_the_user(write: Write, tmp_path: Path) -> None:
    members = {f"fallback/{i}.onnx": node_model("Squeeze", TensorProto.FLOAT) for i in range(2)}
    first = onnx.load_from_string(members["fallback/0.onnx"])
    first.graph.node[0].op_type = "Reshape"
    first.graph.node[0].input.append("to")
    first.graph.initializer.append(helper.make_tensor("to", TensorProto.INT64, [1], [7]))
    write(tmp_path / "a.optc", "hosted", extras={**members, "fallback/0.onnx": first.SerializeToString()})
    with pytest.raises(OptcError, match=r"node 0 failed.*ONNX Runtime: .*Reshape"):
        load(tmp_path / "a.optc")(np.float32([1, 0]))


def test_a_node_that_the_engine_refuses(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "a.optc", "hosted", extras={"fallback/0.onnx": b"no model"})
    with pytest.raises(ArtifactError, match="does not take node 0"):
        load(tmp_path / "a.optc")
