"""Whole pipelines, on hand-made, random and real graphs."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, random_inputs, run_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from optc import models
from optc.backends.cpu import PIPELINE
from optc.compiler.ir import Graph, Value
from optc.compiler.text import equal
from optc.compiler.types import DType, TensorType, free_symbols, symbol
from optc.compiler.verify import verify
from optc.passes.base import Pass
from optc.passes.pipelines import OPTIMIZE, SIMPLIFY, explain_rule, simplify
from optc.passes.rewrite import RULES

PIPELINES = pytest.mark.parametrize("pipeline", [SIMPLIFY, OPTIMIZE], ids=["simplify", "optimize"])
TOLERANCE = 1e-5  # of the largest element, in float32

BLOCK = """graph main(%x: f32[N,S,8]) {
  %w: f32[8,24] = const random(1) %b: f32[24] = const random(2) %g: f32[8] = const random(3) %eps: f32[] = const 1e-5
  %two: f32[] = const 2 %last = const [-1] %i0: i64[] = const 0 %i1: i64[] = const 1 %u = const [0]
  %h = const [2] %d = const [4]
  %c: f32[] = const 2 %c8 = const [8]
  %mean = ReduceMean(%x, %last) %dev = Sub(%x, %mean) %sq = Pow(%dev, %two) %var = ReduceMean(%sq, %last)
  %ve = Add(%var, %eps) %std = Sqrt(%ve) %norm = Div(%dev, %std) %scaled = Mul(%norm, %g) %n = Add(%scaled, %g)
  %p = MatMul(%n, %w) %qkv = Add(%b, %p) %q, %k, %v = Split(%qkv) {axis=2, num_outputs=3}
  %s0 = Shape(%q) %n0 = Gather(%s0, %i0) %n1 = Unsqueeze(%n0, %u) %s1 = Shape(%x)
  %m0 = Gather(%s1, %i1) %m1 = Unsqueeze(%m0, %u)
  %split = Concat(%n1, %m1, %h, %d) {axis=0} %join = Concat(%n1, %m1, %c8) {axis=0}
  %q4 = Reshape(%q, %split) %k4 = Reshape(%k, %split) %v4 = Reshape(%v, %split)
  %qt = Transpose(%q4) {perm=[0,2,1,3]} %kt = Transpose(%k4) {perm=[0,2,3,1]} %vt = Transpose(%v4) {perm=[0,2,1,3]}
  %a = MatMul(%qt, %kt) %as = Div(%a, %c) %sm = Softmax(%as) {axis=-1} %o = MatMul(%sm, %vt)
  %ot = Transpose(%o) {perm=[0,2,1,3]} %y = Reshape(%ot, %join)
  return %y
}"""


def outputs_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Same names, shapes and elements within the tolerance."""
    return list(found) == list(expected) and all(
        found[k].shape == v.shape and np.abs(found[k] - v).max(initial=0) <= TOLERANCE * np.abs(v).max(initial=1e-30)
        for k, v in expected.items()
    )


@PIPELINES
def test_a_transformer_block(pipeline: tuple[Pass, ...]) -> None:
    graph = graph_of(BLOCK)
    inputs = random_inputs(graph, {"N": 2, "S": 5})
    expected = run_reference(graph, inputs)
    report = simplify(graph, pipeline)
    ops = [n.op for n in graph.nodes]
    assert ops.count("LayerNormalization") == 1
    assert "Shape" not in ops
    assert ("optc.Attention" in ops) == (pipeline is OPTIMIZE)
    assert report.nodes == (len(graph_of(BLOCK)), len(graph))
    assert outputs_close(run_reference(graph, inputs), expected)


@PIPELINES
def test_dynamic_dims_and_names_stay(pipeline: tuple[Pass, ...]) -> None:
    graph = graph_of(BLOCK)
    simplify(graph, pipeline)
    assert [v.type for v in graph.inputs] == [TensorType(DType.F32, (symbol("N"), symbol("S"), 8))]
    assert graph.outputs[0].type == TensorType(DType.F32, (symbol("N"), symbol("S"), 8))
    assert graph.output_names == ["y"]
    for dims in ({"N": 1, "S": 1}, {"N": 3, "S": 7}):
        inputs = random_inputs(graph, dims)
        assert outputs_close(run_reference(graph, inputs), run_reference(graph_of(BLOCK), inputs))


def test_simplify_makes_onnx_ops_only_and_comes_to_rest() -> None:
    graph = graph_of(BLOCK)
    simplify(graph)
    assert not any(n.op.startswith("optc.") for n in graph.all_nodes())
    again = graph.clone()
    simplify(again)
    assert equal(graph, again)


