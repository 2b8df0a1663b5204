"""The pass: which nodes it takes, what becomes of them, and that exported and compiled code agree with the codes."""

from __future__ import annotations

import numpy as np
import optc
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.backends import cpu
from optc.compiler.ir import Graph
from optc.compiler.verify import verify
from optc.passes.base import PassContext, parse_pipeline, pass_text, run_passes
from optc.passes.quantization.weights import PackWeights, pack_weights, parse_spec, quantize

LAYER = """
graph main(%x: f32[B,S,96]) {
  %w: f32[96,80] = const random(1)
  %b: f32[80] = const random(2)
  %y = MatMul(%x, %w)
  %z = Add(%y, %b)
  %r = Relu(%z)
  return %r
}
"""
FORMATS = (
    "int8",
    "int8:block=32",
    "int4",
    "int4:zeros",
    "int4:block=column",
    "codebook4",
    "log3",
    "linear3",
    "codebook8",
)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def constant(graph: Graph, name: str) -> np.ndarray:
    return np.asarray(next(v.data for v in graph.constants() if v.name == name))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("spec", FORMATS)
def test_a_product_reads_codes(spec: str) -> None:
    graph = graph_of(LAYER)
    w, b = constant(graph, "w"), constant(graph, "b")
    report = pack_weights(graph, f"{spec}:min=1")
    verify(graph)
    assert ops(graph) == ["optc.MatMulPacked", "Add", "Relu"]
    assert [layer.format for layer in report.layers] == [parse_spec(spec).format.text]
    rounded = quantize(w, parse_spec(spec).format).values()
    inputs = random_inputs(graph, {"B": 2, "S": 3})
    expected = np.maximum(inputs["x"].astype(np.float64) @ rounded + b, 0)
    assert_close(run_reference(graph, inputs)["r"], expected)


@pytest.mark.parametrize("spec", FORMATS)
def test_compiled_it_agrees_with_the_export(spec: str) -> None:
    graph = graph_of(LAYER)
    pack_weights(graph, f"{spec}:min=1")
    model = compiled(graph)
    for batch in (1, 9):
        inputs = random_inputs(graph, {"B": batch, "S": 2})
        assert_close(model.run(inputs)["r"], run_reference(graph, inputs)["r"])


def compiled(graph: Graph) -> optc.Model:
    """The graph as it is, compiled for this host."""
    import tempfile
    from pathlib import Path

    from optc.backends.build import build_artifact
    from optc.backends.target import Target

    lowered = cpu.lower(graph.clone(), Target.host())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.optc")
        build_artifact(lowered, Target.host(), {"options": {}, "model": "m", "versions": {}, "summary": {}}, path)
        return optc.load(path)


def test_gemm_keeps_its_factors_and_its_bias() -> None:
    graph = graph_of("""
graph main(%x: f32[5,64], %c: f32[1,48]) {
  %w: f32[48,64] = const random(1)
  %y = Gemm(%x, %w, %c) {alpha=0.5, beta=3.0, transB=1}
  return %y
}
""")
    w = constant(graph, "w")
    pack_weights(graph, "int8:min=1")
    assert ops(graph) == ["optc.MatMulPacked", "Mul", "Add"]
    inputs = random_inputs(graph)
    rounded = quantize(w.T * np.float32(0.5), parse_spec("int8").format).values()
    assert_close(run_reference(graph, inputs)["y"], inputs["x"] @ rounded + 3 * inputs["c"])


TABLE = """
graph main(%i: i64[{shape}]) {{
  %w: f32[50,{width}] = const random(1)
  %y = Gather(%w, %i)
  return %y
}}
"""


def test_a_table_becomes_rows_of_bytes() -> None:
    graph = graph_of(TABLE.format(shape="B,3", width=16))
    w = constant(graph, "w")
    report = pack_weights(graph, "int4:min=1")
    verify(graph)
    assert "Gather" in ops(graph)
    assert report.layers[0].format == "rows of int8"
    inputs = {"i": np.array([[0, 49, 7]])}
    found = compiled(graph).run(inputs)["y"]
    np.testing.assert_array_equal(found, run_reference(graph, inputs)["y"])
    assert np.abs(found - w[inputs["i"]]).max() <= np.abs(w).max() / 127


