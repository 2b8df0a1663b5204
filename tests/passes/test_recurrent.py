"""Packing recurrent layers: what becomes of them, which forms stay, and that compiled code agrees with the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optc
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph
from optc.compiler.onnx.exporter import export_model
from optc.compiler.ops.recurrent import BLOCK, pack_gates, unpack_gates
from optc.passes.base import run_passes
from optc.passes.recurrent import PackRecurrent

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}


def layer(op: str, attrs: str = "", *, given: str = "BLH", size: int = 5, hidden: int = 20, outputs: int = 0) -> str:
    """A graph of one layer with constant weights; `given`: B(ias), L(engths), H (initial states), P(eepholes)."""
    directions = 2 if "bidirectional" in attrs else 1
    first = "layout=1" in attrs
    rows = GATES[op] * hidden
    state = f"N,{directions},{hidden}" if first else f"{directions},N,{hidden}"
    inputs = [f"%x: f32[{'N,T' if first else 'T,N'},{size}]"]
    inputs += ["%lens: i32[N]"] if "L" in given else []
    inputs += [f"%h0: f32[{state}]"] if "H" in given else []
    inputs += [f"%c0: f32[{state}]"] if "H" in given and op == "LSTM" else []
    operands = ["%x", "%w", "%r", "%b" if "B" in given else "_", "%lens" if "L" in given else "_"]
    operands += ["%h0" if "H" in given else "_"]
    operands += [("%c0" if "H" in given else "_"), ("%p" if "P" in given else "_")] if op == "LSTM" else []
    while operands[-1] == "_":
        operands.pop()
    names = ", ".join(["%y", "%yh", "%yc"][: outputs or 1 + STATES[op]])
    extra = f", {attrs}" if attrs else ""
    return f"""
graph main({", ".join(inputs)}) {{
  %w: f32[{directions},{rows},{size}] = const random(1)
  %r: f32[{directions},{rows},{hidden}] = const random(2)
  %b: f32[{directions},{2 * rows}] = const random(3)
  %p: f32[{directions},{3 * hidden}] = const random(4)
  {names} = {op}({", ".join(operands)}) {{hidden_size={hidden}{extra}}}
  return {names}
}}
"""


def packed(text: str) -> Graph:
    graph = graph_of(text)
    run_passes(graph, [PackRecurrent()])
    return graph


def optc_inputs(text: str, dims: dict[str, int], lengths: list[int]) -> dict[str, np.ndarray]:
    inputs = random_inputs(graph_of(text), dims)
    if "lens" in inputs:
        inputs["lens"] = np.array(lengths[: dims["N"]], np.int32)
    return inputs


def test_an_lstm_becomes_a_matmul_and_a_recurrence(assert_rewrites: Callable[..., Graph]) -> None:
    assert_rewrites(
        [PackRecurrent()],
        """
graph main(%x: f32[T,N,3], %h: f32[1,N,16]) {
  %w: f32[1,64,3] = const ones
  %r: f32[1,64,16] = const ones
  %b: f32[1,128] = const ones
  %y, %yh, %yc = LSTM(%x, %w, %r, %b, _, %h) {hidden_size=16}
  return %y, %yc
}
""",
        """
graph main(%x: f32[T,N,3], %h: f32[1,N,16]) {
  %w: f32[3,64] = const ones
  %b: f32[64] = const 2.0
  %r: f32[1,1,16,4,16] = const ones
  %a = MatMul(%x, %w)
  %z = Add(%a, %b)
  %y, %yh, %yc = optc.LSTM(%z, %r, _, _, %h, _) {direction="forward", hidden_size=16, layout=0}
  return %y, %yc
}
""",
    )


def test_packed_gates_lie_beside_each_other_and_come_back() -> None:
    weights = np.arange(2 * 3 * 20 * 5, dtype=np.float32).reshape(2, 60, 5)
    result = pack_gates(weights, 3)
    assert result.shape == (2, 2, 5, 3, BLOCK)
    assert result[1, 1, 4, 2, 3] == weights[1, 2 * 20 + BLOCK + 3, 4]
    assert not result[:, 1, :, :, 4:].any()
    np.testing.assert_array_equal(unpack_gates(result, 20), weights)


@pytest.mark.parametrize(
    ("op", "attrs", "given"),
    [
        ("LSTM", 'direction="bidirectional"', "BLH"),
        ("LSTM", 'direction="reverse"', ""),
        ("GRU", 'direction="bidirectional", linear_before_reset=1', "BL"),
        ("GRU", 'direction="reverse", linear_before_reset=0', "BH"),
        ("RNN", 'direction="bidirectional", activations=["Relu","Relu"]', "BLH"),
    ],
)
def test_exported_it_is_the_layer_again(op: str, attrs: str, given: str) -> None:
    text = layer(op, attrs, given=given)
    graph = packed(text)
    assert [n.op for n in graph.nodes][-1] == f"optc.{op}"
    inputs = optc_inputs(text, {"T": 3, "N": 3}, [3, 0, 1])
    expected = run_reference(graph_of(text), inputs)
    for name, result in run_reference(graph, inputs).items():
        np.testing.assert_allclose(result, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "attrs", "given"),
    [
        ("LSTM", "", "P"),
        ("LSTM", "clip=0.5", "B"),
        ("LSTM", "input_forget=1", "B"),
        ("GRU", 'activations=["HardSigmoid","Tanh"]', "B"),
        ("RNN", 'activations=["Softsign"]', "B"),
    ],
)
def test_rare_forms_stay(op: str, attrs: str, given: str) -> None:
    assert [n.op for n in packed(layer(op, attrs, given=given)).nodes] == [op]


def test_weights_that_are_not_constant_stay() -> None:
    graph = packed("""
