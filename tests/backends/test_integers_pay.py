"""Which quantized products stay in float: those that a target does faster so."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, random_inputs, run_model
from optc.backends.target import LEVELS, Target
from optc.compiler.driver import compile, optimize
from optc.compiler.ir import Graph
from optc.compiler.onnx.exporter import export_model

LAYER = """
graph main(%x: f32[1,CHANNELS,14,14]) {
  %xs: f32[] = const 0.02  %xz: u8[] = const 7  %ys: f32[] = const 0.05  %yz: u8[] = const 9
  %w: i8[64,CHANNELS,K,K] = const random(1)  %ws: f32[] = const 0.002  %wz: i8[] = const 0
  %q = QuantizeLinear(%x, %xs, %xz)
  %xd = DequantizeLinear(%q, %xs, %xz)
  %wd = DequantizeLinear(%w, %ws, %wz)
  %c = Conv(%xd, %wd) {pads=[P,P,P,P], strides=[S,S]}
  %cq = QuantizeLinear(%c, %ys, %yz)
  %y = DequantizeLinear(%cq, %ys, %yz)
  return %y
}
"""


def layer(channels: int = 64, kernel: int = 3, stride: int = 1) -> Graph:
    sizes = {"CHANNELS": channels, "K": kernel, "P": kernel // 2, "S": stride}
    text = LAYER
    for name, size in sizes.items():
        text = text.replace(f"{name},", f"{size},").replace(f"{name}]", f"{size}]")
    return graph_of(text)


def is_integer(graph: Graph, target: Target) -> bool:
    optimize(graph, target=target)
    found = {n.op for n in graph.nodes} & {"optc.Conv", "optc.ConvInteger"}
    return found == {"optc.ConvInteger"}


@pytest.mark.parametrize("level", LEVELS)
def test_only_winograd_beats_integers_and_only_without_byte_products(level: str) -> None:
    target = LEVELS[level]
    assert is_integer(layer(), target) is (level != "x86-64-v4")


def test_what_winograd_does_not_take_stays_in_integers() -> None:
    target = LEVELS["x86-64-v4"]
    assert is_integer(layer(kernel=1), target)
    assert is_integer(layer(stride=2), target)
    assert is_integer(layer(channels=3), target)


def test_a_layer_in_float_rounds_as_quantized() -> None:
    graph = layer()
    feed = random_inputs(graph)
    proto = export_model(graph)
    found = compile(proto, target="cpu:x86-64-v4", threads=1, cache=False).run(feed)["y"]
    expected = run_model(proto.SerializeToString(), feed)["y"]
    assert np.mean(found != expected) < 0.01  # sums in another order land on the other side of a half
    np.testing.assert_allclose(found, expected, atol=0.0501)
