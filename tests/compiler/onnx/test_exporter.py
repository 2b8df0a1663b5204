"""Export: names, opsets, dims, own ops, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import assert_same, graph_of, random_inputs, run_reference
from optc.compiler.errors import ArtifactError, UnsupportedError
from optc.compiler.ir import Graph, Node, Value
from optc.compiler.onnx.expand import EXPANSIONS, expands
from optc.compiler.onnx.exporter import export_model, save_model
from optc.compiler.onnx.importer import import_model
from optc.compiler.text import equal


def exported(text: str, opset: int | None = None) -> onnx.ModelProto:
    model = export_model(graph_of(text), opset=opset)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_export_is_the_inverse_of_import() -> None:
    graph = graph_of("""graph main(%x: f32[N,3], %c: bool[]) {
      %w: f32[3,4] = const random(1)
      %m = MatMul(%x, %w)
      %y = If(%c) {then_branch=graph t() { %p = Relu(%m) return %p }, else_branch=graph e() { %q = Abs(%m) return %q }}
      %z = Clip(%y, _, _)
      return %z as "out", %m
    }""")
    assert equal(graph, import_model(export_model(graph)), names=True)


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        ("Neg(%x)", 13),
        ("Relu(%x)", 13),
        ("Trilu(%x)", 14),
        ("LayerNormalization(%x, %s)", 17),
        ("Gelu(%x)", 20),
        ("Swish(%x)", 24),
        ("Reshape(%x, %i) {allowzero=0}", 13),
        ("Reshape(%x, %i) {allowzero=1}", 14),
        ("GroupNormalization(%x, %s, %s) {num_groups=1}", 21),
        ("Cast(%x) {to=bf16}", 13),
        ("ReduceMax(%x, %i)", 18),
        ("Mod(%x, %x) {fmod=1}", 13),
        ("Mod(%x, %x)", 28),
    ],
)
def test_the_lowest_opset_that_says_it(node: str, opset: int) -> None:
    text = f"""graph g(%x: f32[2,3]) {{
      %s: f32[3] = const 1
      %i: i64[1] = const [0]
      %y: f32[*] = {node}
      return %y
    }}"""
    assert export_model(graph_of(text)).opset_import[0].version == opset


def test_attributes_that_an_older_opset_lacks_are_left_out_if_they_say_nothing() -> None:
    text = "graph g(%x: f32[6]) { %i: i64[1] = const [6]\n %y = Reshape(%x, %i) {allowzero=0}\n return %y }"
    assert list(exported(text).graph.node[0].attribute) == []


def test_an_opset_that_is_too_old_names_the_node() -> None:
    with pytest.raises(UnsupportedError, match="y needs 20"):
        export_model(graph_of("graph g(%x: f32[2]) { %y = Gelu(%x) return %y }"), opset=17)


def test_an_older_reader_can_be_served_by_a_newer_opset() -> None:
    model = exported("graph g(%x: f32[2]) { %y = Neg(%x) return %y }", opset=21)
    assert model.opset_import[0].version == 21


@pytest.mark.parametrize(
    "body",
    [
        '%y = Neg(%x) return %y as "out"',
        '%y = Neg(%x) return %y as "a", %y as "b"',
        'return %x as "out"',
        "return %x",
        '%y = Neg(%x) return %y as "x2", %x',
        '%y = Neg(%x) %z = Abs(%y) return %z as "y"',
        '%c: f32[2] = const [1,2] return %c as "out"',
        '%c: f32[2] = const [1,2] return %c, %c as "d"',
        '%y = Neg(%x) %z = Abs(%y) return %y as "z", %z as "y"',
    ],
)
def test_outputs_keep_their_names_whatever_the_values_are_called(body: str) -> None:
    graph = graph_of(f"graph g(%x: f32[2]) {{ {body} }}")
    found = run_reference(graph, {"x": np.array([1, -2], np.float32)})
    assert list(found) == graph.output_names


def test_bodies_that_return_what_they_do_not_make() -> None:
    graph = graph_of("""graph g(%x: f32[2], %n: i64[], %c: bool[]) {
      %k: f32[2] = const [1,2]
      %a = If(%c) {then_branch=graph t() { return %x }, else_branch=graph e() { return %k }}
      %b = Loop(%n, %c, %x) {body=graph l(%i: i64[], %go: bool[], %v: f32[2]) { return %go, %v }}
      return %a, %b
    }""")
    inputs = {"x": np.array([5, 6], np.float32), "n": np.array(2), "c": np.array(False)}
    found = run_reference(graph, inputs)
    np.testing.assert_array_equal(found["a"], [1, 2])
    np.testing.assert_array_equal(found["b"], [5, 6])


def test_dims_are_written_as_names_and_expressions() -> None:
    model = exported("graph g(%x: f32[N,3,2*N+1]) { %y = NonZero(%x) return %y, %x }")
    dims = [[d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output]
    assert dims == [[3, 0], ["N", 3, "2*N+1"]]


def test_unread_optional_results_are_left_out() -> None:
    text = """graph g(%x: f32[1,1,4]) {
      %y, %where = MaxPool(%x) {kernel_shape=[2]}
      %p, %q = Split(%x) {axis=2, num_outputs=2}
      return %y, %q
    }"""
    pool, split = exported(text).graph.node
    assert list(pool.output) == ["y"]
    assert len(split.output) == 2


def test_own_ops_are_expanded_on_a_copy() -> None:
    @expands("optc.TestTwice", "optc.TestFourTimes")
    def _(graph: Graph, node: Node) -> list[Value]:
        """Four times is twice twice: an expansion may make own ops."""
        x = node.operand(0)
        if node.op == "optc.TestTwice":
            return [graph.emit("Add", [x, x], before=node).output]
        for _ in range(2):
            x = graph.emit("optc.TestTwice", [x], types=[x.type], before=node).output
        return [x]

    try:
        graph = graph_of("graph g(%x: f32[2]) { %y: f32[2] = optc.TestFourTimes(%x) return %y }")
        assert_same(
            import_model(export_model(graph)),
            "graph g(%x: f32[2]) { %a = Add(%x, %x) %y = Add(%a, %a) return %y }",
        )
        assert [n.op for n in graph.nodes] == ["optc.TestFourTimes"]
    finally:
        del EXPANSIONS["optc.TestTwice"], EXPANSIONS["optc.TestFourTimes"]


def test_own_ops_without_expansion_are_named() -> None:
    with pytest.raises(UnsupportedError, match=r"optc\.Odd \(node y\)"):
        export_model(graph_of("graph g(%x: f32[2]) { %y: f32[2] = optc.Odd(%x) return %y }"))


LARGE = """graph g(%x: f32[64,64]) {
  %w: f32[64,64] = const random(1)
  %b: f32[64] = const random(2)
  %m = MatMul(%x, %w)
  %y = Add(%m, %b)
  return %y
}"""


@pytest.mark.parametrize("external", [False, True, None])
def test_saved_models_load_back(tmp_path: Path, external: bool | None) -> None:
    graph = graph_of(LARGE)
    path = tmp_path / "m.onnx"
    save_model(graph, path, external=external)
    onnx.checker.check_model(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"] + ["m.onnx.data"] * bool(external)
    assert equal(graph, import_model(path), names=True)


def test_a_model_may_be_saved_over_the_files_it_is_mapped_from(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_model(graph_of(LARGE), path, external=True)
    save_model(import_model(path), path, external=True)
    assert equal(graph_of(LARGE), import_model(path))


def test_a_failed_save_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot write"):
        save_model(graph_of(LARGE), tmp_path / "no" / "m.onnx")
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(ArtifactError, match="cannot write"):
        save_model(graph_of(LARGE), tmp_path / "m.onnx", external=True)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_names_and_metadata_survive() -> None:
    model = exported('graph net(%"a b": f32[2]) { %"p/q::r" = Neg(%"a b") return %"p/q::r" }')
    assert (model.graph.name, model.graph.input[0].name, model.graph.output[0].name) == ("net", "a b", "p/q::r")
    model.metadata_props.add(key="author", value="me")
    assert {p.key: p.value for p in export_model(import_model(model)).metadata_props} == {"author": "me"}


def test_random_inputs_fit() -> None:
    graph = graph_of("graph g(%x: f32[N,2*N], %i: i64[3]) { return %x, %i }")
    assert [a.shape for a in random_inputs(graph, {"N": 5}).values()] == [(5, 10), (3,)]