@pytest.mark.parametrize(("shape", "width"), [("B,3", 64), ("B", 40), ("", 32)])
def test_a_table_of_four_bits(shape: str, width: int) -> None:
    graph = graph_of(TABLE.format(shape=shape, width=width))
    w = constant(graph, "w")
    pack_weights(graph, "int8:tables=int4:min=1")
    verify(graph)
    dims = [4 if d == "B" else int(d) for d in shape.split(",") if d]
    indices = np.random.default_rng(0).integers(0, 50, dims)
    rounded = quantize(w.T, parse_spec("int4").format).values().T
    found = compiled(graph).run({"i": indices})["y"]
    np.testing.assert_array_equal(found, rounded[indices])
    np.testing.assert_array_equal(run_reference(graph, {"i": indices})["y"], found)


def test_a_tensor_read_twice_is_compressed_once() -> None:
    graph = graph_of("""
graph main(%x: f32[2,32]) {
  %w: f32[32,32] = const random(1)
  %y = MatMul(%x, %w)
  %z = MatMul(%y, %w)
  return %z
}
""")
    assert len(pack_weights(graph, "int4:min=1").layers) == 1
    assert ops(graph) == ["optc.MatMulPacked"] * 2


@pytest.mark.parametrize(
    ("x", "w", "node", "why"),
    [
        ("f32[32,2]", "f32[32,32] = const random(1)", "Gemm(%x, %w) {transA=1}", "transposed"),
        ("f32[32]", "f32[32,32] = const random(1)", "MatMul(%x, %w)", "a vector"),
        ("f32[3,2,32]", "f32[3,32,32] = const random(1)", "MatMul(%x, %w)", "no matrix"),
        ("f32[2,32]", "f32[32,32] = const inf", "MatMul(%x, %w)", "not finite"),
        ("i64[2]", "f32[32,32] = const random(1)", "Gather(%w, %x) {axis=1}", "not rows"),
    ],
)
def test_what_stays_float_and_why(x: str, w: str, node: str, why: str) -> None:
    graph = graph_of(f"graph main(%x: {x}) {{\n  %w: {w}\n  %y = {node}\n  return %y\n}}")
    before = ops(graph)
    report = pack_weights(graph, "int4:min=1")
    assert ops(graph) == before
    assert [reason for _, reason in report.left if why in reason]
    assert any(why in line for line in report.lines())


def test_small_and_other_tensors_are_passed_over() -> None:
    graph = graph_of(LAYER)
    assert not pack_weights(graph, "int4:min=100000").layers
    assert not pack_weights(graph, "int4:min=100000").left
    assert ops(graph) == ["MatMul", "Add", "Relu"]


def test_the_report_tells_size_and_noise() -> None:
    graph = graph_of(LAYER)
    report = pack_weights(graph, "int4:min=1")
    first, second = report.lines()
    assert report.bytes == (96 * 80 * 4, 96 * 80 // 2 + 3 * 80 * 2)
    assert first == "weights as int4:min=1: 1 tensors, 0.03 MB -> 0.00 MB (14.1%)"
    assert "(96x80): int4:block=32, signal to noise 2" in second


def test_as_a_pass_it_prints_and_reports() -> None:
    graph, ctx = graph_of(LAYER), PassContext()
    step = PackWeights("int4:block=64:min=1")
    assert parse_pipeline(pass_text(step)) == [step]
    assert run_passes(graph, [step], ctx)
    assert ctx.applied["pack-weights"] == 1
    assert "weights as int4" in ctx.notes[0]


def test_sums_are_fused_behind_the_codes() -> None:
    """Bias and activation are computed in the product's registers: one kernel."""
    from optc.backends.steps import Kernel
    from optc.backends.target import Target

    graph = graph_of(LAYER)
    pack_weights(graph, "int4:min=1")
    kernels = [s for s in cpu.lower(graph, Target.host()).steps if isinstance(s, Kernel)]
    assert len(kernels) == 1
    assert kernels[0].provenance.startswith("matmul_packed 4 bits")
