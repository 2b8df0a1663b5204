"""Models that ONNX Runtime quantized: normalized and compiled, they agree with ONNX Runtime on the same file."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import optc
import pytest
from helpers import run_model, run_reference
from onnx import ModelProto
from optc.backends.cpu import PIPELINE
from optc.compiler.ir import Graph
from optc.compiler.onnx.importer import import_model
from optc.models.fashion import shipped_sample
from optc.models.zoo import Shipped
from optc.passes.base import PassContext, run_passes
from optc.passes.quantization.forms.normalize import NormalizeQuantized
from quantized_models import (
    attention,
    cnn,
    convolutions,
    dynamically_quantized,
    lstm,
    mlp,
    normal,
    optimized,
    quantized,
)

STATIC = [*itertools.product(("qdq", "qoperator"), (("u8", "s8"), ("s8", "s8"), ("u8", "u8")), (False, True))]
SHAPES: dict[Callable[[], ModelProto], tuple[int, ...]] = {
    cnn: (3, 3, 12, 12),
    attention: (3, 7, 32),
    mlp: (3, 5, 16),
    convolutions: (2, 3, 10, 9),
    lstm: (6, 2, 8),
}
STEP = {cnn: 1 / 255, attention: 0.05}
"""One step of the output's scale; of the last scale before it, normalized, where the output is not quantized."""


def static(make: Callable[[], ModelProto], form: str, types: tuple[str, str], per_channel: bool) -> bytes:
    samples = [{"x": normal(*SHAPES[make], seed=seed)} for seed in range(4)]
    return quantized(make(), samples, form, *types, per_channel)


def normalized(model: bytes) -> Graph:
    """By one run of the pass; a second has nothing to do."""
    graph, context = import_model(model), PassContext(verify=True, check_changed=True)
    run_passes(graph, [NormalizeQuantized()], context)
    assert not run_passes(graph, [NormalizeQuantized()], context)
    assert not context.notes
    return graph


def assert_one_form(graph: Graph) -> None:
    """Activations are uint8 with a scalar scale and a zero point, weights have none."""
    for node in graph.all_nodes():
        assert "Linear" not in node.op or node.op in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
        assert node.op not in ("MatMulInteger", "ConvInteger", "MatMulIntegerToFloat")
        if node.op not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        stored = node.output if node.op == "QuantizeLinear" else node.operand(0)
        if stored.is_constant:
            product = any(user.op in ("Conv", "MatMul", "Gemm") for user in node.output.users)
            assert node.input(2) is None or not product
        elif stored.type.dtype.text != "i32":
            assert stored.type.dtype.text == "u8"
            assert node.operand(1).type.rank == 0
            assert node.operand(2).type.rank == 0


def assert_near(found: dict[str, np.ndarray], model: bytes, x: np.ndarray, step: float) -> None:
    """At most one step off on 99.9% of the values."""
    expected = run_model(model, {"x": x})
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape
        steps = np.abs(found[name].astype(np.float64) - wanted) / step
        assert np.quantile(steps, 0.999) <= 1.01


@pytest.mark.parametrize("make", STEP)
@pytest.mark.parametrize(("form", "types", "per_channel"), STATIC)
def test_static(make: Callable[[], ModelProto], form: str, types: tuple[str, str], per_channel: bool) -> None:
    model = static(make, form, types, per_channel)
    graph = normalized(model)
    assert_one_form(graph)
    x = normal(*SHAPES[make], seed=9)
    assert_near(run_reference(graph, {"x": x}), model, x, STEP[make])


@pytest.mark.parametrize(
    ("make", "form", "types"),
    [
        (cnn, "qdq", ("u8", "u8")),
        (cnn, "qoperator", ("s8", "s8")),
        (attention, "qdq", ("s8", "s8")),
        (attention, "qoperator", ("u8", "u8")),
    ],
)
def test_static_compiled(make: Callable[[], ModelProto], form: str, types: tuple[str, str]) -> None:
    model = static(make, form, types, True)
    x = normal(*SHAPES[make], seed=9)
    assert_near(optc.compile(model, cache=False).run({"x": x}), model, x, STEP[make])


