"""Epilogues over mixed types: the bits that numpy's float32 gives, on every instruction set this host has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from helpers import graph_of
from optc.backends.codegen import signature
from optc.backends.cpu import load_registries
from optc.backends.jit import jit
from optc.backends.kernels.builder import KernelBuilder, buffer, pieces, result_dtype
from optc.backends.kernels.dims import DimVars
from optc.backends.kernels.epilogue import NodeEpilogue, fits_registers
from optc.backends.runtime.host import host_features
from optc.backends.target import LEVELS, Target

SHAPE = (3, 5, 37)
LEVELS_HERE = [t for t in LEVELS.values() if host_features().issuperset(t.features)]


def kernel_of(text: str, target: Target) -> tuple[Any, NodeEpilogue]:
    """A template that only loads its input, with the whole graph as its epilogue; the input is its first parameter."""
    load_registries()
    graph = graph_of(text)
    source = graph.inputs[0]
    epilogue = NodeEpilogue(list(graph.nodes), source, None, DimVars())
    n, h, c = SHAPE
    kb = KernelBuilder()
    x = buffer("x", SHAPE, source.type.dtype.tvm)
    y = buffer("y", SHAPE, result_dtype(epilogue))
    with kb.loop(n, "n") as i, kb.loop(h, "h") as j:
        row = kb.let(i * h + j, "row")
        for start, lanes in pieces(c, target.lanes):
            value = kb.load(kb.flat(x), row * c + start, lanes)
            index = [row] if epilogue.flat else [i, j]
            kb.store(kb.flat(y), row * c + start, epilogue(value, [*index, row * 0 + start], lanes), lanes)
    return kb.finish([x, *epilogue.buffers, y]), epilogue


def run(text: str, feeds: Mapping[str, np.ndarray], target: Target) -> np.ndarray:
    func, epilogue = kernel_of(text, target)
    x = next(iter(feeds.values()))
    given = [np.asarray(v.data if v.data is not None else feeds[v.name]) for v in epilogue.values]
    shapes = [[int(d) for d in b.shape] for b in signature(func).buffers[1:-1]]
    arrays = [np.ascontiguousarray(a).reshape(s) for a, s in zip(given, shapes, strict=True)]
    y = np.full(SHAPE, 77).astype(epilogue.dtype)
    jit({"f": func}, target)["f"](x, *arrays, y)
    return y


def check(text: str, feeds: Mapping[str, np.ndarray], expected: np.ndarray) -> None:
    for target in LEVELS_HERE:
        np.testing.assert_array_equal(run(text, feeds, target), expected, err_msg=target.name)


def quantized(v: np.ndarray, scale: float, zero: int, dtype: str = "uint8") -> np.ndarray:
    """QuantizeLinear by a constant scale, as index/cast.py defines it."""
    info = np.iinfo(dtype)
    reciprocal = np.float32(1) / np.float32(scale)
    return (np.clip(np.rint(v * reciprocal), info.min - zero, info.max - zero) + zero).astype(dtype)


def dequantized(q: np.ndarray, scale: Any, zero: int = 0) -> np.ndarray:
    return (q.astype("int32") - np.int32(zero)).astype("float32") * np.asarray(scale, "float32")


RNG = np.random.default_rng(0)
SUMS = RNG.integers(-200_000, 200_000, SHAPE).astype("int32")
CHANNEL = RNG.uniform(1e-4, 2e-4, SHAPE[-1]).astype("float32")
RESIDUAL = RNG.integers(0, 256, SHAPE).astype("uint8")
PARAMETERS = """%s: f32[] = const 0.07  %z: u8[] = const 12  %t: f32[] = const 0.045  %u: u8[] = const 3
  %low: f32[] = const 0  %six: f32[] = const 6"""
HEAD = f"%x: i32[3,5,37], %scale: f32[37]) {{ {PARAMETERS} %d = DequantizeLinear(%x, %scale) {{axis=2}}"


def test_sums_become_bytes() -> None:
    text = f"graph main({HEAD} %y = QuantizeLinear(%d, %s, %z) return %y }}"
    check(text, {"x": SUMS, "scale": CHANNEL}, quantized(dequantized(SUMS, CHANNEL), 0.07, 12))


def test_sums_become_signed_bytes() -> None:
    text = f"graph main({HEAD} %k: i8[] = const -5 %y = QuantizeLinear(%d, %s, %k) return %y }}"
    check(text, {"x": SUMS, "scale": CHANNEL}, quantized(dequantized(SUMS, CHANNEL), 0.07, -5, "int8"))


@pytest.mark.parametrize("relu", ["", "%d = Relu(%c)"])
@pytest.mark.parametrize(("dtype", "zero"), [("u8", 0), ("u8", 12), ("i8", 0), ("i8", -5)])
def test_sums_of_known_range_become_bytes(dtype: str, zero: int, relu: str) -> None:
    """By a constant scale, so that what the sums can be is known and clamps that it makes needless are left out."""
    sums = SUMS.copy()
    sums[0, 0, :4] = [2**31 - 1, -(2**31), 2**31 - 2**20, 0]
    text = f"""graph main(%x: i32[3,5,37]) {{ {PARAMETERS} %m: f32[] = const 0.00015 %k: {dtype}[] = const {zero}
      {"%c" if relu else "%d"} = DequantizeLinear(%x, %m) {relu} %y = QuantizeLinear(%d, %s, %k) return %y }}"""
    real = dequantized(sums, 0.00015)
    name = {"u8": "uint8", "i8": "int8"}[dtype]
    check(text, {"x": sums}, quantized(np.maximum(real, 0) if relu else real, 0.07, zero, name))


def test_bytes_of_known_range_stay_bytes() -> None:
    text = f"""graph main(%x: u8[3,5,37]) {{ {PARAMETERS} %d = DequantizeLinear(%x, %s, %z)
      %y = QuantizeLinear(%d, %t, %u) return %y }}"""
    check(text, {"x": RESIDUAL}, quantized(dequantized(RESIDUAL, 0.07, 12), 0.045, 3))


def test_sums_become_floats() -> None:
    text = f"graph main({HEAD} %y = Clip(%d, %low, %six) return %y }}"
    check(text, {"x": SUMS, "scale": CHANNEL}, np.clip(dequantized(SUMS, CHANNEL), np.float32(0), np.float32(6)))


def test_a_residual_in_bytes_is_added() -> None:
    text = f"""graph main({HEAD.replace("f32[37])", "f32[37], %r: u8[3,5,37])")} %e = DequantizeLinear(%r, %t, %u)
      %a = Add(%d, %e) %b = Relu(%a) %y = QuantizeLinear(%b, %s, %z) return %y }}"""
    total = dequantized(SUMS, CHANNEL) + dequantized(RESIDUAL, 0.045, 3)
    expected = quantized(np.maximum(total, 0), 0.07, 12)
    check(text, {"x": SUMS, "scale": CHANNEL, "r": RESIDUAL}, expected)


def test_a_gate_in_bytes_is_broadcast() -> None:
    gate = RNG.integers(0, 256, (3, 1, 37)).astype("uint8")
    text = f"""graph main({HEAD.replace("f32[37])", "f32[37], %g: u8[3,1,37])")} %e = DequantizeLinear(%g, %t, %u)
      %a = Mul(%d, %e) %y = QuantizeLinear(%a, %s, %z) return %y }}"""
    expected = quantized(dequantized(SUMS, CHANNEL) * dequantized(gate, 0.045, 3), 0.07, 12)
    check(text, {"x": SUMS, "scale": CHANNEL, "g": gate}, expected)


def test_a_gate_of_one_channel_is_broadcast() -> None:
    gate = RNG.integers(0, 256, (3, 5, 1)).astype("uint8")
    text = f"""graph main({HEAD.replace("f32[37])", "f32[37], %g: u8[3,5,1])")} %e = DequantizeLinear(%g, %t, %u)
      %a = Mul(%d, %e) %y = QuantizeLinear(%a, %s, %z) return %y }}"""
    expected = quantized(dequantized(SUMS, CHANNEL) * dequantized(gate, 0.045, 3), 0.07, 12)
    check(text, {"x": SUMS, "scale": CHANNEL, "g": gate}, expected)


def test_a_scale_known_only_at_run_time_divides() -> None:
    text = """graph main(%x: f32[3,5,37], %s: f32[], %z: u8[]) { %y = QuantizeLinear(%x, %s, %z) return %y }"""
    x = RNG.normal(0, 9, SHAPE).astype("float32")
    expected = np.clip(np.rint(x / np.float32(0.07)), -12, 243) + 12
    check(text, {"x": x, "s": np.float32([0.07]), "z": np.uint8([12])}, expected.astype("uint8"))


def test_a_product_and_a_sum_stay_two_roundings() -> None:
    """What an FMA would give differs in about one in a hundred of these."""
    text = f"""graph main({HEAD.replace("f32[37])", "f32[37], %r: f32[3,5,37])")} %m = Mul(%d, %d) %a = Add(%m, %r)
      %y = Sub(%a, %m) return %y }}"""
    r = RNG.normal(0, 3, SHAPE).astype("float32")
    d = dequantized(SUMS, CHANNEL)
    check(text, {"x": SUMS, "scale": CHANNEL, "r": r}, (d * d + r) - d * d)


def test_functions_give_the_same_bits_everywhere() -> None:
    text = f"graph main({HEAD} %g = Sigmoid(%d) %m = Mul(%d, %g) %e = Tanh(%m) return %e }}"
    feeds = {"x": SUMS, "scale": CHANNEL}
    first, *others = (run(text, feeds, target) for target in LEVELS_HERE)
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize(("dtype", "zero"), [("u8", 0), ("u8", 128), ("u8", 255), ("i8", 0), ("i8", -128)])
def test_numbers_beyond_the_grid(dtype: str, zero: int) -> None:
    """Halves go to the even neighbour, infinities and what leaves int32 to the ends, NaN to the low one."""
    special = [0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 254.5, 255.5, 1e9, -1e9, 1e20, -1e20, np.inf, -np.inf, np.nan]
    x = np.resize(np.float32(special), SHAPE)
    text = f"""graph main(%x: f32[3,5,37]) {{ %s: f32[] = const 1 %z: {dtype}[] = const {zero}
      %y = QuantizeLinear(%x, %s, %z) return %y }}"""
    name = {"u8": "uint8", "i8": "int8"}[dtype]
    finite = np.nan_to_num(x, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    check(text, {"x": x}, quantized(finite, 1.0, zero, name))


def test_a_float64_needs_other_registers() -> None:
    graph = graph_of("graph main(%x: f64[4]) { %y = Relu(%x) return %y }")
    assert not fits_registers(list(graph.nodes))


def test_operands_of_full_size_or_along_channels_are_flat() -> None:
    full = """graph main(%x: f32[3,5,37], %r: u8[3,5,37], %s: f32[]) { %e = DequantizeLinear(%r, %s)
      %y = Add(%x, %e) return %y }"""
    gate = full.replace("u8[3,5,37]", "u8[3,1,37]")
    assert kernel_of(full, LEVELS_HERE[0])[1].flat
    assert not kernel_of(gate, LEVELS_HERE[0])[1].flat
