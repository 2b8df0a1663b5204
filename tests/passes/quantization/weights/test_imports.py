"""Weights compressed by other tools: ONNX Runtime's MatMulNBits, and DequantizeLinear in front of a product."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import optc
import pytest
from helpers import graph_of, random_inputs, run_model, run_reference
from onnx import TensorProto, helper
from optc.compiler.ir import Graph
from optc.compiler.onnx.exporter import export_model
from optc.compiler.onnx.importer import import_model
from optc.compiler.onnx.tensors import ExternalData, to_array
from optc.compiler.ops.base import attr_int
from optc.compiler.verify import verify
from optc.passes.base import PassContext, run_passes
from optc.passes.quantization.weights import CompressedWeights
from optc.passes.simplify.dead_code import DeadCode


def product(tensors: list[onnx.TensorProto], nodes: list[onnx.NodeProto], k: int = 80, n: int = 24) -> onnx.ModelProto:
    """A model of x f32 [B, k] and y f32 [B, n]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", k])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", n])
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def recognized(model: onnx.ModelProto | Graph) -> Graph:
    graph = model if isinstance(model, Graph) else import_model(model)
    run_passes(graph, (CompressedWeights(), DeadCode()), PassContext())
    verify(graph)
    return graph


def assert_agrees(model: onnx.ModelProto, graph: Graph) -> None:
    """ONNX Runtime on the model as it was, and on the graph exported again."""
    inputs = random_inputs(graph, {"B": 3})
    expected = run_model(model.SerializeToString(), inputs)
    for name, found in run_reference(graph, inputs).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max())


def n_bits(bits: int, block: int, zeros: Any = None, bias: bool = False, k: int = 80, n: int = 24) -> onnx.ModelProto:
    """MatMulNBits with random weights; zeros: None, "packed" or "float"."""
    rng, blocks = np.random.default_rng(0), -(-k // block)
    scales = rng.uniform(0.1, 1, (n, blocks)).astype(np.float32)
    tensors: dict[str, np.ndarray] = {
        "b": rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": scales,
    }
    if zeros == "packed":
        tensors["z"] = rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
    elif zeros == "float":
        tensors["z"] = rng.uniform(0, 1 << bits, (n, blocks)).astype(np.float32)
    if bias:
        tensors["c"] = rng.standard_normal(n).astype(np.float32)
    names = ["x", "b", "s", "z" if zeros else "", "", "c" if bias else ""]
    node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block)
    return product([onnx.numpy_helper.from_array(a, name) for name, a in tensors.items()], [node], k, n)


@pytest.mark.parametrize(
    ("block", "bits", "zeros"),
    [
        (16, 4, None),
        (32, 4, "packed"),
        (128, 4, None),
        (32, 4, "float"),
        (16, 2, "packed"),
        (32, 8, None),
        (32, 8, "packed"),
    ],
)
def test_matmul_n_bits(bits: int, block: int, zeros: str | None) -> None:
    model = n_bits(bits, block, zeros)
    graph = recognized(model)
    assert [n.op for n in graph.nodes] == ["optc.MatMulPacked"]
    assert attr_int(next(graph.nodes), "bits", 0) == bits
    assert_agrees(model, graph)


