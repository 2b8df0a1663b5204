"""Tail duplication and traps: the rank of an If is known in its branches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime as ort
import pytest
from helpers import graph_of
from optc.compiler.errors import OptcError, UnsupportedError
from optc.compiler.ir import Graph
from optc.compiler.onnx.exporter import export_model
from optc.compiler.text import equal
from optc.passes import base
from optc.passes.base import PassContext
from optc.passes.tails import DuplicateTails

HEAD = """%shape = Shape(%x) {start=0, end=1}
  %one = const [1]
  %is_one = Equal(%shape, %one)
  %axes = const [0]
  %c = Squeeze(%is_one, %axes)
  %v = If(%c) {then_branch=graph t() { %a = Squeeze(%x, %axes) return %a },
               else_branch=graph e() { %b = Relu(%x) return %b }}
"""


def duplicated(body: str, inputs: str = "%x: f32[N,3,2]", **options: int) -> Graph:
    graph = graph_of(f"graph main({inputs}) {{ {HEAD} {body} }}")
    assert base.run_passes(graph, [DuplicateTails(**options)], PassContext())
    return graph


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def run(graph: Graph, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(export_model(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def test_what_follows_moves_into_the_branches() -> None:
    graph = duplicated("%rows = const [-1,6] %d = Neg(%v) %r = Reshape(%d, %rows) %y = Exp(%r) return %y")
    assert equal(
        graph,
        graph_of("""graph main(%x: f32[N,3,2]) {
          %shape = Shape(%x) {start=0, end=1}
          %one = const [1]
          %is_one = Equal(%shape, %one)
          %axes = const [0]
          %c = Squeeze(%is_one, %axes)
          %rows = const [-1,6]
          %r = If(%c) {
            then_branch=graph t() { %a = Squeeze(%x, %axes) %d = Neg(%a) %s = Reshape(%d, %rows) return %s },
            else_branch=graph e() { %b = Relu(%x) %d2 = Neg(%b) %s2 = Reshape(%d2, %rows) return %s2 }}
          %y = Exp(%r)
          return %y }"""),
    )


@pytest.mark.parametrize("n", [1, 4])
def test_both_ways_compute_the_same_as_before(n: int) -> None:
    body = "%d = Neg(%v) %w = Abs(%x) %r = ReduceSum(%d) {keepdims=0} %y = Mul(%r, %w) return %y, %r"
    x = np.random.default_rng(0).standard_normal((n, 3, 2), dtype=np.float32)
    before = run(graph_of(f"graph main(%x: f32[N,3,2]) {{ {HEAD} {body} }}"), x=x)
    for found, expected in zip(run(duplicated(body), x=x), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_what_does_not_depend_on_the_rank_stays() -> None:
    graph = duplicated(
        "%other = Exp(%x) %d = Neg(%v) %rows = const [-1,3,2] %m = Reshape(%d, %rows) %y = Mul(%other, %m) return %y"
    )
    assert ops(graph)[-3:] == ["Exp", "If", "Mul"]


def test_a_condition_on_the_same_dim_is_decided_in_the_branches() -> None:
    graph = duplicated(
        """%again = Equal(%one, %shape) %not = Not(%again) %n = Squeeze(%not, %axes)
        %w = If(%n) {then_branch=graph t2() { %p = Neg(%v) return %p },
                     else_branch=graph e2() { %q = Unsqueeze(%v, %axes) return %q }}
        %y = Exp(%w) return %y"""
    )
    assert Counter(n.op for n in graph.all_nodes())["If"] == 1
    assert graph.outputs[0].type.dims[1:] == (3, 2)


def test_a_branch_that_does_not_fit_becomes_a_trap() -> None:
    graph = duplicated("%w: f32[2,5] = const random(1) %p = Gemm(%v, %w) %y = Exp(%p) return %y")
    assert [n.op for n in graph.all_nodes()].count("optc.Trap") == 1
    assert graph.outputs[0].type.dims == (3, 5)


def test_a_trap_is_exported_as_a_branch_that_fails() -> None:
    body = "%w: f32[2,5] = const random(1) %p = Gemm(%v, %w) %y = Exp(%p) return %y"
    graph = duplicated(body)
    assert run(graph, x=np.ones((1, 3, 2), np.float32))[0].shape == (3, 5)
    with pytest.raises(Exception, match="cannot run"):
        run(graph, x=np.ones((2, 3, 2), np.float32))


def test_neither_branch_fits() -> None:
    with pytest.raises(OptcError, match="neither branch fits"):
        duplicated("%w: f32[7,5] = const random(1) %p = MatMul(%v, %w) %y = Exp(%p) return %y")


def test_growth_is_bounded() -> None:
    """Eight such Ifs in a row, each reading the one before: 2^8 copies of the last."""
    body = "".join(
        f"""%c{i}: bool[] = Identity(%k{i})
        %v{i + 1} = If(%c{i}) {{then_branch=graph t{i}() {{ %a{i} = Unsqueeze(%v{i}, %axes) return %a{i} }},
                                else_branch=graph e{i}() {{ %b{i} = Relu(%v{i}) return %b{i} }}}} """
        for i in range(8)
    )
    inputs = "%x: f32[N,3,2]" + "".join(f", %k{i}: bool[]" for i in range(8))
    with pytest.raises(OptcError, match="more than 256 nodes") as error:
        duplicated(f"%v0 = Neg(%v) {body} %y = ReduceSum(%v8) {{keepdims=0}} return %y", inputs)
    assert isinstance(error.value.__cause__, UnsupportedError)


def test_a_graph_whose_ranks_are_known_stays() -> None:
    graph = graph_of("graph main(%x: f32[N], %c: bool[]) { %y = If(%c) {then_branch=graph t() { %a = Neg(%x) "
                     "return %a }, else_branch=graph e() { %b = Relu(%x) return %b }} return %y }")  # fmt: skip
    assert not base.run_passes(graph, [DuplicateTails()], PassContext())
