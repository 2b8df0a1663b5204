"""Old forms of operators: each adapter's result computes, in ONNX Runtime, what the old form computes there."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import assert_same, random_inputs, run_model, run_reference
from onnx import TensorProto, helper
from optc.compiler.errors import UnsupportedError
from optc.compiler.onnx.importer import import_model
from optc.compiler.onnx.upgrade import _ADAPTERS, REPLACED
from optc.compiler.onnx.versions import schemas
from optc.compiler.types import DType
from optc.compiler.verify import verify

Shape = list[int | str]


def model_of(
    op: str,
    opset: int,
    shapes: list[Shape],
    attrs: dict[str, Any] | None = None,
    constants: dict[int, np.ndarray] | None = None,
    outputs: int = 1,
) -> onnx.ModelProto:
    """One node; operand i is a float input of shapes[i] or, where given, a constant."""
    constants = constants or {}
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for i, (n, s) in enumerate(zip(names, shapes, strict=True))
        if i not in constants
    ]
    results = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, **(attrs or {}))],
        "g",
        inputs,
        [helper.make_empty_tensor_value_info(r) for r in results],
        [onnx.numpy_helper.from_array(array, names[i]) for i, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


F4: Shape = [2, 3, 4, 6]
CASES: list[tuple[str, tuple[int, ...], list[Shape], dict[str, Any], dict[int, np.ndarray]]] = [
    ("Clip", (7, 10), [F4], {"min": -0.5, "max": 0.5}, {}),
    ("Clip", (7,), [F4], {"max": 0.5}, {}),
    ("Slice", (7, 9), [F4], {"starts": [1, 0], "ends": [3, -1], "axes": [2, 3]}, {}),
    ("Pad", (7, 10), [[2, 3]], {"pads": [0, 1, 2, 0], "value": 1.5}, {}),
    ("Pad", (7,), [[4, 3]], {"pads": [1, 1, 2, 0], "mode": "reflect"}, {}),
    ("Squeeze", (7, 11, 12), [[1, 3, 1]], {"axes": [0, 2]}, {}),
    ("Squeeze", (11,), [[1, 3, 1]], {}, {}),
    ("Unsqueeze", (7, 12), [[3]], {"axes": [0, 2]}, {}),
    ("Split", (7, 12), [[5, 4]], {"split": [2, 3], "axis": 0}, {}),
    ("Split", (7, 13, 17), [[6, 4]], {"axis": 0}, {}),
    ("TopK", (7, 9), [[3, 5]], {"k": 2, "axis": 1}, {}),
    ("ReduceSum", (7, 11, 12), [F4], {"axes": [1, -1] , "keepdims": 0}, {}),
    ("ReduceMean", (7, 13, 17), [F4], {"axes": [1, 2]}, {}),
    ("ReduceMax", (7, 12, 13), [F4], {}, {}),
    ("ReduceL2", (11, 13, 17), [F4], {"axes": [-1]}, {}),
    ("ReduceLogSumExp", (13,), [F4], {"axes": [0], "keepdims": 0}, {}),
    ("Softmax", (7, 11, 12), [F4], {}, {}),
    ("Softmax", (11,), [F4], {"axis": -2}, {}),
    ("Softmax", (12,), [[2, 3, 1, 1]], {"axis": 1}, {}),
    ("LogSoftmax", (7, 12), [["N", 3, 4]], {"axis": 1}, {}),
    ("Hardmax", (7, 12), [F4], {"axis": 2}, {}),
    ("Dropout", (7, 10, 11), [F4], {"ratio": 0.3}, {}),
    ("BatchNormalization", (7, 9, 13), [F4, [3], [3], [3], [3]], {"epsilon": 0.1}, {4: np.full(3, 2, np.float32)}),
    ("Upsample", (7, 8), [F4], {"scales": [1.0, 1.0, 2.0, 3.0]}, {}),
    ("Upsample", (7,), [F4], {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}, {}),
    ("Upsample", (9,), [F4, [4]], {}, {1: np.array([1, 1, 2, 1.5], np.float32)}),
    ("Resize", (10,), [F4, [4]], {"mode": "linear"}, {1: np.array([1, 1, 0.5, 3], np.float32)}),
    ("Resize", (10,), [F4, [4]], {}, {1: np.array([1, 1, 0.6, 3], np.float32)}),
    ("Resize", (10,), [F4, [4]], {}, {1: np.array([1, 1, 0.6, 0.4], np.float32)}),
    ("Resize", (10,), [F4, [4]], {}, {1: np.array([1, 1, 2, 2.5], np.float32)}),
    ("Resize", (11,), [F4, [0], [4]], {"coordinate_transformation_mode": "tf_half_pixel_for_nn",
      "nearest_mode": "floor"},
     {1: np.zeros(0, np.float32), 2: np.array([1, 1, 0.6, 2.5], np.float32)}),
    ("Resize", (11, 13), [F4, [0], [0], [4]], {"mode": "cubic"},
     {1: np.zeros(0, np.float32), 2: np.zeros(0, np.float32), 3: np.array([2, 3, 5, 9])}),
    ("Scatter", (9,), [[3, 3], [2, 3], [2, 3]], {"axis": 0}, {1: np.array([[1, 0, 2], [0, 2, 1]])}),
    ("GridSample", (16,), [F4, [2, 5, 5, 2]], {"mode": "bilinear"}, {}),
    ("GridSample", (16,), [F4, [2, 5, 5, 2]], {"mode": "bicubic", "align_corners": 1}, {}),
    ("RoiAlign", (10,), [[1, 2, 8, 8], [2, 4], [2]], {"output_height": 3, "output_width": 3},
     {1: np.array([[0, 0, 5, 5], [1, 2, 7, 6]], np.float32), 2: np.zeros(2, np.int64)}),
    ("DFT", (17,), [[2, 8, 4, 1]], {"axis": 1}, {}),
    ("DFT", (17,), [[2, 8, 4, 1]], {}, {}),
    ("GRU", (7, 13), [[4, 2, 3], [1, 15, 3], [1, 15, 5]], {"hidden_size": 5}, {}),
    ("OneHot", (9,), [[3], [], [2]], {}, {0: np.array([0, 2, 1]), 1: np.array(3), 2: np.array([0, 1], np.float32)}),
    ("MaxPool", (7, 8, 11), [F4], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}, {}),
    ("AveragePool", (7, 10), [F4], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, {}),
    ("PRelu", (7, 9), [F4, [3, 1, 1]], {}, {}),
    ("Gemm", (7, 9, 11), [[4, 3], [5, 3], [5]], {"transB": 1, "alpha": 0.5}, {}),
]  # fmt: skip
OUTPUTS = {"Split": 2, "TopK": 2}


@pytest.mark.parametrize(
    ("op", "opset", "shapes", "attrs", "constants"),
    [pytest.param(op, v, *rest, id=f"{op}-{v}-{i}") for i, (op, vs, *rest) in enumerate(CASES) for v in vs],
)
def test_old_form_computes_the_same(
    op: str, opset: int, shapes: list[Shape], attrs: dict[str, Any], constants: dict[int, np.ndarray]
) -> None:
    model = model_of(op, opset, shapes, attrs, constants, OUTPUTS.get(op, 1))
    graph = import_model(model)
    verify(graph)
    inputs = random_inputs(graph)
    expected, found = run_model(model.SerializeToString(), inputs), run_reference(graph, inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6, strict=True)


def test_group_norm_scale_per_group() -> None:
    """onnx.reference, since ONNX Runtime's GroupNormalization 18 is another."""
    constants = {1: np.array([1, 2], np.float32), 2: np.array([3, 4], np.float32)}
    graph = import_model(model_of("GroupNormalization", 18, [[2, 4, 3], [2], [2]], {"num_groups": 2}, constants))
    x = random_inputs(graph)["x0"]
    groups = x.reshape(2, 2, 6)
    normal = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    expected = normal * constants[1].reshape(1, 2, 1) + constants[2].reshape(1, 2, 1)
    np.testing.assert_allclose(run_reference(graph, {"x0": x})["y0"], expected.reshape(x.shape), rtol=1e-5, atol=1e-5)


