"""Pruning, before and after as text: what is cut, what follows, and what is reported."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same, graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph
from optc.passes.pruning import PruneReport, prune


def pruned(text: str, spec: str = "channels=50%,align=1") -> tuple[Graph, PruneReport]:
    """The graph pruned; it must still run and keep its output shapes."""
    graph = graph_of(text)
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)
    report = prune(graph, spec)
    found = run_reference(graph, inputs)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    return graph, report


def channels_of(report: PruneReport) -> dict[str, tuple[int, int]]:
    """Channels before and after of each group, by the groups' makers."""
    return {"+".join(g.makers): (g.before, g.after) for g in report.groups}


def test_least_filters_go_with_their_norm_and_their_readers() -> None:
    graph, report = pruned(
        """graph main(%x: f32[N,1,4,4]) {
          %w: f32[4,1,1,1] = const [[[[1]]], [[[-9]]], [[[2]]], [[[7]]]] %b: f32[4] = const [1, 2, 3, 4]
          %g: f32[4] = const [1, 2, 3, 4] %v: f32[4] = const 1
          %k: f32[1,4,1,1] = const [[[[5]], [[6]], [[7]], [[8]]]]
          %c = Conv(%x, %w, %b) %n = BatchNormalization(%c, %g, %b, %b, %v) %r = Relu(%n) %y = Conv(%r, %k)
          return %y
        }"""
    )
    assert_same(
        graph,
        """graph main(%x: f32[N,1,4,4]) {
          %w: f32[2,1,1,1] = const [[[[-9]]], [[[7]]]] %b: f32[2] = const [2, 4]
          %g: f32[2] = const [2, 4] %v: f32[2] = const 1
          %k: f32[1,2,1,1] = const [[[[6]], [[8]]]]
          %c = Conv(%x, %w, %b) %n = BatchNormalization(%c, %g, %b, %b, %v) %r = Relu(%n) %y = Conv(%r, %k)
          return %y
        }""",
    )
    assert channels_of(report) == {"c": (4, 2)}
    assert report.macs_share == 0.5
    assert report.parameters == (4 + 4 * 4 + 4 - 4, 2 + 3 * 2 + 2)


def test_criteria_rank_differently() -> None:
    text = """graph main(%x: f32[N,4]) {
      %w: f32[4,2] = const [[3, 2], [0, 2], [0, 2], [0, 0]] %k: f32[2,1] = const [[1], [2]]
      %h = MatMul(%x, %w) %y = MatMul(%h, %k)
      return %y
    }"""
    kept = {c: pruned(text, f"channels=50%,criterion={c},align=1")[0] for c in ("l1", "l2")}
    assert_same(kept["l1"], _one_hidden("[[2], [2], [2], [0]]", "[[2]]"))  # 6 against 3
    assert_same(kept["l2"], _one_hidden("[[2], [2], [2], [0]]", "[[2]]"))  # sqrt 12 against 3
    text = text.replace("[0, 2], [0, 2]", "[0, 1], [0, 1]")
    kept = {c: pruned(text, f"channels=50%,criterion={c},align=1")[0] for c in ("l1", "l2")}
    assert_same(kept["l1"], _one_hidden("[[2], [1], [1], [0]]", "[[2]]"))  # 4 against 3
    assert_same(kept["l2"], _one_hidden("[[3], [0], [0], [0]]", "[[1]]"))  # sqrt 6 against 3


def _one_hidden(weight: str, reader: str) -> str:
    return f"""graph main(%x: f32[N,4]) {{
      %w: f32[4,1] = const {weight} %k: f32[1,1] = const {reader}
      %h = MatMul(%x, %w) %y = MatMul(%h, %k)
      return %y
    }}"""