def test_the_shipped_model_gives_the_same_classes() -> None:
    """fashion-cnn, its batch norms folded by nobody, calibrated with half of the shipped sample."""
    images, labels = shipped_sample()
    samples = [{"image": images[i : i + 8]} for i in range(0, 32, 8)]
    model = quantized(onnx.load(Shipped("fashion_cnn.onnx").path()), samples, "qdq", "u8", "s8", True)
    (expected,) = run_model(model, {"image": images}).values()
    (found,) = optc.compile(model, cache=False).run({"image": images}).values()
    step = np.diff(np.unique(expected)).min()
    assert np.quantile(np.abs(found - expected) / step, 0.999) <= 1.01
    assert np.mean(found.argmax(1) == labels) >= np.mean(expected.argmax(1) == labels) - 1 / 64


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("types", [("u8", "s8"), ("s8", "s8"), ("u8", "u8")])
def test_every_product_with_weights_is_one_of_integers(form: str, types: tuple[str, str]) -> None:
    for make, products in (
        (cnn, {"optc.ConvInteger": 2, "optc.MatMulInteger": 1}),
        (attention, {"optc.MatMulInteger": 4}),
    ):
        graph = import_model(static(make, form, types, True))
        run_passes(graph, PIPELINE, PassContext())
        ops = [n.op for n in graph.all_nodes()]
        for op, count in products.items():
            assert ops.count(op) >= count, op


@pytest.mark.parametrize("layout", [False, True])
def test_what_the_optimizer_makes_of_a_static_model(layout: bool) -> None:
    """QLinear ops where Q and DQ were; with `layout`, of channels last."""
    model = optimized(static(cnn, "qdq", ("u8", "s8"), True), layout=layout)
    assert b"QLinearAdd" in model
    assert layout == (b"NhwcMaxPool" in model)
    graph = normalized(model)
    assert_one_form(graph)
    x = normal(*SHAPES[cnn], seed=9)
    assert_near(run_reference(graph, {"x": x}), model, x, 2 * STEP[cnn])  # Softmax by a table in ONNX Runtime


DYNAMIC = [(mlp, "s8", False), (mlp, "u8", True), (convolutions, "u8", False), (convolutions, "u8", True)]
"""ONNX Runtime has no ConvInteger of int8 weights."""


@pytest.mark.parametrize(("make", "weights", "per_channel"), DYNAMIC)
def test_dynamic_products_are_exact(make: Callable[[], ModelProto], weights: str, per_channel: bool) -> None:
    """As `quantize_dynamic` writes them, and as the optimizer fuses them (DynamicQuantizeMatMul)."""
    model = dynamically_quantized(make(), weights, per_channel)
    x = normal(*SHAPES[make])
    for form in (model, optimized(model)):
        graph = normalized(form)
        assert_one_form(graph)
        np.testing.assert_array_equal(run_reference(graph, {"x": x})["y"], run_model(form, {"x": x})["y"])


@pytest.mark.parametrize(("make", "weights", "per_channel"), DYNAMIC[1:3])
def test_dynamic_compiled(make: Callable[[], ModelProto], weights: str, per_channel: bool) -> None:
    model = dynamically_quantized(make(), weights, per_channel)
    x = normal(*SHAPES[make])
    found, expected = optc.compile(model, cache=False).run({"x": x})["y"], run_model(model, {"x": x})["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_dynamic_lstm_computes_with_its_weights_dequantized(per_channel: bool) -> None:
    """ONNX Runtime quantizes the input and the state too, which costs it up to 1% here."""
    model = dynamically_quantized(lstm(), "s8", per_channel)
    graph = normalized(model)
    assert [n.op for n in graph.nodes] == ["LSTM"]
    x = normal(*SHAPES[lstm])
    expected = run_model(model, {"x": x})["y"]
    np.testing.assert_allclose(run_reference(graph, {"x": x})["y"], expected, rtol=0, atol=0.01)
    exact = run_model(lstm().SerializeToString(), {"x": x})["y"]
    np.testing.assert_allclose(run_reference(graph, {"x": x})["y"], exact, rtol=0, atol=0.01)


@pytest.mark.parametrize("opset", [11, 13])
def test_models_of_old_opsets(opset: int) -> None:
    """Before opset 13 DequantizeLinear knew no axis; QLinearConv had a scale a channel all the same."""
    samples = [{"x": normal(*SHAPES[cnn], seed=seed)} for seed in range(2)]
    model = quantized(cnn(opset), samples, "qoperator", "u8", "s8", True)
    graph = normalized(model)
    assert_one_form(graph)
    x = normal(*SHAPES[cnn], seed=9)
    assert_near(run_reference(graph, {"x": x}), model, x, STEP[cnn])
