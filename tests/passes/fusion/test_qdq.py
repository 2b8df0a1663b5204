"""Bytes stay bytes: what moves, pools, pads or clips quantized tensors, and the scale that goes to the front."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import assert_same, graph_of, random_inputs, run_reference
from optc.passes.base import PassContext, run_passes
from optc.passes.fusion.dequantize import DequantizeAtReaders
from optc.passes.fusion.requantize import UnitSteps

GRID = "%s: f32[] = const 0.5 %z: u8[] = const 3"
OTHER = "%t: f32[] = const 0.25 %u: u8[] = const 7"
REWRITES = {
    "sink-dequantize through MaxPool": (
        f"""graph main(%x: u8[N,3,8,8]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z)
          %y = MaxPool(%d) {{kernel_shape=[3,3], pads=[1,1,1,1]}} return %y }}""",
        f"""graph main(%x: u8[N,3,8,8]) {{ {GRID} %m = MaxPool(%x) {{kernel_shape=[3,3], pads=[1,1,1,1]}}
          %y = DequantizeLinear(%m, %s, %z) return %y }}""",
    ),
    "sink-dequantize through Split": (
        f"""graph main(%x: u8[N,6]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) %n = const [2,4]
          %a, %b = Split(%d, %n) {{axis=1}} return %a, %b }}""",
        f"""graph main(%x: u8[N,6]) {{ {GRID} %n = const [2,4] %a, %b = Split(%x, %n) {{axis=1}}
          %c = DequantizeLinear(%a, %s, %z) %e = DequantizeLinear(%b, %s, %z) return %c, %e }}""",
    ),
    "sink-dequantize through Pad": (
        f"""graph main(%x: u8[N,6]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) %p = const [0,1,0,1]
          %c: f32[] = const 1.5 %y = Pad(%d, %p, %c) return %y }}""",
        f"""graph main(%x: u8[N,6]) {{ {GRID} %p = const [0,1,0,1] %c: u8[] = const 6 %m = Pad(%x, %p, %c)
          %y = DequantizeLinear(%m, %s, %z) return %y }}""",
    ),
    "sink-dequantize through a Pad of zeros": (
        f"""graph main(%x: u8[N,6]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) %p = const [0,1,0,1]
          %y = Pad(%d, %p) return %y }}""",
        f"""graph main(%x: u8[N,6]) {{ {GRID} %p = const [0,1,0,1] %m = Pad(%x, %p, %z)
          %y = DequantizeLinear(%m, %s, %z) return %y }}""",
    ),
    "sink-dequantize through Resize": (
        f"""graph main(%x: u8[1,2,4,4]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) %k: f32[4] = const [1,1,2,2]
          %y = Resize(%d, _, %k) {{mode="nearest"}} return %y }}""",
        f"""graph main(%x: u8[1,2,4,4]) {{ {GRID} %k: f32[4] = const [1,1,2,2] %m = Resize(%x, _, %k) {{mode="nearest"}}
          %y = DequantizeLinear(%m, %s, %z) return %y }}""",
    ),
    "concat-dequantize": (
        f"""graph main(%x: u8[N,2], %w: u8[N,3]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z)
          %e = DequantizeLinear(%w, %s, %z) %y = Concat(%d, %e) {{axis=1}} return %y }}""",
        f"""graph main(%x: u8[N,2], %w: u8[N,3]) {{ {GRID} %c = Concat(%x, %w) {{axis=1}}
          %y = DequantizeLinear(%c, %s, %z) return %y }}""",
    ),
    "hoist-quantize double-qdq through Concat": (
        f"""graph main(%x: u8[N,2], %w: f32[N,3]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z)
          %c = Concat(%d, %w) {{axis=1}} %y = QuantizeLinear(%c, %s, %z) return %y }}""",
        f"""graph main(%x: u8[N,2], %w: f32[N,3]) {{ {GRID} %q = QuantizeLinear(%w, %s, %z)
          %y = Concat(%x, %q) {{axis=1}} return %y }}""",
    ),
    "hoist-quantize through MaxPool": (
        f"""graph main(%x: f32[N,3,8,8]) {{ {GRID} %m = MaxPool(%x) {{kernel_shape=[2,2], strides=[2,2]}}
          %y = QuantizeLinear(%m, %s, %z) return %y }}""",
        f"""graph main(%x: f32[N,3,8,8]) {{ {GRID} %q = QuantizeLinear(%x, %s, %z)
          %y = MaxPool(%q) {{kernel_shape=[2,2], strides=[2,2]}} return %y }}""",
    ),
    "clip-into-quantize of Relu": (
        """graph main(%x: f32[N]) { %s: f32[] = const 0.5 %z: u8[] = const 0 %r = Relu(%x)
          %y = QuantizeLinear(%r, %s, %z) return %y }""",
        """graph main(%x: f32[N]) { %s: f32[] = const 0.5 %z: u8[] = const 0 %y = QuantizeLinear(%x, %s, %z)
          return %y }""",
    ),
    "clip-into-quantize of Clip": (
        """graph main(%x: f32[N]) { %s: f32[] = const 0.02352941 %z: u8[] = const 0 %a: f32[] = const 0
          %b: f32[] = const 6 %r = Clip(%x, %a, %b) %y = QuantizeLinear(%r, %s, %z) return %y }""",
        """graph main(%x: f32[N]) { %s: f32[] = const 0.02352941 %z: u8[] = const 0 %y = QuantizeLinear(%x, %s, %z)
          return %y }""",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_rewrite(assert_rewrites: Callable[..., object], name: str) -> None:
    before, after = REWRITES[name]
    rules = name.split(" through ")[0].split(" of ")[0]
    assert_rewrites(rules, before, after)


KEPT = {
    "sink-dequantize of a Resize that interpolates": (
        f"""graph main(%x: u8[1,2,4,4]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) %k: f32[4] = const [1,1,2,2]
          %y = Resize(%d, _, %k) {{mode="linear"}} return %y }}""",
        "interpolates",
    ),
    "sink-dequantize of a Pad": (
        f"""graph main(%x: u8[N,6]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) %p = const [0,1,0,1]
          %c: f32[] = const 1.2 %y = Pad(%d, %p, %c) return %y }}""",
        "not on the grid",
    ),
    "concat-dequantize of parts": (
        f"""graph main(%x: u8[N,2], %w: u8[N,3]) {{ {GRID} {OTHER} %d = DequantizeLinear(%x, %s, %z)
          %e = DequantizeLinear(%w, %t, %u) %y = Concat(%d, %e) {{axis=1}} return %y }}""",
        "different grids",
    ),
    "clip-into-quantize of Relu": (
        f"""graph main(%x: f32[N]) {{ {GRID} %r = Relu(%x) %y = QuantizeLinear(%r, %s, %z) return %y }}""",
        "wider",
    ),
    "clip-into-quantize of Clip": (
        """graph main(%x: f32[N]) { %s: f32[] = const 0.03 %z: u8[] = const 0 %a: f32[] = const 0
          %b: f32[] = const 6 %r = Clip(%x, %a, %b) %y = QuantizeLinear(%r, %s, %z) return %y }""",
        "wider",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_near_miss(assert_keeps: Callable[..., None], name: str) -> None:
    text, reason = KEPT[name]
    assert_keeps(name.split(" of ")[0], text, reason)


def test_every_reader_gets_its_own_dequantize(assert_rewrites: Callable[..., object]) -> None:
    assert_rewrites(
        (DequantizeAtReaders(),),
        f"""graph main(%x: u8[N,4], %w: f32[4,4]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) %r = Relu(%d)
          %m = MatMul(%r, %w) %y = Add(%m, %d) return %y }}""",
        f"""graph main(%x: u8[N,4], %w: f32[4,4]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) %r = Relu(%d)
          %m = MatMul(%r, %w) %e = DequantizeLinear(%x, %s, %z) %y = Add(%m, %e) return %y }}""",
    )


def test_products_share_one_dequantize(assert_keeps: Callable[..., None]) -> None:
    assert_keeps(
        (DequantizeAtReaders(),),
        f"""graph main(%x: u8[N,4], %w: f32[4,4], %v: f32[4,4]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z)
          %a = MatMul(%d, %w) %b = MatMul(%d, %v) return %a, %b }}""",
    )


UNIT = {
    "a product's sums": (
        """graph main(%x: i32[N,2]) { %c: f32[2] = const [0.5,1] %s: f32[] = const 0.25 %z: u8[] = const 3
          %d = DequantizeLinear(%x, %c) {axis=1} %r = Relu(%d) %y = QuantizeLinear(%r, %s, %z) return %y }""",
        """graph main(%x: i32[N,2]) { %c: f32[2] = const [2,4] %s: f32[] = const 1 %z: u8[] = const 3
          %d = DequantizeLinear(%x, %c) {axis=1} %r = Relu(%d) %y = QuantizeLinear(%r, %s, %z) return %y }""",
    ),
    "a residual sum": (
        """graph main(%x: u8[N,2], %w: u8[N,2]) { %s: f32[] = const 0.25 %t: f32[] = const 0.5 %z: u8[] = const 3
          %a = DequantizeLinear(%x, %s, %z) %b = DequantizeLinear(%w, %t, %z) %c = Add(%a, %b)
          %y = QuantizeLinear(%c, %t, %z) return %y }""",
        """graph main(%x: u8[N,2], %w: u8[N,2]) { %s: f32[] = const 0.5 %t: f32[] = const 1 %z: u8[] = const 3
          %a = DequantizeLinear(%x, %s, %z) %b = DequantizeLinear(%w, %t, %z) %c = Add(%a, %b)
          %y = QuantizeLinear(%c, %t, %z) return %y }""",
    ),
    "one factor of a product": (
        """graph main(%x: u8[N,2], %w: f32[N,2]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %six: f32[] = const 6
          %a = DequantizeLinear(%x, %s, %z) %c = Clip(%a, _, %six) %m = Mul(%w, %c) %y = QuantizeLinear(%m, %s, %z)
          return %y }""",
        """graph main(%x: u8[N,2], %w: f32[N,2]) { %s: f32[] = const 1 %z: u8[] = const 3 %six: f32[] = const 12
          %a = DequantizeLinear(%x, %s, %z) %c = Clip(%a, _, %six) %m = Mul(%w, %c) %y = QuantizeLinear(%m, %s, %z)
          return %y }""",
    ),
}


@pytest.mark.parametrize("name", UNIT)
def test_unit_steps(name: str) -> None:
    before, after = UNIT[name]
    graph = graph_of(before)
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)["y"].astype(int)
    run_passes(graph, (UnitSteps(),), PassContext(check_changed=True))
    assert_same(graph, after)
    assert np.abs(run_reference(graph, inputs)["y"].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "body",
    [
        "%r = Sigmoid(%d) %y = QuantizeLinear(%r, %s, %z) return %y",
        "%y = QuantizeLinear(%d, %s, %z) return %y, %d",
        "%r = Mul(%d, %d) %y = QuantizeLinear(%r, %s, %z) return %y",
        "%r = Add(%d, %f) %y = QuantizeLinear(%r, %s, %z) return %y",
    ],
)
def test_unit_steps_keeps(assert_keeps: Callable[..., None], body: str) -> None:
    assert_keeps(
        (UnitSteps(),), f"graph main(%x: u8[N,2], %f: f32[N,2]) {{ {GRID} %d = DequantizeLinear(%x, %s, %z) {body} }}"
    )