def test_batch_norm_with_statistics_per_element() -> None:
    shapes: list[Shape] = [[2, 3, 4], [3, 4], [3, 4], [3, 4], [3, 4]]
    constants = {i: np.random.default_rng(i).random((3, 4)).astype(np.float32) for i in range(1, 5)}
    graph = import_model(model_of("BatchNormalization", 7, shapes, {"spatial": 0}, constants))
    x = random_inputs(graph)["x0"]
    scale, bias, mean, var = constants.values()
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(run_reference(graph, {"x0": x})["y0"], expected, rtol=1e-5, atol=1e-5)


def test_dropout_mask_of_opset_7_has_the_dtype_of_the_data() -> None:
    graph = import_model(model_of("Dropout", 7, [[2, 3]], {"ratio": 0.3}, outputs=2))
    assert [v.type.dtype for v in graph.outputs] == [DType.F32, DType.F32]


def test_softmax_over_several_dims_becomes_three_nodes() -> None:
    assert_same(
        import_model(model_of("Softmax", 11, [[2, 3, 4]])),
        """graph g(%x: f32[2,3,4]) {
          %flat = Flatten(%x) {axis=1}
          %soft = Softmax(%flat) {axis=-1}
          %shape = Shape(%x)
          %y = Reshape(%soft, %shape)
          return %y
        }""",
    )


