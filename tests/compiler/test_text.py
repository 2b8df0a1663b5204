"""Print, parse and compare."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_same, graph_of
from optc.compiler.errors import ModelError
from optc.compiler.ir import Graph
from optc.compiler.text import difference, equal, parse_graph, print_graph, structural_hash
from optc.compiler.types import DType, TensorType, symbol

EVERYTHING = r"""
graph main(%x: f32[N,3,2*N+1], %"a b": i64[Max(1,N)], %cond: bool[]) {
  %w: f32[4,3] = const random(1)          # a comment
  %s = const [1,2]
  %y: f32[N,4], %m: f32[_d1] = test.Op(%x, _, %w) {b=b"\u00ff", e=[], f=0.5, i=3, s="a\"b", t=f32[2] [1,2], to=f16}
  %z: f32[*] = test.If(%cond) {then=graph t() {
    %k: f32[1] = const 2
    %r: f32[1] = test.Add(%k, %m)
    return %r
  }, else=graph e() { return %w as "u" }}
  return %z as "out", %s
}
"""


def test_what_is_printed_parses_back() -> None:
    graph = parse_graph(EVERYTHING)
    text = print_graph(graph, consts="full")
    again = parse_graph(text)
    assert equal(graph, again, names=True)
    assert print_graph(again, consts="full") == text


def test_attributes_keep_their_types() -> None:
    node = next(parse_graph(EVERYTHING).nodes)
    assert {k: v for k, v in node.attrs.items() if k != "t"} == {
        "b": b"\xff", "e": (), "f": 0.5, "i": 3, "s": 'a"b', "to": DType.F16,
    }  # fmt: skip
    assert isinstance(node.attrs["t"], np.ndarray)
    assert node.attrs["t"].dtype == np.float32
    assert node.inputs[1] is None


def test_dims_are_expressions_over_shared_symbols() -> None:
    graph = parse_graph(EVERYTHING)
    n = symbol("N")
    assert graph.inputs[0].type == TensorType(DType.F32, (n, 3, 2 * n + 1))


@pytest.mark.parametrize(
    ("text", "array"),
    [
        ("f32[2,2] = const [[1,2],[3,4]]", np.array([[1, 2], [3, 4]], np.float32)),
        ("f32[2,2] = const 1.5", np.full((2, 2), 1.5, np.float32)),
        ("i8[3] = const iota", np.arange(3, dtype=np.int8)),
        ("u8[2] = const zeros", np.zeros(2, np.uint8)),
        ("f64[0,3] = const []", np.zeros((0, 3))),
        ("f32[] = const -inf", np.array(-np.inf, np.float32)),
        ("bool[2] = const [true,false]", np.array([True, False])),
    ],
)
def test_constants(text: str, array: np.ndarray) -> None:
    (value,) = parse_graph(f"graph g() {{ %c: {text}\n return %c }}").outputs
    assert value.data is not None
    np.testing.assert_array_equal(value.data, array, strict=True)
    assert value.type.shape == array.shape


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64", "i8", "u64", "bool", "c64"])
@pytest.mark.parametrize("shape", ["", "2,3", "7,9"])
def test_constants_of_every_dtype_survive_printing(dtype: str, shape: str) -> None:
    graph = parse_graph(f"graph g() {{ %c: {dtype}[{shape}] = const random(3)\n return %c }}")
    again = parse_graph(print_graph(graph, consts="full"))
    assert equal(graph, again)


def test_a_large_constant_prints_as_a_hash_and_is_given_back() -> None:
    graph = parse_graph("graph g() { %c: f32[100] = const random(1)\n return %c }")
    text = print_graph(graph)
    assert "const <" in text
    with pytest.raises(ModelError, match="constants"):
        parse_graph(text)
    data = graph.outputs[0].data
    assert data is not None
    assert equal(graph, parse_graph(text, {"c": data}))


def test_equality_ignores_names_and_order_of_independent_nodes() -> None:
    a = "graph g(%x: f32[2]) { %a: f32[2] = t.A(%x)\n %b: f32[2] = t.B(%x)\n %c: f32[2] = t.C(%a, %b)\n return %c }"
    b = "graph g(%x: f32[2]) { %q: f32[2] = t.B(%x)\n %p: f32[2] = t.A(%x)\n %c: f32[2] = t.C(%p, %q)\n return %c }"
    assert_same(graph_of(a), b)
    assert structural_hash(graph_of(a)) == structural_hash(graph_of(b))


def test_equality_ignores_names_of_data_symbols_only() -> None:
    def text(dim: str) -> Graph:
        return parse_graph(f"graph g(%x: f32[2]) {{ %y: f32[{dim}] = t.A(%x)\n return %y }}")

    assert equal(text("_d1"), text("_d7"))
    assert not equal(text("M"), text("N"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{k=1}", "{k=2}"),
        ("t.A(%x, %w)", "t.A(%w, %x)"),
        ("const [1,2]", "const [1,3]"),
        ("%y: f32[2]", "%y: f32[3]"),
        ("return %y", "return %y, %x"),
        ("%y", "%u: f32[2] = t.U(%x)\n%y"),
    ],
)
def test_differences_are_seen_and_shown(old: str, new: str) -> None:
    text = "graph g(%x: f32[2]) { %w: f32[2] = const [1,2]\n %y: f32[2] = t.A(%x, %w) {k=1}\n return %y }"
    a, b = parse_graph(text), parse_graph(text.replace(old, new, 1))
    assert difference(a, b)
    assert structural_hash(a) != structural_hash(b)


def test_names_of_outputs_count_on_request() -> None:
    a, b = (parse_graph(f'graph g(%x: f32[2]) {{ return %x as "{name}" }}') for name in "ab")
    assert equal(a, b)
    assert difference(a, b, names=True) == "output names differ: ['a'] and ['b']"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 'graph'"),
        ("graph g(%x) { return }", "needs a type"),
        ("graph g() { return %x }", "%x is not defined"),
        ("graph g(%x: f32[2], %x: f32[2]) { return }", "defined twice"),
        ("graph g(%x: f32[2!]) { return }", "not a dim expression"),
        ("graph g() { return } more", "end of the text"),
        ("graph g() { %c: f32[3] = const [1,2]\n return }", "2 elements do not make"),
    ],
)
def test_malformed_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        parse_graph(text)
    assert "line 1" in str(caught.value)
