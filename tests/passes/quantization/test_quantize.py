"""From float graph and samples to a quantized graph, all steps together, and the traps that other tools fell into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import graph_of, run_reference
from optc.compiler.errors import CalibrationError
from optc.compiler.ir import Graph
from optc.compiler.options import Calibration
from optc.compiler.printing import print_graph
from optc.compiler.verify import verify
from optc.passes.quantization.quantize import Recipe, Rewound, few, quantize, study

NET = """
graph main(%x: f32[n,3,h,w]) {
  %w1: f32[8,3,3,3] = const random(1)
  %b1: f32[8] = const random(2)
  %w2: f32[8,1,3,3] = const random(3)
  %w3: f32[4,8,1,1] = const random(4)
  %a = Conv(%x, %w1, %b1) {pads=[1, 1, 1, 1]}
  %r = Relu(%a)
  %d = Conv(%r, %w2) {group=8, pads=[1, 1, 1, 1]}
  %s = Relu(%d)
  %t = Add(%r, %s)
  %y = Conv(%t, %w3)
  return %y
}
"""


def samples(count: int = 8) -> list[dict[str, np.ndarray]]:
    """Of different sizes, as free dims allow."""
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 3, 6 + i % 3, 7)).astype(np.float32)} for i in range(count)]


def snr(expected: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - got).sum()))


def quality(source: str, data: list[dict[str, np.ndarray]], recipe: Recipe | None = None) -> float:
    graph = graph_of(source)
    expected = [run_reference(graph, s)["y"] for s in data]
    quantize(graph, Calibration(data), recipe)
    verify(graph)
    got = [run_reference(graph, s)["y"] for s in data]
    return snr(np.concatenate([a.ravel() for a in expected]), np.concatenate([a.ravel() for a in got]))


def test_free_dims_through_calibration() -> None:
    assert quality(NET, samples()) > 30


def test_twice_the_same() -> None:
    graphs = []
    for _ in range(2):
        graph = graph_of(NET)
        quantize(graph, Calibration(samples()))
        graphs.append(print_graph(graph, consts="full"))
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("method", ["mse", "minmax", "percentile", "average"])
def test_all_algorithms_are_no_worse_than_ranges_alone(method: str) -> None:
    plain = Recipe(method, smooth=False, round_weights=False, correct_bias=False)
    assert quality(NET, samples()) > quality(NET, samples(), plain) - 0.5


def test_the_report_tells_what_was_kept_where() -> None:
    graph = graph_of(NET)
    report = quantize(graph, Calibration(samples()))
    assert report.samples == 8
    assert len(report.layers) == 3
    assert {name for steps in report.steps.values() for name in steps} >= {"weights reconstructed", "bias corrected"}
    assert report.lines()[0].startswith("int8: 3 layers")


def test_a_study_quantizes_with_layers_left_float() -> None:
    graph = graph_of(NET)
    found = study(graph, Calibration(samples()))
    names = [n.name for n in found.placement.layers]
    copy = found.quantized([names[1]])
    verify(copy)
    operands = [n.operand(1) for n in copy.nodes if n.op == "Conv"]
    assert [w.is_constant for w in operands] == [False, True, False]
    assert "QuantizeLinear" not in [n.op for n in graph.nodes]


def test_an_iterator_of_samples_is_used_up_once() -> None:
    def stream() -> Iterator[dict[str, np.ndarray]]:
        yield from samples(20)

    report = quantize(graph_of(NET), Calibration(stream()))
    assert report.samples == 20


def test_data_that_fails_half_way_is_told_by_calibration() -> None:
    def stream() -> Iterator[dict[str, np.ndarray]]:
        yield from samples(3)
        raise OSError("disk gone")

    with pytest.raises(CalibrationError, match="disk gone") as caught:
        quantize(graph_of(NET), Calibration(stream()))
    assert "sample 3" in str(caught.value)


def test_few_are_spread_over_the_data() -> None:
    graph = graph_of("graph main(%x: f32[1]) {\n  %y = Relu(%x)\n  return %y\n}")
    data = [{"x": np.array([i], np.float32)} for i in range(20)]
    assert [float(s["x"][0]) for s in few(data, graph, 4)] == [0, 5, 10, 15]
    assert [float(s["x"][0]) for s in few(data, graph, 10, 3)] == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18]
    rewound = Rewound(iter(data))
    assert [float(s["x"][0]) for s in few(rewound, graph, 4)] == [0, 1, 2, 3]
    assert len(list(rewound)) == 20


def test_an_attention_mask_widens_no_range() -> None:
    source = """
    graph main(%x: f32[4,8], %mask: f32[4,4]) {
      %w: f32[8,8] = const random(1)
      %v: f32[4,8] = const random(2)
      %q = MatMul(%x, %w)
      %k = Transpose(%x) {perm=[1, 0]}
      %s = MatMul(%q, %k)
      %m = Add(%s, %mask)
      %p = Softmax(%m) {axis=-1}
      %y = MatMul(%p, %v)
      return %y
    }
    """
    rng = np.random.default_rng(0)
    mask = np.where(np.tri(4) > 0, 0, np.finfo(np.float32).min).astype(np.float32)
    data = [{"x": rng.standard_normal((4, 8)).astype(np.float32), "mask": mask} for _ in range(4)]
    assert quality(source, data) > 25


def test_concat_and_softmax_outputs_have_ranges() -> None:
    source = """
    graph main(%x: f32[1,4,6,6]) {
      %w1: f32[4,4,1,1] = const random(1)
      %w2: f32[4,8,1,1] = const random(2)
      %a = Conv(%x, %w1)
      %b = Relu(%a)
      %c = Softmax(%a) {axis=1}
      %d = Concat(%b, %c) {axis=1}
      %y = Conv(%d, %w2)
      return %y
    }
    """
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((1, 4, 6, 6)).astype(np.float32)} for _ in range(4)]
    assert quality(source, data) > 30


def test_a_channel_of_zeros_through_all_algorithms() -> None:
    graph = graph_of(NET)
    layer: Graph = graph
    conv = next(n for n in layer.nodes if n.op == "Conv")
    weights = np.array(conv.operand(1).data)
    weights[3] = 0
    conv.operand(1).data = weights
    data = samples()
    expected = run_reference(graph, data[0])["y"]
    quantize(graph, Calibration(data))
    assert snr(expected, run_reference(graph, data[0])["y"]) > 30


def test_one_sample_is_enough_to_quantize() -> None:
    assert quality(NET, samples(1)) > 25


def test_without_data_on_made_up_samples() -> None:
    report = quantize(graph_of(NET), None)
    assert report.synthetic
    assert "UNCHECKED" in report.lines()[0]


def test_equal_data_has_one_file_in_the_cache_folder(tmp_path: Path) -> None:
    plain = Recipe(smooth=False)
    data = Calibration(samples(), "key")
    quantize(graph_of(NET), data, plain, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 1
    quantize(graph_of(NET), data, plain, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 1


def test_data_without_a_key_leaves_nothing_in_the_cache_folder(tmp_path: Path) -> None:
    quantize(graph_of(NET), Calibration(samples()), Recipe(smooth=False), cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_quantized_already() -> None:
    source = """
    graph main(%x: f32[1,8]) {
      %s: f32[] = const 0.02
      %z: i8[] = const 3
      %w: f32[8,8] = const random(1)
      %v: f32[8,4] = const random(2)
      %q = QuantizeLinear(%x, %s, %z)
      %d = DequantizeLinear(%q, %s, %z)
      %a = MatMul(%d, %w)
      %y = MatMul(%a, %v)
      return %y
    }
    """
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(4)]
    assert quality(source, data) > 25
