"""LSTM, GRU and RNN against ONNX Runtime, in the forms its tests and onnx's do not cover together."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from c_harness import COpError, run_node
from onnx import TensorProto, helper
from optc.compiler.types import DType

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def make_inputs(
    op: str, steps: int, batch: int, size: int, hidden: int, directions: int = 1, present: str = ""
) -> list[np.ndarray | None]:
    """X, W, R and, for the letters in `present`: B(ias), L(engths), H(idden and cell states), P(eepholes)."""
    rng = np.random.default_rng(steps * 100 + batch * 10 + hidden)
    gates = GATES[op] * hidden

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-0.5, 0.5, shape).astype(np.float32)

    inputs: list[np.ndarray | None] = [draw(steps, batch, size), draw(directions, gates, size)]
    inputs.append(draw(directions, gates, hidden))
    inputs.append(draw(directions, 2 * gates) if "B" in present else None)
    inputs.append(rng.integers(0, steps + 1, batch).astype(np.int32) if "L" in present else None)
    inputs.append(draw(directions, batch, hidden) if "H" in present else None)
    if op == "LSTM":
        inputs.append(draw(directions, batch, hidden) if "H" in present else None)
        inputs.append(draw(directions, 3 * hidden) if "P" in present else None)
    return inputs


def run_onnxruntime(op: str, inputs: list[np.ndarray | None], outputs: int, attrs: dict[str, Any]) -> list[np.ndarray]:
    names = ["" if a is None else f"x{i}" for i, a in enumerate(inputs)]
    types = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in zip(names, inputs, strict=True) if a is not None}
    hidden = inputs[2].shape[2] if inputs[2] is not None else 0
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], hidden_size=hidden, **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, t, None) for n, t in types.items()],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {n: a for n, a in zip(names, inputs, strict=True) if a is not None})


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("present", ["", "B", "BH", "BL", "BLHP"])
@pytest.mark.parametrize(
    ("op", "extra"),
    [
        ("RNN", {}),
        ("GRU", {"linear_before_reset": 0}),
        ("GRU", {"linear_before_reset": 1}),
        ("LSTM", {}),
        ("LSTM", {"input_forget": 1}),
    ],
)
@pytest.mark.parametrize("dims", [(3, 2, 5, 7), (12, 3, 20, 33), (9, 1, 16, 64)])
def test_agrees_with_onnxruntime(
    op: str, extra: dict[str, int], direction: str, present: str, dims: tuple[int, int, int, int]
) -> None:
    inputs = make_inputs(op, *dims, directions=2 if direction == "bidirectional" else 1, present=present)
    count = 3 if op == "LSTM" else 2
    attrs = {"direction": direction, **extra}
    expected = run_onnxruntime(op, inputs, count, attrs)
    for result, wanted in zip(run_node(op, inputs, [DType.F32] * count, **attrs), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "activations",
    [
        ("Relu", "Softsign"),
        ("HardSigmoid", "LeakyRelu"),
        ("Affine", "Elu"),
        ("Sigmoid", "ScaledTanh"),
        ("Softplus", "ThresholdedRelu"),
    ],
)
def test_activations_with_their_parameters(activations: tuple[str, str]) -> None:
    inputs = make_inputs("GRU", 4, 2, 3, 5, present="B")
    takes = {"HardSigmoid": (0.3, 0.4), "LeakyRelu": (0.1,), "Affine": (0.8, 0.1), "ScaledTanh": (0.9, 1.1)}
    takes |= {"Elu": (0.7,), "ThresholdedRelu": (0.2,)}
    alphas = [takes[a][0] for a in activations if a in takes]
    betas = [takes[a][1] for a in activations if len(takes.get(a, ())) > 1]
    attrs: dict[str, Any] = {"activations": activations}
    if alphas:
        attrs["activation_alpha"] = tuple(alphas)
    if betas:
        attrs["activation_beta"] = tuple(betas)
    expected = run_onnxruntime("GRU", inputs, 2, attrs)
    for result, wanted in zip(run_node("GRU", inputs, [DType.F32] * 2, **attrs), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["RNN", "GRU"])
def test_clip_bounds_the_input_of_activations(op: str) -> None:
    inputs = make_inputs(op, 5, 2, 4, 6, present="B")
    expected = run_onnxruntime(op, inputs, 2, {"clip": 0.2})
    for result, wanted in zip(run_node(op, inputs, [DType.F32] * 2, clip=0.2), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_batch_first_is_the_transposed_problem(op: str) -> None:
    inputs = make_inputs(op, 10, 3, 8, 12, directions=2, present="BLH")
    count = 3 if op == "LSTM" else 2
    plain = run_node(op, inputs, [DType.F32] * count, direction="bidirectional")
    swapped = [np.swapaxes(a, 0, 1).copy() if a is not None and i in (0, 5, 6) else a for i, a in enumerate(inputs)]
    results = run_node(op, swapped, [DType.F32] * count, direction="bidirectional", layout=1)
    np.testing.assert_array_equal(results[0], plain[0].transpose(2, 0, 1, 3))
    for result, wanted in zip(results[1:], plain[1:], strict=True):
        np.testing.assert_array_equal(result, np.swapaxes(wanted, 0, 1))


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-5), (np.float16, 2e-3)])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_other_float_types(op: str, dtype: type, rtol: float) -> None:
    inputs = make_inputs(op, 6, 2, 5, 9, present="BH")
    cast = [a if a is None else a.astype(dtype) for a in inputs]
    wide = [a if a is None else a.astype(np.float32) for a in cast]
    kind = DType.from_numpy(dtype)
    (expected,) = run_node(op, wide, [DType.F32])
    (result,) = run_node(op, cast, [kind])
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=rtol, atol=rtol / 10)


def test_gates_saturate_without_nan() -> None:
    inputs = make_inputs("LSTM", 3, 1, 4, 8)
    inputs[0] = np.full((3, 1, 4), 1e30, np.float32)
    (y,) = run_node("LSTM", inputs, [DType.F32])
    assert np.isfinite(y).all()


def test_a_weight_that_does_not_fit_is_refused() -> None:
    inputs = make_inputs("GRU", 3, 1, 4, 8)
    inputs[1] = np.zeros((1, 24, 5), np.float32)
    with pytest.raises(COpError, match="GRU: W does not fit hidden size 8, input size 4"):
        run_node("GRU", inputs, [DType.F32])