def test_a_channel_becomes_a_block_of_features() -> None:
    graph, _ = pruned(
        """graph main(%x: f32[N,1,1,2]) {
          %w: f32[2,1,1,1] = const [[[[1]]], [[[2]]]] %k: f32[4,1] = const [[1], [2], [3], [4]] %s = const [0, 4]
          %c = Conv(%x, %w) %f = Reshape(%c, %s) %y = MatMul(%f, %k)
          return %y
        }"""
    )
    assert_same(
        graph,
        """graph main(%x: f32[N,1,1,2]) {
          %w: f32[1,1,1,1] = const [[[[2]]]] %k: f32[2,1] = const [[3], [4]] %s = const [0, 2]
          %c = Conv(%x, %w) %f = Reshape(%c, %s) %y = MatMul(%f, %k)
          return %y
        }""",
    )


def test_split_concat_and_slice_follow() -> None:
    graph, _ = pruned(
        """graph main(%x: f32[N,2]) {
          %w: f32[2,4] = const [[9, 1, 1, 9], [9, 1, 1, 9]] %k: f32[4,1] = const [[1], [2], [3], [4]]
          %one = const [1] %end = const [9]
          %h = MatMul(%x, %w) %a, %b = Split(%h) {axis=1, num_outputs=2} %c = Concat(%b, %a) {axis=1}
          %d = Slice(%c, %one, %end, %one) %e = Concat(%d, %b) {axis=1}
          %k5: f32[5,1] = const [[1], [2], [3], [4], [5]]
          %y = MatMul(%e, %k5)
          return %y
        }"""
    )
    assert_same(
        graph,
        """graph main(%x: f32[N,2]) {
          %w: f32[2,2] = const [[9, 9], [9, 9]] %sizes = const [1, 1]
          %zero = const [0] %two = const [2] %one = const [1]
          %h = MatMul(%x, %w) %a, %b = Split(%h, %sizes) {axis=1} %c = Concat(%b, %a) {axis=1}
          %d = Slice(%c, %zero, %two, %one) %e = Concat(%d, %b) {axis=1}
          %k3: f32[3,1] = const [[1], [2], [5]]
          %y = MatMul(%e, %k3)
          return %y
        }""",
    )


ATTENTION = """graph main(%x: f32[N,S,6]) {
  %wq: f32[6,8] = const random(1) %wk: f32[6,8] = const random(2) %wv: f32[6,8] = const random(3)
  %wo: f32[8,5] = const random(4)
  %i0: i64[] = const 0 %i1: i64[] = const 1 %u = const [0] %h = const [4] %d = const [2] %hd = const [8]
  %sh = Shape(%x) %n0 = Gather(%sh, %i0) %n = Unsqueeze(%n0, %u) %s0 = Gather(%sh, %i1) %s = Unsqueeze(%s0, %u)
  %split = Concat(%n, %s, %h, %d) {axis=0} %join = Concat(%n, %s, %hd) {axis=0}
  %q = MatMul(%x, %wq) %k = MatMul(%x, %wk) %v = MatMul(%x, %wv)
  %q4 = Reshape(%q, %split) %k4 = Reshape(%k, %split) %v4 = Reshape(%v, %split)
  %qt = Transpose(%q4) {perm=[0,2,1,3]} %kt = Transpose(%k4) {perm=[0,2,3,1]} %vt = Transpose(%v4) {perm=[0,2,1,3]}
  %a = MatMul(%qt, %kt) %p = Softmax(%a) {axis=-1} %o = MatMul(%p, %vt)
  %ot = Transpose(%o) {perm=[0,2,1,3]} %oj = Reshape(%ot, %join) %y = MatMul(%oj, %wo)
  return %y
}"""


def test_heads_go_as_a_whole() -> None:
    graph, report = pruned(ATTENTION)
    assert channels_of(report) == {"q+k+v": (8, 4), "y": (5, 5)}
    shapes = [v.type.static_shape for v in graph.constants() if v.type.dtype.is_float]
    assert shapes == [(6, 4)] * 3 + [(4, 5)]


def test_letters_of_an_einsum_are_channels() -> None:
    graph, report = pruned(
        """graph main(%x: f32[N,S,6]) {
          %wv: f32[6,4,2] = const random(1) %wo: f32[4,2,6] = const random(2)
          %v = Einsum(%x, %wv) {equation="bsd,dhk->bshk"} %r = Relu(%v)
          %y = Einsum(%r, %wo) {equation="bshk,hkd->bsd"}
          return %y
        }"""
    )
    assert [(g.makers, g.before, g.after) for g in report.groups] == [(("v",), 4, 2), (("v",), 2, 1), (("y",), 6, 6)]
    assert [v.type.static_shape for v in graph.constants()] == [(6, 2, 1), (2, 1, 6)]


