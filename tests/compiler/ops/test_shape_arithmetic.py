"""Shapes computed in the graph, as exporters write them, stay exact."""

from __future__ import annotations

import pytest
from helpers import graph_of
from optc.compiler.ir import Graph
from optc.compiler.ops.base import infer_graph


def inferred(text: str) -> Graph:
    graph = graph_of(text)
    infer_graph(graph)
    return graph


def out(text: str) -> str:
    """The type of the first output."""
    return str(inferred(text).outputs[0].type)


def test_heads_are_split_by_gathered_dims() -> None:
    found = out("""graph main(%x: f32[N,S,768]) {
      %shape = Shape(%x)
      %zero = const 0
      %n = Gather(%shape, %zero) {axis=0}
      %one = const 1
      %s = Gather(%shape, %one) {axis=0}
      %axes = const [0]
      %n1 = Unsqueeze(%n, %axes)
      %s1 = Unsqueeze(%s, %axes)
      %rest = const [12,-1]
      %target = Concat(%n1, %s1, %rest) {axis=0}
      %y = Reshape(%x, %target)
      return %y
    }""")
    assert found == "f32[N, S, 12, 64]"


def test_a_size_through_float_and_back() -> None:
    found = out(
        """graph main(%x: f32[N,3,H,W]) {
      %whole = Shape(%x)
      %hw = Slice(%whole, %start, %end)
      %float = Cast(%hw) {to=f32}
      %half: f32[] = const 0.5
      %scaled = Mul(%float, %half)
      %floored = Floor(%scaled)
      %sizes = Cast(%floored) {to=i64}
      %nc = Slice(%whole, %zero, %start)
      %target = Concat(%nc, %sizes) {axis=0}
      %y = Resize(%x, _, _, %target) {mode="nearest"}
      return %y
    }""".replace("%whole =", "%start = const [2]\n %end = const [4]\n %zero = const [0]\n %whole =")
    )
    assert found == "f32[N, 3, floor(H/2), floor(W/2)]"


def test_split_gives_each_output_its_content() -> None:
    found = out("""graph main(%x: f32[N,S,8]) {
      %shape = Shape(%x)
      %n, %s, %c = Split(%shape) {num_outputs=3}
      %target = Concat(%s, %n, %c) {axis=0}
      %zero: f32[1] = const 0
      %y = Expand(%zero, %target)
      return %y
    }""")
    assert found == "f32[S, N, 8]"


def test_where_with_a_decidable_condition() -> None:
    found = out("""graph main(%x: f32[N,1]) {
      %shape = Shape(%x)
      %minus = const [-1,-1]
      %same = Equal(%shape, %minus)
      %ones = const [1,1]
      %target = Where(%same, %ones, %shape)
      %y = Expand(%x, %target)
      return %y
    }""")
    assert found == "f32[N, 1]"


def test_range_over_a_dim() -> None:
    found = out("""graph main(%x: f32[N,S]) {
      %shape = Shape(%x)
      %one = const 1
      %s = Gather(%shape, %one) {axis=0}
      %zero = const 0
      %y = Range(%zero, %s, %one)
      return %y
    }""")
    assert found == "i64[S]"


@pytest.mark.parametrize(
    ("start", "end", "step", "dim"),
    [
        ("0", "9223372036854775807", "1", "S"),
        ("1", "2147483647", "1", "S-1"),
        ("0", "-1", "1", "S-1"),
        ("-1", "9223372036854775807", "1", "1"),
        ("0", "1", "1", "1"),
        ("-1", "-9223372036854775808", "-1", "S"),
        ("0", "9223372036854775807", "2", "floor(S/2+1/2)"),
        ("0", "128", "1", "Min(128,S)"),
    ],
)
def test_slices_of_a_symbolic_dim(start: str, end: str, step: str, dim: str) -> None:
    found = out(f"""graph main(%x: f32[S]) {{
      %start = const [{start}]
      %end = const [{end}]
      %axes = const [0]
      %steps = const [{step}]
      %y = Slice(%x, %start, %end, %axes, %steps)
      return %y
    }}""")
    assert found.replace(" ", "") == f"f32[{dim}]"


def test_what_data_decides_is_a_new_symbol_and_stays_the_same_one() -> None:
    graph = inferred("""graph main(%x: f32[N]) {
      %y = NonZero(%x)
      return %y
    }""")
    before = graph.outputs[0].type
    infer_graph(graph)
    assert graph.outputs[0].type == before
    assert str(before).startswith("i64[1, _nonzero")
