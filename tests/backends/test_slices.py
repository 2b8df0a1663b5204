"""Concats that copy nothing: parts written where the whole needs them, and what else reads them there."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, random_inputs
from optc.backends.cpu import Lowering, lower
from optc.backends.steps import CopyRows, Kernel, Within
from optc.backends.storage import Storage, Weights
from optc.backends.target import Target
from optc.compiler.driver import compile, optimize
from optc.compiler.ir import Graph
from optc.compiler.onnx.exporter import export_model

HEAD = "graph main(%x: f32[N,16,H,20])"
LAYERS = """
  %point: f32[24,16,1,1] = const random(1)  %around: f32[8,16,3,3] = const random(2)
  %each: f32[16,1,3,3] = const random(3)  %grouped: f32[24,8,3,3] = const random(4)
  %first: f32[16,16,1,1] = const random(5)  %f = Conv(%x, %first)  %r = Relu(%f)
"""
PARTS = {
    "point": "%p = Conv(%r, %point)",
    "around": "%p = Conv(%r, %around) {pads=[1,1,1,1]}",
    "grouped": "%p = Conv(%r, %grouped) {pads=[1,1,1,1], group=2}",
    "depthwise": "%p = Conv(%r, %each) {pads=[1,1,1,1], group=16}",
    "max": "%p = MaxPool(%r) {kernel_shape=[3,3], pads=[1,1,1,1]}",
    "mean": "%p = AveragePool(%r) {kernel_shape=[3,3], pads=[1,1,1,1]}",
    "pointwise": "%p = Sigmoid(%r)",
    "residual": "%c = Conv(%r, %each) {pads=[1,1,1,1], group=16} %p = Add(%c, %r)",
}


def steps_of(graph: Graph, kind: type) -> list[object]:
    optimize(graph)
    return [s for s in lower(graph, Target.host()).steps if isinstance(s, kind)]


def names(graph: Graph, kind: type) -> list[str]:
    return [s.name.split(" ")[0] for s in steps_of(graph, kind)]  # type: ignore[attr-defined]


def check(text: str, monkeypatch: pytest.MonkeyPatch, *, copies: int = 0, slices: int) -> None:
    """The same bits as with copies, in every shape, with so many values that lie in others."""
    graph = graph_of(text)
    proto = export_model(graph)
    inputs = [random_inputs(graph, dims) for dims in ({"N": 1, "H": 7}, {"N": 2, "H": 3})]
    found = compile(proto, threads=1, cache=False)
    monkeypatch.setattr(Lowering, "in_place", False)
    plain = compile(proto, threads=1, cache=False)
    for feed in inputs:
        for name, expected in plain.run(feed).items():
            np.testing.assert_array_equal(found.run(feed)[name], expected)
    monkeypatch.undo()
    assert len(steps_of(graph_of(text), Within)) == slices
    assert len(steps_of(graph_of(text), CopyRows)) == copies
    assert "Concat" not in names(graph_of(text), Kernel)


@pytest.mark.parametrize("part", PARTS)
def test_what_a_kernel_stores_lies_in_the_whole(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(f"""
{HEAD} {{ {LAYERS}
  {PARTS[part]}
  %s = Tanh(%r)
  %whole = Concat(%s, %p) {{axis=1}}
  %y = Exp(%whole)
  return %y
}}
""", monkeypatch, slices=2)  # fmt: skip


def test_every_concat_of_a_dense_block_is_a_slice_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    check("""
graph main(%x: f32[N,16,H,20]) {
  %w1: f32[16,16,3,3] = const random(1)  %w2: f32[16,32,3,3] = const random(2)  %w3: f32[16,48,1,1] = const random(3)
  %x1 = Conv(%x, %w1) {pads=[1,1,1,1]}
  %a = Relu(%x1)
  %at = Tanh(%a)
  %b = Conv(%at, %w1) {pads=[1,1,1,1]}
  %ab = Concat(%a, %b) {axis=1}
  %abr = Relu(%ab)
  %c = Conv(%abr, %w2) {pads=[1,1,1,1]}
  %abc = Concat(%a, %b, %c) {axis=1}
  %abcr = Sigmoid(%abc)
  %d = Conv(%abcr, %w3)
  %abcd = Concat(%abc, %d) {axis=1}
  %y = Tanh(%abcd)
  return %y
}
""", monkeypatch, slices=6)  # fmt: skip


def test_a_part_that_a_kernel_reads_whole_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    check(f"""
{HEAD} {{ {LAYERS}
  %c = Conv(%r, %point)
  %whole = Concat(%r, %c, %c) {{axis=1}}
  %y = Exp(%whole)
  return %y
}}
""", monkeypatch, slices=1, copies=2)  # fmt: skip


def test_what_the_graph_returns_stays_by_itself() -> None:
    graph = graph_of("""
graph main(%x: f32[N,4,20,16]) {
  %a = Relu(%x)
  %b = Tanh(%x)
  %y = Concat(%a, %b) {axis=3}
  return %b, %y
}
""")
    assert len(steps_of(graph, Within)) == 1


def test_outer_parts_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    check("""
graph main(%x: f32[1,N,40,16]) {
  %w: f32[16,16] = const random(1)
  %a = MatMul(%x, %w)
  %b = Tanh(%x)
  %whole = Concat(%a, %b) {axis=1}
  %y = Exp(%whole)
  return %whole, %y
}
""", monkeypatch, slices=2)  # fmt: skip


def test_small_concats_are_copied() -> None:
    graph = graph_of("""
graph main(%x: f32[4,8]) {
  %a = Relu(%x)
  %b = Tanh(%x)
  %c = Concat(%a, %b) {axis=1}
  %y = Softmax(%c) {axis=1}
  return %y
}
""")
    assert not steps_of(graph, Within)


def test_a_slice_keeps_the_whole_alive() -> None:
    graph = graph_of("""
graph main(%x: f32[64,32]) {
  %a = Relu(%x)
  %b = Tanh(%a)
  %c = Concat(%a, %b) {axis=1}
  %s = Softmax(%c) {axis=1}
  %y = Exp(%s)
  return %y
}
""")
    optimize(graph)
    lowered = lower(graph, Target.host())
    storage = Storage(lowered.graph, lowered.steps, Weights())
    slices = [s for s in lowered.steps if isinstance(s, Within)]
    assert [storage.place(s.output) for s in slices] == ["B[0]", "(B[0] + 128)"]
    softmax = next(s for s in lowered.steps if isinstance(s, Kernel) and "Softmax" in s.name)
    first, last = (storage.positions[id(s)] for s in (slices[0], softmax))
    assert storage.buffers[0].first == first[0]
    assert storage.buffers[0].last == last[1]