def test_explaining_a_rule_by_name() -> None:
    assert "does not apply" in str(explain_rule("mish", graph_of(BLOCK)))
    assert explain_rule("layer-norm", graph_of(BLOCK)).applies


def test_every_rule_is_in_a_pipeline() -> None:
    rules = [rule for step in (*SIMPLIFY, *PIPELINE) for rule in getattr(step, "rules", ())]
    used = {rule if isinstance(rule, str) else rule.name for rule in rules}
    assert used == set(RULES) - {name for name in RULES if name.startswith("test-")}


# --- random graphs -----------------------------------------------------------------------------------------------

UNARY = ("Relu", "Neg", "Identity", "Sigmoid", "Tanh", "Abs", "Erf")
BINARY = ("Add", "Mul", "Sub", "Max")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to 12 nodes over f32[N,4] and f32[N,2,2]: pointwise, with constants, views, transposes, casts, reductions."""
    graph = Graph()
    pool = [graph.add_input("x", TensorType(DType.F32, (symbol("N"), 4)))]
    for _ in range(draw(st.integers(1, 12))):
        pool.append(_random_node(draw, graph, draw(st.sampled_from(pool)), pool))
    count = draw(st.integers(1, min(3, len(pool))))
    results = draw(st.lists(st.sampled_from(pool), min_size=count, max_size=count))
    graph.set_outputs([*results, pool[-1]], [f"out{i}" for i in range(count + 1)])
    return graph


def _random_node(draw: st.DrawFn, graph: Graph, x: Value, pool: list[Value]) -> Value:
    kind = draw(
        st.sampled_from(["unary", "binary", "constant", "view", "transpose", "cast", "clip", "matmul", "softmax"])
    )
    rank = x.type.rank
    if kind == "binary":
        same = [v for v in pool if v.type.rank == rank and v.type.dims[-1] == x.type.dims[-1]]
        return graph.emit(draw(st.sampled_from(BINARY)), [x, draw(st.sampled_from(same))]).output
    if kind == "constant":
        shape = draw(st.sampled_from([(), (1,), (int(x.type.dims[-1]),)]))  # type: ignore[arg-type]
        number = draw(st.sampled_from([0.0, 1.0, 0.5, -2.0, 3.0]))
        operands = [x, graph.constant(np.full(shape, number, np.float32))]
        return graph.emit(draw(st.sampled_from((*BINARY, "Div" if number else "Add"))), operands).output
    if kind == "view":
        target = [0, 2, 2] if rank == 2 else [-1, 4]
        return graph.emit("Reshape", [x, graph.constant(np.array(target, np.int64))]).output
    if kind == "transpose" and rank == 3:
        return graph.emit("Transpose", [x], {"perm": (0, 2, 1)}).output
    if kind == "cast":
        wide = graph.emit("Cast", [x], {"to": DType.F64}).output
        return graph.emit("Cast", [wide], {"to": DType.F32}).output
    if kind == "clip":
        bounds = [graph.constant(np.float32(v)) for v in sorted(draw(st.tuples(st.floats(-2, 2), st.floats(-2, 2))))]
        return graph.emit("Clip", [x, *bounds]).output
    if kind == "matmul" and rank == 2:
        seed = draw(st.integers(0, 9))
        weights = np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32) / 2
        return graph.emit("MatMul", [x, graph.constant(weights)]).output
    if kind == "softmax":
        return graph.emit("Softmax", [x], {"axis": draw(st.sampled_from([-1, rank - 1]))}).output
    return graph.emit(draw(st.sampled_from(UNARY)), [x]).output


@PIPELINES
@settings(max_examples=60, deadline=None)
@given(graph=graphs())
def test_random_graphs_keep_their_outputs_and_dims(pipeline: tuple[Pass, ...], graph: Graph) -> None:
    inputs = random_inputs(graph, {"N": 3})
    expected, types = run_reference(graph, inputs), [v.type for v in graph.outputs]
    simplify(graph, pipeline)
    verify(graph)
    assert [v.type for v in graph.outputs] == types
    assert free_symbols(graph.inputs[0].type.dims) == {symbol("N")}
    found = run_reference(graph, inputs)
    for name, wanted in expected.items():
        assert np.allclose(found[name], wanted, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(wanted).max())), name


@PIPELINES
def test_a_real_model(pipeline: tuple[Pass, ...]) -> None:
    """The model that ships with the package: its batch norms fold and its output stays."""
    from optc.compiler.onnx.importer import import_model

    graph = import_model(models.get("fashion-cnn").path())
    inputs = random_inputs(graph, {"N": 2})
    expected = run_reference(graph, inputs)
    simplify(graph, pipeline)
    assert not any(n.op == "BatchNormalization" for n in graph.nodes)
    assert outputs_close(run_reference(graph, inputs), expected)
