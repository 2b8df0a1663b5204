"""What import makes of constants, functions, bodies, dims and declared types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import assert_same, random_inputs, run_model, run_reference
from onnx import TensorProto, helper, numpy_helper, parser
from optc.compiler.ir import Graph
from optc.compiler.onnx.exporter import export_model
from optc.compiler.onnx.importer import import_model
from optc.compiler.types import DType, symbol
from optc.compiler.verify import verify


def imported(text: str, header: str = 'ir_version: 8, opset_import: ["" : 17]') -> Graph:
    graph = import_model(parser.parse_model(f"<{header}>\n{text}"))
    verify(graph)
    return graph


def model_with(tensor: TensorProto | onnx.SparseTensorProto) -> onnx.ModelProto:
    """y = Identity(w), w being the tensor."""
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [])
    graph.output.append(helper.make_empty_tensor_value_info("y"))
    if isinstance(tensor, TensorProto):
        graph.initializer.append(tensor)
    else:
        graph.sparse_initializer.append(tensor)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_sources_are_paths_bytes_and_protos(tmp_path: Path) -> None:
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (y) { y = Relu(x) }')
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    for source in (path, str(path), path.read_bytes(), model):
        assert_same(import_model(source), "graph g(%x: f32[2]) { %y = Relu(%x) return %y }")


# --- constants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    "dtype", ["f32", "f16", "bf16", "f64", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64", "bool"]
)
def test_initializers_of_every_dtype(dtype: str, raw: bool) -> None:
    array = np.array([[0, 1, 2], [3, 1, 0]]).astype(DType.from_text(dtype).numpy)
    tensor = helper.make_tensor("w", DType.from_text(dtype).value, array.shape,
                                array.tobytes() if raw else array.astype(np.float64).reshape(-1), raw=raw)  # fmt: skip
    (constant,) = import_model(model_with(tensor)).constants()
    assert constant.type.dtype is DType.from_text(dtype)
    np.testing.assert_array_equal(constant.data, array, strict=True)


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]])
def test_sparse_initializers_are_written_out(indices: list[int] | list[list[int]]) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = numpy_helper.from_array(np.array(indices), "w_places")
    (constant,) = import_model(model_with(helper.make_sparse_tensor(values, places, [2, 3]))).constants()
    np.testing.assert_array_equal(constant.data, [[0, 1, 0], [0, 0, 2]])


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("value_float = 0.5", "f32[] = const 0.5"),
        ("value_floats = [1.0, 2.0]", "f32[2] = const [1,2]"),
        ("value_int = 3", "i64[] = const 3"),
        ("value_ints = [1, 2]", "i64[2] = const [1,2]"),
        ("value = float[2] {1, 2}", "f32[2] = const [1,2]"),
    ],
)
def test_constant_nodes_become_constants(form: str, text: str) -> None:
    graph = imported(f"g () => (y) {{ c = Constant <{form}> () y = Neg(c) }}")
    assert_same(graph, f"graph g() {{ %c: {text}\n %y = Neg(%c) return %y }}")


def test_a_raw_constant_is_not_copied() -> None:
    graph = import_model(model_with(numpy_helper.from_array(np.zeros(100, np.float32), "w")))
    (constant,) = graph.constants()
    assert constant.data is not None
    assert not constant.data.flags.owndata
    assert not constant.data.flags.writeable


def test_initializers_that_are_inputs_become_constants() -> None:
    graph = imported("g (float[2] x, float[2] w) => (y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    assert [v.name for v in graph.inputs] == ["x"]
    assert graph.metadata["initializer_inputs"] == "w"


def test_unused_initializers_are_left_out() -> None:
    assert imported("g (float[2] x) => (y) <float[2] w = {1, 2}> { y = Neg(x) }").constants() == []


# --- dims ------------------------------------------------------------------------------------------------------------


def test_equal_dim_params_are_equal_symbols() -> None:
    graph = imported("g (float[N,S] x, float[S,N] z) => (y) { y = MatMul(x, z) }")
    n, s = symbol("N"), symbol("S")
    assert [v.type.shape for v in (*graph.inputs, *graph.outputs)] == [(n, s), (s, n), (n, n)]


def test_dim_params_become_identifiers_that_differ() -> None:
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[N,M,K,S] x) => (y) { y = Neg(x) }')
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, ["a b", "a-b", "3", "lambda"], strict=True):
        dim.dim_param = name
    (value,) = import_model(model).inputs
    assert value.type.shape == (symbol("a_b"), symbol("a_b_"), symbol("x_2"), symbol("lambda_"))


def test_dims_that_are_missing_negative_or_placeholders_get_symbols_of_their_own() -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, -1, "?", "?", 3])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [info],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])  # fmt: skip
    (value,) = import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).inputs
    assert value.type.shape == (*(symbol(f"x_{i}") for i in range(4)), 3)


def test_declared_types_that_contradict_are_overruled_with_a_warning() -> None:
    graph = imported("g (float[2,3] x) => (float[2,4] y) { y = Relu(x) }")
    assert graph.outputs[0].type.shape == (2, 3)
    assert graph.metadata["warnings"] == "y is declared f32[2, 4] and is f32[2, 3]"


# --- structure -------------------------------------------------------------------------------------------------------


def test_omitted_operands_and_results() -> None:
    graph = imported("g (float[4] x, float hi) => (y) { y = Clip(x, , hi) }")
    assert_same(graph, "graph g(%x: f32[4], %hi: f32[]) { %y = Clip(%x, _, %hi) return %y }")
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["", "h", ""], hidden_size=5)
    shapes = {"x": [4, 2, 3], "w": [1, 20, 3], "r": [1, 20, 5]}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    output = helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 2, 5])
    model = helper.make_model(
        helper.make_graph([lstm], "g", inputs, [output]), opset_imports=[helper.make_opsetid("", 17)]
    )
    graph = import_model(model)
    verify(graph)
    (node,) = graph.nodes
    assert graph.outputs == (node.outputs[1],)
    assert list(export_model(graph).graph.node[0].output) == ["", "h"]


def test_functions_are_inlined_with_their_attributes() -> None:
    text = """g (float[2] x) => (y) { [call] y = local.scale <by = 3.0> (x) }
    <domain: "local", opset_import: ["" : 17]>
    scale <by: float = 2.0, slope: float = 0.25> (a) => (c) {
      k = Constant <value_float: float = @by> ()
      b = LeakyRelu <alpha: float = @slope> (a)
      c = Mul(b, k)
    }"""
    graph = imported(text, 'ir_version: 8, opset_import: ["" : 17, "local" : 1]')
    assert_same(
        graph,
        """graph g(%x: f32[2]) {
          %k: f32[] = const 3.0
          %b = LeakyRelu(%x) {alpha=0.25}
          %y = Mul(%b, %k)
          return %y
        }""",
    )
    assert graph.outputs[0].name == "y"


def test_a_function_called_twice_and_with_an_omitted_operand() -> None:
    text = """g (float[2] x) => (y) { a = local.f(x, ) y = local.f(a, ) }
    <domain: "local", opset_import: ["" : 17]> f (p, q) => (r) { t = Neg(p) r = Clip(t, , q) }"""
    graph = imported(text, 'ir_version: 8, opset_import: ["" : 17, "local" : 1]')
    assert [n.op for n in graph.nodes] == ["Neg", "Clip", "Neg", "Clip"]


def test_bodies_capture_and_shadow() -> None:
    text = """g (bool c, float[3] x) => (y) {
      a = Neg(x)
      y = If (c) <then_branch = t () => (p) { p = Abs(a) }, else_branch = e () => (p) { p = Relu(a) }>
    }"""
    assert_same(
        imported(text),
        """graph g(%c: bool[], %x: f32[3]) {
          %a = Neg(%x)
          %y = If(%c) {then_branch=graph t() { %p = Abs(%a) return %p },
                       else_branch=graph e() { %q = Relu(%a) return %q }}
          return %y
        }""",
    )


def test_a_branch_never_taken_need_not_fit() -> None:
    text = """g (float[N,3] x) => (y) {
      shape = Shape(x)
      one = Constant <value_int = 1> ()
      columns = Gather(shape, one)
      narrow = Equal(columns, one)
      y = If (narrow) <then_branch = t () => (p) { axis = Constant <value_ints = [1]> () p = Squeeze(x, axis) },
                       else_branch = e () => (q) { q = Identity(x) }>
    }"""
    assert imported(text).outputs[0].type.shape == (symbol("N"), 3)


@pytest.mark.parametrize("declared", ["float[2] v, bool go", ""])
def test_loops(declared: str) -> None:
    text = """g (int64 n, float[2] x) => (y, ys) {
      go = Constant <value = bool {1}> ()
      y, ys = Loop (n, go, x) <body = b (int64 i, bool c, float[2] v) => (bool c2, float[2] w, float[2] s) {
        c2 = Identity(c)
        w = Add(v, v)
        s = Neg(v)
      }>
    }"""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    if not declared:  # a body's inputs need not declare types
        for info in next(n for n in model.graph.node if n.op_type == "Loop").attribute[0].g.input[2:]:
            info.ClearField("type")
    graph = import_model(model)
    inputs = {"n": np.array(3), "x": np.array([1, 2], np.float32)}
    found = run_reference(graph, inputs)
    np.testing.assert_array_equal(found["y"], [8, 16])
    np.testing.assert_array_equal(found["ys"], [[-1, -2], [-2, -4], [-4, -8]])


def test_an_op_without_a_class_is_expanded_by_its_function_body(monkeypatch: pytest.MonkeyPatch) -> None:
    from optc.compiler.ops import load_all
    from optc.compiler.ops.base import OPS

    load_all()
    text = "g (float[4] x) => (y, z) { y = Celu <alpha = 0.5> (x) z = HardSwish(y) }"
    plain = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for op in ("Celu", "HardSwish"):
        monkeypatch.delitem(OPS, op)
    graph = import_model(plain)
    assert not {"Celu", "HardSwish"} & {n.op for n in graph.nodes}
    inputs = random_inputs(graph)
    expected, found = run_model(plain.SerializeToString(), inputs), run_reference(graph, inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6)


def test_an_op_is_expanded_by_the_body_that_its_types_give(monkeypatch: pytest.MonkeyPatch) -> None:
    from optc.compiler.ops import load_all
    from optc.compiler.ops.base import OPS

    load_all()
    monkeypatch.delitem(OPS, "Softmax")
    graph = imported("g (float[2,3] x) => (y) { y = Softmax <axis = 0> (x) }")
    assert "Softmax" not in {n.op for n in graph.nodes}
    (x,) = random_inputs(graph).values()
    expected = np.exp(x) / np.exp(x).sum(0)
    np.testing.assert_allclose(run_reference(graph, {"x": x})["y"], expected, rtol=1e-6)


def test_nodes_know_their_origin() -> None:
    (node,) = imported("g (float[2] x) => (y) { [here] y = Relu(x) }").nodes
    assert node.loc.names == ("here",)
