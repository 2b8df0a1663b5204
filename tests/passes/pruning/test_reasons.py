"""What cannot shrink stays, and the report says why."""

from __future__ import annotations

import pytest
from helpers import assert_same, graph_of
from optc.passes.pruning import prune

HEAD = "graph main(%x: f32[N,4]) { %w: f32[4,4] = const random(1) %k: f32[4,4] = const random(2) %m = MatMul(%x, %w)"
MAPS = "graph main(%x: f32[N,3,4,4]) { %w: f32[4,3,1,1] = const random(1) %c = Conv(%x, %w)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{HEAD} return %m }}", "they are output m"),
        (f"{HEAD} %s = Add(%m, %x) %y = MatMul(%s, %k) return %y }}", "Add (s) joins them with an axis that cannot"),
        (f"{HEAD} %s = Softmax(%m) %y = MatMul(%s, %k) return %y }}", "Softmax (s) normalizes over them"),
        (
            f"{HEAD} %g: f32[4] = const 1 %s = LayerNormalization(%m, %g) %y = MatMul(%s, %k) return %y }}",
            "LayerNormalization (s) normalizes over them",
        ),
        (
            f"{HEAD} %a = const [1] %s = ReduceMean(%m, %a) {{keepdims=1}} %y = MatMul(%s, %k1) return %y }}".replace(
                "%a =", "%k1: f32[1,4] = const random(3) %a ="
            ),
            "ReduceMean (s) reduces over them",
        ),
        (
            f"{HEAD} %n: i64[] = const 2 %s, %i = TopK(%m, %n1) %y = MatMul(%s, %k2) return %y }}".replace(
                "%n: i64[] = const 2", "%k2: f32[2,4] = const random(3) %n1 = const [2]"
            ),
            "TopK (s) has no pruning rule",
        ),
        (
            f"{HEAD} %s = Slice(%m, %a, %b, %a, %t) %y = MatMul(%s, %k2) return %y }}".replace(
                "%s =", "%k2: f32[2,4] = const random(3) %a = const [1] %b = const [9] %t = const [2] %s ="
            ),
            "Slice (s) takes every 2th of them",
        ),
        (
            f"{HEAD} %t = const [1, 2] %s = Tile(%m, %t) %y = MatMul(%s, %k8) return %y }}".replace(
                "%t =", "%k8: f32[8,4] = const random(3) %t ="
            ),
            "Tile (s) repeats or pads them",
        ),
        (
            f"{HEAD} %t = const [-1] %s = Reshape(%m, %t) %y = Relu(%s) return %y }}",
            "Reshape (s) mixes them with other axes",
        ),
        (f"{HEAD} %s = Size(%m) return %s }}", "Size (s) has no pruning rule"),
        (
            f"{HEAD} %s = Shape(%m) %o = ConstantOfShape(%s) return %o }}",
            "Shape (s) gives their number to other nodes",
        ),
        (f"{MAPS} %y = LRN(%c) {{size=3}} return %y }}", "LRN (y) normalizes over them"),
        (
            f"{MAPS} %k: f32[2,4,1,1] = const 1 %t = Transpose(%c) {{perm=[0,2,1,3]}} %y = Conv(%t, %k) return %y }}",
            "Conv (y) slides along them",
        ),
        (
            f"{MAPS} %p, %i = MaxPool(%c) {{kernel_shape=[2,2]}} return %p, %i }}",
            "MaxPool (p) gives indices over all channels",
        ),
    ],
)
def test_channels_that_cannot_shrink(text: str, reason: str) -> None:
    graph = graph_of(text)
    report = prune(graph, "channels=50%,align=1")
    assert_same(graph, text)
    first = report.groups[0]
    assert first.before == first.after
    assert any(reason in r for r in first.reasons), first.reasons
    assert any(reason in line for line in report.lines())


def test_channels_read_in_a_nested_graph_stay() -> None:
    text = f"""{HEAD} %b: bool[] = Less(%z, %z) %y: f32[N,4] = If(%b) {{
      then_branch=graph t() {{ %r = Relu(%m) return %r }}, else_branch=graph e() {{ %q = MatMul(%m, %k) return %q }}
    }} return %y }}""".replace("f32[N,4])", "f32[N,4], %z: f32[])", 1)
    report = prune(graph_of(text), "channels=50%,align=1")
    assert report.groups[0].reasons == ("If (y) reads them in its graph then_branch",)
    assert report.left == [("q", "it lies in a graph of If (y)")]
    assert report.lines()[-1] == "q: left alone: it lies in a graph of If (y)"


def test_computed_weights_are_left_alone() -> None:
    text = "graph main(%x: f32[N,3,4,4], %w: f32[4,3,1,1]) { %y = Conv(%x, %w) return %y }"
    report = prune(graph_of(text), "channels=50%")
    assert report.left == [("y", "its weights are computed")]


def test_layers_without_a_rule_are_left_alone() -> None:
    text = """graph main(%x: f32[5,N,3]) {
      %w: f32[1,8,3] = const random(1) %r: f32[1,8,2] = const random(2)
      %y, %h, %c = LSTM(%x, %w, %r) {hidden_size=2}
      return %y
    }"""
    report = prune(graph_of(text), "channels=50%")
    assert report.left == [("y", "LSTM has no pruning rule")]


def test_a_channel_that_is_picked_stays_and_others_go() -> None:
    graph = graph_of(f"{HEAD} %i: i64[] = const 1 %s = Gather(%m, %i) {{axis=1}} return %s }}")
    report = prune(graph, "channels=99%,align=1")
    assert [(g.before, g.after) for g in report.groups] == [(4, 2)]
    assert "Gather (s) picks them one by one" in report.groups[0].reasons


def test_free_channels_beside_fixed_ones_still_go() -> None:
    """Of a concatenation with the input, only the made half can shrink."""
    text = f"{HEAD} %c = Concat(%x, %m) {{axis=1}} %k8: f32[8,4] = const random(3) %y = MatMul(%c, %k8) return %y }}"
    graph = graph_of(text)
    report = prune(graph, "channels=50%,align=1")
    assert [(g.before, g.after) for g in report.groups] == [(4, 2), (4, 4)]
    assert [v.type.static_shape for v in graph.constants()] == [(4, 2), (6, 4)]
