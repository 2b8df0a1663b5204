"""Integer products in a graph: lowered to one kernel with what follows them, exact against numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from helpers import graph_of
from optc.backends.cpu import lower
from optc.backends.jit import jit
from optc.backends.packing import Packed
from optc.backends.steps import Kernel, Scratch
from optc.backends.target import Target
from optc.compiler.ir import Graph, Value


def run(graph: Graph, feeds: Mapping[str, np.ndarray], shape: tuple[int, ...], level: str) -> np.ndarray:
    """The only output of a graph that must become one kernel."""
    (step,) = lower(graph, Target.parse(f"cpu:{level}")).steps
    assert isinstance(step, Kernel)
    y = np.full(shape, 77, step.outputs[0].type.dtype.numpy)
    arrays = []
    for param in step.params:
        if isinstance(param, Value):
            array = y if param is step.outputs[0] else feeds[param.name] if param.data is None else param.data
            arrays.append(np.atleast_1d(array))
        elif not isinstance(param, Scratch):
            arrays.append(param.array if isinstance(param, Packed) else param)
    jit({"f": step.func}, Target.parse(f"cpu:{level}"))["f"](*arrays)
    return y


def numbers(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape, dtype="int64").astype(dtype)


LEVELS = ["x86-64-v2", "x86-64-v3", "alderlake", "x86-64-v4", "cascadelake", "sapphirerapids"]


def constant(graph: Graph, name: str) -> np.ndarray:
    data = next(v for v in graph.constants() if v.name == name).data
    assert data is not None
    return np.asarray(data)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_matmul_with_bias(rows: int, level: str) -> None:
    graph = graph_of("""
    graph g(%a: u8[B,M,70], %bias: i32[30]) {
      %b: i8[70,30] = const random(1)
      %y = optc.MatMulInteger(%a, %b, %bias)
      return %y
    }
    """)
    a, bias = numbers("uint8", 2, rows, 70), numbers("int32", 30)
    exact = (a.astype("int64") @ constant(graph, "b").astype("int64") + bias).astype("int32")
    np.testing.assert_array_equal(run(graph, {"a": a, "bias": bias}, (2, rows, 30), level), exact)


def test_matmul_without_bias() -> None:
    graph = graph_of("""
    graph g(%a: u8[5,9]) {
      %b: i8[9,40] = const random(1)
      %y = optc.MatMulInteger(%a, %b)
      return %y
    }
    """)
    a, b = numbers("uint8", 5, 9), constant(graph, "b")
    found = run(graph, {"a": a}, (5, 40), "x86-64-v3")
    np.testing.assert_array_equal(found, a.astype("int32") @ b.astype("int32"))


CONV = """
graph g(%x: u8[N,H,W,6], %bias: i32[20], %pad: u8[]) {
  %w: i8[20,6,3,3] = const random(1)
  %y = optc.ConvInteger(%x, %w, %bias, %pad) {pads=[1,1,1,1]}
  return %y
}
"""


def exact_conv(x: np.ndarray, w: np.ndarray, pad: int) -> np.ndarray:
    """A 3x3 convolution with a border of one, stride 1."""
    wide = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=pad).astype("int64")
    n, h, width = x.shape[:3]
    y = np.zeros((n, h, width, w.shape[0]), "int64")
    for ky, kx in np.ndindex(3, 3):
        y += wide[:, ky : ky + h, kx : kx + width] @ w[:, :, ky, kx].T.astype("int64")
    return y


@pytest.mark.parametrize("level", LEVELS)
def test_conv_with_bias_and_border(level: str) -> None:
    graph = graph_of(CONV)
    x, bias = numbers("uint8", 2, 9, 11, 6), numbers("int32", 20)
    found = run(graph, {"x": x, "bias": bias, "pad": np.uint8(131)}, (2, 9, 11, 20), level)
    np.testing.assert_array_equal(found, (exact_conv(x, constant(graph, "w"), 131) + bias).astype("int32"))


def test_conv_without_bias_pads_with_zeros() -> None:
    graph = graph_of(CONV.replace(", %bias, %pad)", ")").replace(", %bias: i32[20], %pad: u8[]", ""))
    x = numbers("uint8", 1, 5, 7, 6)
    found = run(graph, {"x": x}, (1, 5, 7, 20), "sapphirerapids")
    np.testing.assert_array_equal(found, exact_conv(x, constant(graph, "w"), 0))


@pytest.mark.parametrize("level", LEVELS)
def test_what_follows_is_done_in_registers(level: str) -> None:
    graph = graph_of("""
    graph g(%x: u8[N,H,W,6], %pad: u8[]) {
      %w: i8[20,6,3,3] = const random(1)
      %y = optc.ConvInteger(%x, %w, _, %pad) {pads=[1,1,1,1]}
      %s: f32[20] = const 0.0009765625
      %f = DequantizeLinear(%y, %s) {axis=3}
      %r = Relu(%f)
      %t: f32[] = const 0.25
      %z: u8[] = const 7
      %q = QuantizeLinear(%r, %t, %z)
      return %q
    }
    """)
    x = numbers("uint8", 2, 9, 11, 6)
    found = run(graph, {"x": x, "pad": np.uint8(9)}, (2, 9, 11, 20), level)
    value = np.maximum(exact_conv(x, constant(graph, "w"), 9) / 1024, 0)
    np.testing.assert_array_equal(found, np.clip(np.rint(value * 4), -7, 248).astype("int64") + 7)


@pytest.mark.parametrize(
    ("rows", "depth", "level", "family"),
    [
        ("50", 70, "sapphirerapids", "amx"),
        ("M", 70, "sapphirerapids", "amx"),
        ("1", 70, "sapphirerapids", "dot"),
        ("50", 27, "sapphirerapids", "dot"),
        ("50", 70, "cascadelake", "dot"),
    ],
)
def test_tiles_are_taken_where_they_are_filled(rows: str, depth: int, level: str, family: str) -> None:
    graph = graph_of(f"""
    graph g(%a: u8[{rows},{depth}]) {{
      %b: i8[{depth},30] = const random(1)
      %y = optc.MatMulInteger(%a, %b)
      return %y
    }}
    """)
    (step,) = lower(graph, Target.parse(f"cpu:{level}")).steps
    assert isinstance(step, Kernel)
    assert step.provenance.startswith(f"{family} matmul")


def test_depthwise_has_kernels_of_its_own() -> None:
    graph = graph_of("""
    graph g(%x: u8[1,9,9,32]) {
      %w: i8[32,1,3,3] = const random(1)
      %y = optc.ConvInteger(%x, %w) {pads=[1,1,1,1], group=32}
      return %y
    }
    """)
    (step,) = lower(graph, Target.host()).steps
    assert isinstance(step, Kernel)
    assert step.provenance.startswith("dot depthwise")