def test_shape_arithmetic_of_a_flattened_product_follows() -> None:
    """A Gemm between two Reshapes, the second to a shape put together at run time."""
    graph, report = pruned(
        """graph main(%x: f32[N,S,6]) {
          %w: f32[6,8] = const random(1) %k: f32[8,3] = const random(2) %flat = const [-1, 6] %hidden = const [8]
          %zero = const [0] %two = const [2]
          %sh = Shape(%x) %lead = Slice(%sh, %zero, %two) %to = Concat(%lead, %hidden) {axis=0}
          %f = Reshape(%x, %flat) %g = Gemm(%f, %w) %r = Reshape(%g, %to) %y = MatMul(%r, %k)
          return %y
        }"""
    )
    assert channels_of(report) == {"g": (8, 4), "y": (3, 3)}
    assert [v.type.static_shape for v in graph.constants() if v.type.dtype.is_float] == [(6, 4), (4, 3)]


def test_another_tensor_reshaped_to_the_shape_of_a_pruned_one_keeps_its_size() -> None:
    graph, report = pruned(
        """graph main(%x: f32[N,4]) {
          %w: f32[4,4] = const random(1) %k: f32[4,3] = const random(2)
          %m = MatMul(%x, %w) %y = MatMul(%m, %k) %s = Shape(%m) %z = Reshape(%x, %s)
          return %y, %z
        }"""
    )
    assert channels_of(report) == {"m": (4, 2), "y": (3, 3)}
    target = next(n for n in graph.nodes if n.op == "Reshape").operand(1).data
    assert target is not None
    assert target.tolist() == [0, 4]


def test_groups_shrink_evenly_or_as_a_whole() -> None:
    graph, report = pruned(
        """graph main(%x: f32[N,3,4,4]) {
          %a: f32[8,3,1,1] = const random(1) %b: f32[8,4,1,1] = const random(2) %c: f32[8,2,1,1] = const random(3)
          %d: f32[2,8,1,1] = const random(4)
          %ca = Conv(%x, %a) %cb = Conv(%ca, %b) {group=2} %cc = Conv(%cb, %c) {group=4} %y = Conv(%cc, %d)
          return %y
        }"""
    )
    assert channels_of(report) == {"ca": (8, 4), "cb": (8, 4), "y": (2, 2)}
    groups = [node.attrs.get("group", 1) for node in graph.nodes]
    assert groups == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("channels", "spec", "kept"),
    [
        (20, "channels=50%", 16),
        (20, "channels=50%,align=1", 10),
        (20, "channels=50%,align=4", 12),
        (8, "channels=50%", 8),
        (24, "channels=90%", 8),
        (140, "channels=50%", 80),
        (8, "channels=99%,align=1", 1),
    ],
)
def test_kept_channels_fill_vectors(channels: int, spec: str, kept: int) -> None:
    _, report = pruned(
        f"""graph main(%x: f32[N,3]) {{
          %w: f32[3,{channels}] = const random(1) %k: f32[{channels},2] = const random(2)
          %h = MatMul(%x, %w) %y = MatMul(%h, %k)
          return %y
        }}""",
        spec,
    )
    assert channels_of(report)["h"] == (channels, kept)


def test_the_balanced_schedule_cuts_where_channels_matter_least() -> None:
    """Half of the first layer is nearly zero, the second is even; no group loses more than three quarters."""
    first = [[1.0] * 8 + [1e-3] * 8] * 3
    text = f"""graph main(%x: f32[N,3]) {{
      %a: f32[3,16] = const {first} %b: f32[16,16] = const 0.5 %c: f32[16,2] = const random(2)
      %h = MatMul(%x, %a) %i = MatMul(%h, %b) %y = MatMul(%i, %c)
      return %y
    }}"""
    uniform = channels_of(pruned(text, "channels=25%,align=1")[1])
    balanced = channels_of(pruned(text, "channels=25%,align=1,schedule=balanced")[1])
    assert uniform == {"h": (16, 12), "i": (16, 12), "y": (2, 2)}
    assert balanced == {"h": (16, 8), "i": (16, 16), "y": (2, 2)}
    bounded = channels_of(pruned(text, "channels=50%,align=1,schedule=balanced")[1])
    assert bounded["h"][1] + bounded["i"][1] == 16
    assert min(bounded["h"][1], bounded["i"][1]) >= 4