graph main(%x: f32[T,N,3], %r: f32[1,16,16]) {
  %w: f32[1,16,3] = const random(1)
  %y, %yh = RNN(%x, %w, %r) {hidden_size=16}
  return %y
}
""")
    assert [n.op for n in graph.nodes] == ["RNN"]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", ["", "BLH"])
@pytest.mark.parametrize(
    ("op", "extra"),
    [
        ("RNN", {}),
        ("RNN", {"activations": '"Relu"'}),
        ("GRU", {"linear_before_reset": 0}),
        ("GRU", {"linear_before_reset": 1}),
        ("LSTM", {}),
    ],
)
def test_compiled_it_agrees_with_onnxruntime(op: str, extra: dict[str, Any], given: str, direction: str) -> None:
    both = 2 if direction == "bidirectional" else 1
    attrs = [f'direction="{direction}"']
    for key, value in extra.items():
        attrs.append(f"{key}={value}" if isinstance(value, int) else f"{key}=[{','.join([value] * both)}]")
    text = layer(op, ", ".join(attrs), given=given)
    model = optc.compile(export_model(graph_of(text)).SerializeToString(), threads=2, cache=False)
    for steps, batch in ((4, 1), (3, 9)):
        inputs = optc_inputs(text, {"T": steps, "N": batch}, [steps, 0, *([min(steps, 2)] * 7)])
        expected = run_reference(graph_of(text), inputs)
        for name, result in model.run(inputs).items():
            np.testing.assert_allclose(result, expected[name], rtol=1e-4, atol=1e-5)


def test_no_steps_leave_the_initial_state() -> None:
    """ONNX Runtime crashes on it."""
    text = layer("LSTM", 'direction="bidirectional"', given="BH")
    model = optc.compile(export_model(graph_of(text)).SerializeToString(), threads=2, cache=False)
    inputs = optc_inputs(text, {"T": 0, "N": 2}, [])
    result = model.run(inputs)
    assert result["y"].shape == (0, 2, 2, 20)
    np.testing.assert_array_equal(result["yh"], inputs["h0"])
    np.testing.assert_array_equal(result["yc"], inputs["c0"])


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_batch_first_is_the_transposed_problem(op: str) -> None:
    texts = [layer(op, f'direction="bidirectional", layout={first}') for first in (0, 1)]
    models = [optc.compile(export_model(graph_of(t)).SerializeToString(), cache=False) for t in texts]
    inputs = optc_inputs(texts[0], {"T": 4, "N": 3}, [4, 2, 0])
    swapped = {k: v if v.ndim == 1 else np.swapaxes(v, 0, 1).copy() for k, v in inputs.items()}
    plain, found = models[0].run(inputs), models[1].run(swapped)
    np.testing.assert_allclose(found.pop("y"), plain.pop("y").transpose(2, 0, 1, 3), rtol=1e-6)
    for name, result in found.items():
        np.testing.assert_allclose(result, np.swapaxes(plain[name], 0, 1), rtol=1e-6)


def test_a_length_beyond_the_steps_is_refused() -> None:
    text = layer("GRU")
    model = optc.compile(export_model(graph_of(text)).SerializeToString(), cache=False)
    with pytest.raises(optc.OptcError, match="sequence length 5 out of range"):
        model.run(optc_inputs(text, {"T": 3, "N": 2}, [5, 1]))


@pytest.mark.parametrize("target", ["cpu:x86-64-v2", "cpu:x86-64-v3"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_narrower_vectors_agree_too(op: str, target: str) -> None:
    text = layer(op, 'direction="bidirectional"', given="BH", hidden=33)
    model = optc.compile(export_model(graph_of(text)).SerializeToString(), target, cache=False)
    for batch in (1, 5):
        inputs = optc_inputs(text, {"T": 3, "N": batch}, [])
        expected = run_reference(graph_of(text), inputs)
        for name, result in model.run(inputs).items():
            np.testing.assert_allclose(result, expected[name], rtol=1e-4, atol=1e-5)