def test_softmax_over_the_last_dim_stays() -> None:
    assert_same(
        import_model(model_of("Softmax", 11, [["N", 10]])),
        "graph g(%x: f32[N,10]) { %y = Softmax(%x) {axis=1} return %y }",
    )


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (model_of("BatchNormalization", 9, [F4, [3], [3], [3], [3]], outputs=3), "training mode"),
        (model_of("Resize", 11, [F4, [0], [4]], {"coordinate_transformation_mode": "tf_half_pixel_for_nn"},
                  {1: np.zeros(0, np.float32), 2: np.ones(4, np.float32)}), "tf_half_pixel_for_nn"),
    ],
)  # fmt: skip
def test_what_has_no_newer_form_is_refused(model: onnx.ModelProto, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        import_model(model)


def _changes(old: Any, new: Any) -> list[str]:
    """What a new version of a schema takes away or gives another meaning."""
    found = [f"attribute {k} went" for k in old.attributes if k not in new.attributes]
    found += [
        f"default of {k} changed"
        for k, a in old.attributes.items()
        if k in new.attributes and str(a.default_value) != str(new.attributes[k].default_value)
    ]
    found += [
        f"attribute {k} is now required" for k, a in new.attributes.items() if k not in old.attributes and a.required
    ]
    if [i.name for i in old.inputs] != [i.name for i in new.inputs][: len(old.inputs)]:
        found.append("inputs moved")
    return found


def test_every_incompatible_change_since_opset_7_has_an_adapter() -> None:
    history: dict[str, list[Any]] = defaultdict(list)
    for name in {s.name for s in onnx.defs.get_all_schemas() if not s.domain} | set(REPLACED):
        versions = schemas("", name)
        history[name] = [s for s in versions if s.since_version <= 7][-1:] + [
            s for s in versions if s.since_version > 7
        ]
    missing = [
        f"{name} {new.since_version}: {change}"
        for name, versions in history.items()
        for old, new in itertools.pairwise(versions)
        for change in _changes(old, new)
        if not any(until >= new.since_version for until, _ in _ADAPTERS.get(name, []))
    ]
    assert missing == []
