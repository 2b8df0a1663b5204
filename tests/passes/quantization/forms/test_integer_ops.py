"""MatMulInteger and ConvInteger, with any zero points, are optc's integer products plus corrections: bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optc
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph
from optc.compiler.onnx.exporter import export_model
from optc.compiler.types import DType, TensorType
from optc.passes.base import run_passes
from optc.passes.quantization.forms.normalize import NormalizeQuantized
from optc.passes.quantization.forms.products import Weights

NORMALIZE = [NormalizeQuantized()]
Rewrites = Callable[..., Graph]
MATMUL_ZERO_POINTS = {
    "none": ("u8", "_", "_"),
    "constant": ("u8", "%seven", "_"),
    "computed": ("u8", "%z", "_"),
    "vector of one": ("u8", "%z1", "_"),
    "signed activations": ("i8", "%minus", "_"),
    "signed activations without": ("i8", "_", "_"),
    "asymmetric": ("u8", "%z", "%wz"),
    "asymmetric columns": ("u8", "%seven", "%wzs"),
}


def matmul(case: str, dtype: str) -> Graph:
    """[N,3,20] times [20,5]; weights of either sign, over their whole range."""
    activations, zero, weight_zero = MATMUL_ZERO_POINTS[case]
    low, high = (0, 256) if dtype == "u8" else (-128, 128)
    weights = np.random.default_rng(3).integers(low, high, (20, 5))
    point = 100 if dtype == "u8" else -3
    return graph_of(f"""
graph main(%x: {activations}[N,3,20], %z: u8[], %z1: u8[1]) {{
  %w: {dtype}[20,5] = const {str(weights.tolist()).replace(" ", "")}
  %seven: u8[] = const 7
  %minus: i8[] = const -7
  %wz: {dtype}[] = const {point}
  %wzs: {dtype}[5] = const [{point},0,127,1,{point}]
  %y = MatMulInteger(%x, %w, {zero}, {weight_zero})
  return %y
}}
""")


CONVOLUTIONS = {
    "plain": "kernel_shape=[3,3]",
    "padded": "kernel_shape=[3,3], pads=[1,0,2,1], strides=[2,1]",
    "same": 'kernel_shape=[3,3], auto_pad="SAME_UPPER", strides=[2,2]',
    "groups": "kernel_shape=[3,3], pads=[1,1,1,1], group=2",
    "depthwise": "kernel_shape=[3,3], pads=[1,1,1,1], group=4, dilations=[2,2]",
}


def conv(case: str, zero: str, weight_zero: str) -> Graph:
    """[N,4,7,8] by [4,4/group,3,3], uint8 throughout."""
    per_group = {"groups": 2, "depthwise": 1}.get(case, 4)
    weights = np.random.default_rng(3).integers(0, 256, (4, per_group, 3, 3))
    return graph_of(f"""
graph main(%x: u8[N,4,7,8], %z: u8[]) {{
  %w: u8[4,{per_group},3,3] = const {str(weights.tolist()).replace(" ", "")}
  %seven: u8[] = const 7
  %wz: u8[] = const 100
  %wzs: u8[4] = const [100,0,128,255]
  %y = ConvInteger(%x, %w, {zero}, {weight_zero}) {{{CONVOLUTIONS[case]}}}
  return %y
}}
""")


def bytes_for(graph: Graph) -> dict[str, np.ndarray]:
    """Inputs over the whole range of their type."""
    inputs = random_inputs(graph)
    for name, array in inputs.items():
        info = np.iinfo(array.dtype)
        inputs[name] = np.random.default_rng(7).integers(info.min, info.max + 1, array.shape).astype(array.dtype)
    return inputs


def assert_exact(graph: Graph, op: str, expected: np.ndarray | None = None, *, compiled: bool = False) -> None:
    """Exactly what is expected, by default what the graph computes unchanged."""
    inputs = bytes_for(graph)
    model = export_model(graph).SerializeToString()
    if expected is None:
        expected = run_reference(graph, inputs)["y"]
    if compiled:
        np.testing.assert_array_equal(optc.compile(model, cache=False).run(inputs)["y"], expected)
        return
    run_passes(graph, NORMALIZE)
    assert op in {n.op for n in graph.nodes}
    np.testing.assert_array_equal(run_reference(graph, inputs)["y"], expected)


def float_conv(graph: Graph) -> np.ndarray:
    """The one ConvInteger of a graph computed in float32, in which these sums are exact."""
    (node,) = graph.nodes
    inputs, constants = bytes_for(graph), [None if v is None else v.data for v in node.inputs]
    zero = inputs["z"] if node.inputs[2] in graph.inputs else constants[2]
    x = inputs["x"].astype(np.float32) - np.float32(0 if zero is None else zero)
    point = np.zeros(1) if constants[3] is None else constants[3].reshape(-1).astype(np.float32)
    twin = Graph()
    assert constants[1] is not None
    weights = twin.constant((constants[1] - point.reshape(-1, 1, 1, 1)).astype(np.float32))
    data = twin.add_input("x", TensorType(DType.F32, x.shape))
    twin.set_outputs([twin.emit("Conv", [data, weights], node.attrs).output], ["y"])
    return run_reference(twin, {"x": x})["y"].astype(np.int32)


@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize("case", MATMUL_ZERO_POINTS)
def test_matmul(case: str, dtype: str) -> None:
    assert_exact(matmul(case, dtype), "optc.MatMulInteger")


@pytest.mark.parametrize(("zero", "weight_zero"), [("_", "_"), ("%seven", "%wz"), ("%z", "%wzs"), ("%z", "_")])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv(case: str, zero: str, weight_zero: str) -> None:
    graph = conv(case, zero, weight_zero)
    assert_exact(graph, "optc.ConvInteger", float_conv(graph))


@pytest.mark.parametrize("case", ["computed", "signed activations", "asymmetric columns"])
def test_matmul_compiled(case: str) -> None:
    assert_exact(matmul(case, "u8"), "optc.MatMulInteger", compiled=True)


@pytest.mark.parametrize(
    ("case", "zero"), [("padded", "%z"), ("same", "%seven"), ("groups", "%z"), ("depthwise", "%z")]
)
def test_conv_compiled(case: str, zero: str) -> None:
    graph = conv(case, zero, "%wzs")
    assert_exact(graph, "optc.ConvInteger", float_conv(graph), compiled=True)


def test_a_zero_point_known_at_run_time_is_a_bias_computed_then(assert_rewrites: Rewrites) -> None:
    assert_rewrites(
        NORMALIZE,
        """