@pytest.mark.parametrize("zeros", [None, "packed"])
def test_compiled_it_agrees_with_onnxruntime(zeros: str | None) -> None:
    data = n_bits(4, 32, zeros, bias=True).SerializeToString()
    model = optc.compile(data, cache=False)
    for batch in (1, 20):
        inputs = {"x": np.random.default_rng(1).standard_normal((batch, 80), dtype="float32")}
        expected = run_model(data, inputs)["y"]
        np.testing.assert_allclose(model.run(inputs)["y"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_bias_is_added_behind_it() -> None:
    model = n_bits(4, 32, bias=True)
    graph = recognized(model)
    assert [n.op for n in graph.nodes] == ["optc.MatMulPacked", "Add"]
    assert_agrees(model, graph)


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_onnxruntime_quantizes_comes_near_the_weights(symmetric: bool) -> None:
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    (k, n), block, rng = (80, 24), 32, np.random.default_rng(0)
    blocks, w = -(-k // block), rng.standard_normal((k, n), dtype="float32")
    packed, scales = np.zeros((n, blocks, block // 2), np.uint8), np.zeros((n, blocks), np.float32)
    zeros = np.zeros((n, (blocks + 1) // 2), np.uint8)
    quantize_matmul_4bits(packed, w, scales, zeros, block, n, k, symmetric)
    tensors = {"b": packed, "s": scales, **({} if symmetric else {"z": zeros})}
    node = helper.make_node(
        "MatMulNBits", ["x", *tensors], ["y"], domain="com.microsoft", K=k, N=n, bits=4, block_size=block
    )
    model = product([onnx.numpy_helper.from_array(a, name) for name, a in tensors.items()], [node])
    graph = recognized(model)
    assert_agrees(model, graph)
    identity = {"x": np.eye(k, dtype=np.float32)}
    assert (
        np.abs(run_reference(graph, identity)["y"] - w).max() <= np.abs(scales).max()
    )  # the largest weight is clipped


def blocked(kind: int, transposed: bool, with_zeros: bool) -> onnx.ModelProto:
    """DequantizeLinear of a 4-bit constant [80, 24] (or its transpose) in blocks of 16 along k, then MatMul."""
    rng, low = np.random.default_rng(0), 0 if kind == TensorProto.UINT4 else -8
    axis, shape, grid = (1, (24, 80), (24, 5)) if transposed else (0, (80, 24), (5, 24))

    def codes(name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
        return helper.make_tensor(name, kind, shape, rng.integers(low, low + 16, shape).reshape(-1).tolist())

    scales = onnx.numpy_helper.from_array(rng.uniform(0.1, 1, grid).astype(np.float32), "s")
    operands = ["w", "s", "z"] if with_zeros else ["w", "s"]
    nodes = [helper.make_node("DequantizeLinear", operands, ["d"], axis=axis, block_size=16)]
    nodes += [helper.make_node("Transpose", ["d"], ["t"])] if transposed else []
    nodes += [helper.make_node("MatMul", ["x", "t" if transposed else "d"], ["y"])]
    return product([codes("w", shape), scales, *([codes("z", grid)] if with_zeros else [])], nodes)


@pytest.mark.parametrize("with_zeros", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_blocks_of_four_bits(kind: int, transposed: bool, with_zeros: bool) -> None:
    model = blocked(kind, transposed, with_zeros)
    graph = recognized(model)
    assert [n.op for n in graph.nodes] == ["optc.MatMulPacked"]
    assert attr_int(next(graph.nodes), "bits", 0) == 4
    assert_agrees(model, graph)


PER_CHANNEL = """
graph main(%x: f32[B,64]) {
  %w: i8[64,48] = const random(1)
  %s: f32[48] = const random(2)
  %b: f32[48] = const random(3)
  %d = DequantizeLinear(%w, %s) {axis=1}
  %y = Gemm(%x, %d, %b) {alpha=0.5}
  return %y
}
"""


@pytest.mark.parametrize(
    "text",
    [
        PER_CHANNEL,
        PER_CHANNEL.replace("i8[64,48]", "i8[48,64]").replace("axis=1", "axis=0").replace("0.5", "0.5, transB=1"),
        PER_CHANNEL.replace("%s: f32[48]", "%s: f32[]"),
    ],
)
def test_eight_bits_per_column(text: str) -> None:
    graph = graph_of(text)
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)["y"]
    recognized(graph)
    assert [n.op for n in graph.nodes] == ["optc.MatMulPacked", "Add"]
    np.testing.assert_allclose(
        run_reference(graph, inputs)["y"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


def test_compiled_they_stay_codes() -> None:
    """The artifact holds codes, not the floats they stand for."""
    graph = graph_of(PER_CHANNEL.replace("64", "256").replace("48", "512"))
    inputs = random_inputs(graph, {"B": 2})
    expected = run_reference(graph, inputs)["y"]
    model = optc.compile(export_model(graph).SerializeToString(), cache=False)
    np.testing.assert_allclose(model.run(inputs)["y"], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert any(text.startswith("matmul_packed") for text in model.manifest["kernels"].values())


@pytest.mark.parametrize(("scale", "axis"), [("f32[]", 0), ("f32[40]", 0), ("f32[16]", 1)])
def test_rows_of_a_dequantized_table(scale: str, axis: int) -> None:
    graph = graph_of(f"""
graph main(%i: i64[3]) {{
  %w: i8[40,16] = const random(1)
  %s: {scale} = const random(2)
  %d = DequantizeLinear(%w, %s) {{axis={axis}}}
  %y = Gather(%d, %i)
  return %y
}}
""")
    inputs = {"i": np.array([5, 0, 39])}
    expected = run_reference(graph, inputs)["y"]
    recognized(graph)
    assert "DequantizeLinear" not in [n.op for n in graph.nodes]
    np.testing.assert_allclose(run_reference(graph, inputs)["y"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        PER_CHANNEL.replace("axis=1", "axis=0").replace("%s: f32[48]", "%s: f32[64]"),
        PER_CHANNEL.replace("axis=1", "axis=0, block_size=5").replace("%s: f32[48]", "%s: f32[13,48]"),
        PER_CHANNEL.replace("axis=1", "axis=1, block_size=16").replace("%s: f32[48]", "%s: f32[64,3]"),
    ],
)
def test_scales_of_another_form_stay(text: str) -> None:
    """One a row, in blocks that fill no words, in blocks along n."""
    assert [n.op for n in recognized(graph_of(text)).nodes] == ["DequantizeLinear", "Gemm"]


def test_codes_take_as_few_bits_as_they_need() -> None:
    graph = graph_of(PER_CHANNEL)
    weights = next(v for v in graph.constants() if v.name == "w")
    weights.data = np.clip(np.asarray(weights.data), -4, 3)
    recognized(graph)
    assert attr_int(next(graph.nodes), "bits", 0) == 3


def test_four_bit_constants_are_read_by_dequantizelinear_only() -> None:
    model = blocked(TensorProto.INT4, False, False)
    model.graph.node[0].CopyFrom(helper.make_node("Cast", ["w"], ["d"], to=TensorProto.FLOAT))
    with pytest.raises(optc.UnsupportedError, match="less than a byte"):
        import_model(model)


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("raw", [False, True])
def test_packed_constants_hold_their_numbers(kind: int, raw: bool) -> None:
    values = [-8, 7, -1, 3, 0] if kind == TensorProto.INT4 else [0, 15, 8, 3, 1]
    content = b"\x78\x3f\x00" if kind == TensorProto.INT4 else b"\xf0\x38\x01"
    tensor = helper.make_tensor("w", kind, [5], content if raw else values, raw=raw)
    assert to_array(tensor, ExternalData(None)).tolist() == values


def test_a_packed_constant_of_the_wrong_size_is_refused() -> None:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.INT4, dims=[5], raw_data=b"\x78\x3f")
    with pytest.raises(optc.ModelError, match="expected 3 bytes, found 2"):
        to_array(tensor, ExternalData(None))
