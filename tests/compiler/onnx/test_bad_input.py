"""Models that must be refused, each with one clear message, or mended."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from optc.compiler.errors import ModelError, OptcError, ShapeError, UnsupportedError
from optc.compiler.onnx.importer import import_model
from optc.compiler.types import symbol


def model_of(text: str, header: str = 'ir_version: 8, opset_import: ["" : 17]') -> onnx.ModelProto:
    return parser.parse_model(f"<{header}>\n{text}")


SMALL = "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def refusal(source: object, error: type[OptcError] = ModelError) -> str:
    with pytest.raises(error) as caught:
        import_model(source)  # type: ignore[arg-type]
    return str(caught.value)


# --- files -----------------------------------------------------------------------------------------------------------


def test_truncated_file(tmp_path: Path) -> None:
    content = model_of(SMALL).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    assert "end too early" in refusal(tmp_path / "m.onnx")


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("this is not a model\n" * 10)
    assert "not an ONNX model" in refusal(tmp_path / "m.onnx")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert "the file is empty" in refusal(tmp_path / "m.onnx")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "m.onnx")
    assert "directory" in refusal(tmp_path)


def test_a_message_that_is_no_model() -> None:
    assert "not an ONNX model" in refusal(helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]).SerializeToString())
    assert "no graph" in refusal(b"")


def test_a_model_without_outputs() -> None:
    model = model_of(SMALL)
    del model.graph.output[:]
    assert "no outputs" in refusal(model)


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_cycle_names_its_nodes() -> None:
    model = model_of("g (float[3] x) => (float[3] y) { [first] a = Add(x, b) [second] b = Relu(a) y = Neg(b) }")
    message = refusal(model)
    assert "cycle" in message
    assert "first" in message
    assert "second" in message


def test_unsorted_nodes_are_sorted() -> None:
    model = model_of("g (float[3] x) => (float[3] y) { y = Neg(b) b = Relu(a) a = Abs(x) }")
    assert [n.op for n in import_model(model).nodes] == ["Abs", "Relu", "Neg"]


def test_a_body_that_reads_a_later_node_is_sorted_after_it() -> None:
    text = """g (bool c, float[3] x) => (float[3] y) {
      y = If (c) <then_branch = t () => (p) { p = Neg(a) }, else_branch = e () => (q) { q = Abs(x) }>
      a = Relu(x)
    }"""
    assert [n.op for n in import_model(model_of(text)).nodes] == ["Relu", "If"]


def test_missing_initializer_names_the_reader() -> None:
    message = refusal(model_of("g (float[3] x) => (float[3] y) { [adder] y = Add(x, w) }"))
    assert "adder" in message
    assert "'w'" in message


def test_undefined_output() -> None:
    assert "'y'" in refusal(model_of("g (float[3] x) => (float[3] y) { z = Relu(x) }"))


@pytest.mark.parametrize(
    "text",
    [
        "g (float[3] x) => (float[3] y) { y = Relu(x) y = Abs(x) }",
        "g (float[3] x) => (float[3] y) { x = Relu(x) y = Abs(x) }",
        "g (float[3] x, float[3] x) => (float[3] y) { y = Relu(x) }",
        "g (float[3] x) => (float[3] y, float[3] y) { y = Relu(x) }",
        "g (float[3] x) => (float[3] y) <float w = {1}, float w = {2}> { y = Relu(x) }",
    ],
)
def test_duplicate_names(text: str) -> None:
    refusal(model_of(text))


def test_wrong_shapes_name_the_node() -> None:
    message = refusal(model_of("g (float[3,4] x, float[5,6] w) => (y) { [product] y = MatMul(x, w) }"), ShapeError)
    assert "product" in message


def test_nan_weights_are_warned_of() -> None:
    model = model_of("g (float[1] x) => (y) { y = Add(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.array([np.nan], np.float32), "w"))
    assert import_model(model).metadata["warnings"] == "constant w holds NaN"


def test_zero_size_dims_are_accepted() -> None:
    graph = import_model(model_of("g (float[0,3] x) => (float[0,3] y) { y = Relu(x) }"))
    assert graph.outputs[0].type.shape == (0, 3)


# --- constants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["raw_data", "float_data"])
def test_constant_with_too_little_data_is_refused_before_allocation(field: str) -> None:
    model = model_of("g (float[1] x) => (y) { y = Add(x, w) }")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40])
    setattr(tensor, field, b"\0" * 8) if field == "raw_data" else tensor.float_data.extend([1.0])
    model.graph.initializer.append(tensor)
    assert "wrong amount of data" in refusal(model)


def test_constant_with_negative_dims() -> None:
    model = model_of("g (float[1] x) => (y) { y = Add(x, w) }")
    model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-1], raw_data=b""))
    assert "negative" in refusal(model)


def test_sparse_constant_with_wrong_indices() -> None:
    model = model_of("g (float[4] x) => (y) { y = Add(x, w) }")
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("w_indices", TensorProto.INT64, [1], [9])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    assert "indices" in refusal(model)


# --- external data ---------------------------------------------------------------------------------------------------


def with_external(folder: Path, location: str, offset: int = 0, length: int | None = 12) -> Path:
    """A model in `folder` whose constant w, f32[3], lies in a file."""
    model = model_of("g (float[3] x) => (float[3] y) { y = Add(x, w) }")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(tensor)
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_external_data_is_mapped_not_read(tmp_path: Path) -> None:
    path = with_external(tmp_path, "sub/w.bin", offset=4)
    (tmp_path / "sub").mkdir()
    np.arange(5, dtype=np.float32).tofile(tmp_path / "sub/w.bin")
    (constant,) = import_model(path).constants()
    assert constant.data is not None
    assert isinstance(constant.data.base, np.memmap)
    assert not constant.data.flags.writeable
    np.testing.assert_array_equal(constant.data, [1, 2, 3])


@pytest.mark.parametrize("location", ["../w.bin", "sub/../../w.bin", "/etc/passwd", "", "C:\\w.bin", "..\\w.bin"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    np.zeros(3, np.float32).tofile(tmp_path / "w.bin")
    assert "below the model's folder" in refusal(with_external(tmp_path / "model", location))


def test_external_data_behind_a_link_that_leads_out(tmp_path: Path) -> None:
    np.zeros(3, np.float32).tofile(tmp_path / "secret")
    path = with_external(tmp_path / "model", "w.bin")
    os.symlink(tmp_path / "secret", tmp_path / "model/w.bin")
    assert "leads out" in refusal(path)


def test_external_data_below_a_linked_folder_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    np.zeros(3, np.float32).tofile(tmp_path / "other/w.bin")
    path = with_external(tmp_path / "model", "sub/w.bin")
    os.symlink(tmp_path / "other", tmp_path / "model/sub")
    assert "leads out" in refusal(path)


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [(8, 12, "too short"), (-4, 12, "too short"), (0, 8, "length does not fit"), (1 << 62, None, "too short")],
)
def test_external_data_beyond_the_file(tmp_path: Path, offset: int, length: int | None, message: str) -> None:
    np.zeros(3, np.float32).tofile(tmp_path / "w.bin")
    assert message in refusal(with_external(tmp_path, "w.bin", offset, length))


def test_external_data_that_is_missing_or_has_no_folder(tmp_path: Path) -> None:
    path = with_external(tmp_path, "w.bin")
    assert "no such file" in refusal(path)
    assert "Give the path" in refusal(path.read_bytes())


# --- not supported ---------------------------------------------------------------------------------------------------


def test_every_unsupported_node_is_named_at_once() -> None:
    text = """g (float[3] x) => (float[3] y) {
      [one] a = com.acme.Mystery(x)
      [two] s = SequenceConstruct(a, a)
      [three] b = NoSuchOp(a)
      [four] y = StringConcat(b, b)
    }"""
    message = refusal(model_of(text, 'ir_version: 8, opset_import: ["" : 20, "com.acme" : 1]'), UnsupportedError)
    for part in (
        "4 things",
        "node one (com.acme.Mystery): unknown domain 'com.acme'",
        "node two (SequenceConstruct): sequence",
        "node three (NoSuchOp): no such op",
        "node four (StringConcat): string",
    ):
        assert part in message


def test_unsupported_nodes_of_bodies_and_functions_are_named() -> None:
    text = """g (bool c, float[3] x) => (float[3] y) {
      z = local.f(x)
      y = If (c) <then_branch = t () => (p) { [inner] p = NoSuchOp(z) }, else_branch = e () => (q) { q = Abs(x) }>
    }
    <domain: "local", opset_import: ["" : 17]> f (a) => (b) { [deep] b = Nonsense(a) }"""
    message = refusal(model_of(text, 'ir_version: 8, opset_import: ["" : 17, "local" : 1]'), UnsupportedError)
    assert "node inner (NoSuchOp)" in message
    assert "node deep (Nonsense in function f)" in message


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("seq(float[3]) x", "input x: sequence types"),
        ("optional(float[3]) x", "input x: optional types"),
        ("string[3] x", "input x: string tensors"),
        ("float8e4m3fn[3] x", "input x: element type FLOAT8E4M3FN"),
        ("int4[3] x", "input x: element type INT4"),
    ],
)
def test_types_that_are_not_supported(declared: str, message: str) -> None:
    assert message in refusal(model_of(f"g ({declared}) => (y) {{ y = Identity(x) }}"), UnsupportedError)


def test_opsets_out_of_range() -> None:
    assert "too new" in refusal(model_of(SMALL, 'ir_version: 8, opset_import: ["" : 99]'), UnsupportedError)
    old = model_of("g (float[3] x) => (y) { [old] y = Add(x, x) }", 'ir_version: 3, opset_import: ["" : 6]')
    assert "node old (Add): its form of opset 6" in refusal(old, UnsupportedError)


def test_an_op_unchanged_since_opset_1_is_read_at_opset_1() -> None:
    graph = import_model(model_of("g (bool[3] x) => (y) { y = Not(x) }", 'ir_version: 3, opset_import: ["" : 1]'))
    assert [n.op for n in graph.nodes] == ["Not"]


def test_a_function_that_calls_itself() -> None:
    text = """g (float[3] x) => (float[3] y) { y = local.f(x) }
    <domain: "local", opset_import: ["" : 17, "local" : 1]> f (a) => (b) { b = local.f(a) }"""
    assert "calls itself" in refusal(model_of(text, 'ir_version: 8, opset_import: ["" : 17, "local" : 1]'))


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (2, 4)}, "contradicts"),
        ({"x": (2, 3), "z": (5,)}, "contradicts"),
        ({"x": (2, 3, 1)}, "wrong rank"),
        ({"q": (2, 3)}, "one of x, z"),
    ],
)
def test_given_shapes_that_contradict(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    model = model_of("g (float[N,3] x, float[N] z) => (y, w) { y = Relu(x) w = Relu(z) }")
    with pytest.raises(ShapeError, match=message):
        import_model(model, shapes=shapes)


def test_a_given_shape_binds_its_symbol_everywhere() -> None:
    model = model_of("g (float[N,3] x, float[N,M] z) => (y, w) { y = Relu(x) w = Relu(z) }")
    graph = import_model(model, shapes={"x": (7, 3)})
    assert [v.type.shape for v in graph.outputs] == [(7, 3), (7, symbol("M"))]