graph main(%x: u8[N,2], %z: u8[]) {
  %w: i8[2,3] = const [[1,2,3],[4,5,-6]]
  %y = MatMulInteger(%x, %w, %z)
  return %y
}
""",
        """
graph main(%x: u8[N,2], %z: u8[]) {
  %w: i8[2,3] = const [[1,2,3],[4,5,-6]]
  %sums: i32[3] = const [-5,-7,3]
  %wide = Cast(%z) {to=i32}
  %bias = Mul(%wide, %sums)
  %y = optc.MatMulInteger(%x, %w, %bias)
  return %y
}
""",
    )


def test_asymmetric_weights_take_a_product_with_ones(assert_rewrites: Rewrites) -> None:
    """255 - 100 does not fit int8: it is 127 + 28, and 28 times the sum of the activations is added."""
    assert_rewrites(
        NORMALIZE,
        """
graph main(%x: u8[N,2]) {
  %s: f32[] = const 0.5
  %t: f32[] = const 0.25
  %w: u8[2,1] = const [[255],[0]]
  %z: u8[] = const 2
  %wz: u8[] = const 100
  %b: f32[1] = const [4.0]
  %dx = DequantizeLinear(%x, %s, %z)
  %dw = DequantizeLinear(%w, %t, %wz)
  %y = Gemm(%dx, %dw, %b)
  return %y
}
""",
        """
graph main(%x: u8[N,2]) {
  %w: i8[2,1] = const [[127],[-128]]
  %wb: i32[1] = const [2]
  %ones: i8[2,1] = const ones
  %ob: i32[1] = const [-4]
  %shift: i32[1] = const [28]
  %scale: f32[] = const 0.125
  %b: f32[1] = const [4.0]
  %main = optc.MatMulInteger(%x, %w, %wb)
  %sum = optc.MatMulInteger(%x, %ones, %ob)
  %more = Mul(%sum, %shift)
  %total = Add(%main, %more)
  %real = DequantizeLinear(%total, %scale) {axis=1}
  %y = Add(%real, %b)
  return %y
}
""",
    )


def test_weights_that_fit_less_their_zero_point_have_no_shift() -> None:
    """Those of 7 bits (reduce_range), of any zero point near the middle."""
    weights = np.array([[0, 100], [127, 200]], np.uint8)
    found = Weights.of(weights, np.array([64, 150], np.uint8), axis=1)
    assert found.shift is None
    np.testing.assert_array_equal(found.data, [[-64, -50], [63, 50]])


def test_sums_wrap_at_32_bits() -> None:
    """The bias alone exceeds int32; ONNX Runtime's sums wrap as well."""
    k = 70_000
    graph = graph_of(f"""
graph main(%x: u8[1,{k}]) {{
  %w: i8[{k},1] = const -128
  %z: u8[] = const 255
  %y = MatMulInteger(%x, %w, %z)
  return %y
}}
""")
    inputs = {"x": np.zeros((1, k), np.uint8)}
    expected = run_reference(graph, inputs)["y"]
    run_passes(graph, NORMALIZE)
    np.testing.assert_array_equal(run_reference(graph, inputs)["y"], expected)