def test_a_part_of_a_split_keeps_a_channel() -> None:
    graph, _ = pruned(
        """graph main(%x: f32[N,2]) {
          %w: f32[2,4] = const [[9, 8, 1, 2], [9, 8, 1, 2]] %k: f32[4,1] = const [[1], [2], [3], [4]]
          %h = MatMul(%x, %w) %a, %b = Split(%h) {axis=1, num_outputs=2} %s = Sigmoid(%b)
          %c = Concat(%a, %s) {axis=1} %y = MatMul(%c, %k)
          return %y
        }"""
    )
    sizes = next(n for n in graph.nodes if n.op == "Split").operand(1).data
    assert sizes is not None
    assert sizes.tolist() == [2, 1]


def test_small_weights_become_zero_and_nothing_else_changes() -> None:
    graph, report = pruned(
        """graph main(%x: f32[N,2]) {
          %w: f32[2,2] = const [[0.5, -0.001], [0.0009, -2]] %b: f32[2] = const 0.0001
          %y = Gemm(%x, %w, %b)
          return %y
        }""",
        "weights<1e-2",
    )
    assert_same(
        graph,
        """graph main(%x: f32[N,2]) {
          %w: f32[2,2] = const [[0.5, 0], [0, -2]] %b: f32[2] = const 0.0001
          %y = Gemm(%x, %w, %b)
          return %y
        }""",
    )
    assert report.zeros == (2, 4)
    assert report.macs_share == 1.0


def test_parts_of_a_spec_are_applied_in_order() -> None:
    _, report = pruned(ATTENTION, "channels=50%,align=1;weights<0.01")
    assert report.zeros is not None
    assert report.zeros[1] == 3 * 6 * 4 + 4 * 5


def test_the_report_says_it_in_lines_and_as_data() -> None:
    _, report = pruned(ATTENTION)
    lines = report.lines()
    assert lines[0].startswith("pruned by channels=50%,align=1: MACs ")
    assert lines[1:] == ["q, k, v: 8 channels -> 4", "y: all 5 channels stay: they are output y"]
    data = report.as_dict()
    assert data["parameters"] == [3 * 48 + 40, 3 * 24 + 20]
    assert data["groups"][1] == {"makers": ("y",), "before": 5, "after": 5, "reasons": ("they are output y",)}


def test_a_shared_constant_is_cut_for_each_reader_as_it_needs() -> None:
    graph, _ = pruned(
        """graph main(%x: f32[N,2]) {
          %w: f32[2,2] = const [[1, 2], [1, 2]]
          %a = MatMul(%x, %w) %b = MatMul(%a, %w)
          return %b
        }"""
    )
    assert_same(
        graph,
        """graph main(%x: f32[N,2]) {
          %w: f32[2,1] = const [[2], [2]] %v: f32[1,2] = const [[1, 2]]
          %a = MatMul(%x, %w) %b = MatMul(%a, %v)
          return %b
        }""",
    )


def test_the_least_go_and_the_rest_keep_their_order() -> None:
    row = np.random.default_rng(0).uniform(0.5, 1.5, 16).astype(np.float32)
    graph, _ = pruned(
        f"""graph main(%x: f32[N,1]) {{
          %w: f32[1,16] = const {[row.tolist()]} %k: f32[16,1] = const 1
          %h = MatMul(%x, %w) %y = MatMul(%h, %k)
          return %y
        }}"""
    )
    kept = graph.constants()[0].data
    assert kept is not None
    assert np.array_equal(kept[0], row[row > np.median(row)])
