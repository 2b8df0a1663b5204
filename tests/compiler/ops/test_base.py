"""The registry, and the errors a user sees where types do not fit."""

from __future__ import annotations

import subprocess
import sys

import pytest
from optc.compiler.errors import ShapeError
from optc.compiler.ir import Graph
from optc.compiler.ops import load_all
from optc.compiler.ops.base import OPS
from optc.compiler.types import DType, TensorType, symbol

load_all()


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("MatMul", [(2, 3), (4, 5)], {}, "inner dims differ"),
        ("Gemm", [(2, 3), (4, 5)], {"transB": 1}, "inner dims differ"),
        ("Add", [(2, 3), (2, 4)], {}, "do not broadcast"),
        ("Conv", [(1, 3, 8, 8), (4, 2, 3, 3)], {}, "input channels do not fit"),
        ("Conv", [(1, 4, 8, 8), (3, 2, 3, 3)], {"group": 2}, "multiple of group"),
        ("Conv", [(1, 3, 2, 2), (4, 3, 3, 3)], {}, "larger than the padded input"),
        ("MaxPool", [(1, 3, 8, 8)], {"kernel_shape": (2,)}, "kernel_shape has the wrong length"),
        ("Concat", [(2, 3), (2, 3, 4)], {"axis": 0}, "one rank"),
        ("Concat", [(2, 3), (2, 4)], {"axis": 0}, "differ along axis 1"),
        ("Softmax", [(2, 3)], {"axis": 2}, "axis out of range"),
        ("Transpose", [(2, 3)], {"perm": (0, 0)}, "no permutation"),
        ("Einsum", [(2, 3), (4, 5)], {"equation": "ij,jk->ik"}, "do not broadcast"),
        ("DepthToSpace", [(1, 3, 4, 4)], {"blocksize": 2}, "multiple of blocksize"),
        ("BatchNormalization", [(1, 3, 4), (2,), (3,), (3,), (3,)], {}, "a value a channel"),
    ],
)
def test_what_does_not_fit_is_named(
    op: str, shapes: list[tuple[int, ...]], attrs: dict[str, object], message: str
) -> None:
    graph = Graph()
    inputs = [graph.add_input(f"x{i}", TensorType(DType.F32, s)) for i, s in enumerate(shapes)]
    with pytest.raises(ShapeError, match=message):
        graph.emit(op, inputs, attrs)


def test_dtypes_that_differ_are_named() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (2,)))
    y = graph.add_input("y", TensorType(DType.I64, (2,)))
    with pytest.raises(ShapeError, match="x: f32, y: i64"):
        graph.emit("Add", [x, y])


def test_symbols_that_may_be_equal_fit() -> None:
    graph = Graph()
    n, m = symbol("N"), symbol("M")
    x = graph.add_input("x", TensorType(DType.F32, (n, 3)))
    y = graph.add_input("y", TensorType(DType.F32, (m, 1)))
    z = graph.add_input("z", TensorType(DType.F32, (5, 3)))
    assert graph.emit("Sum", [x, y, z]).output.type.shape == (5, 3)


@pytest.mark.parametrize(
    ("attrs", "size"),
    [
        ({}, 6),
        ({"pads": (1, 1)}, 8),
        ({"strides": (2,)}, 3),
        ({"dilations": (3,)}, 2),
        ({"auto_pad": "SAME_UPPER", "strides": (3,)}, 3),
        ({"auto_pad": "VALID"}, 6),
        ({"ceil_mode": 1, "strides": (2,)}, 4),
        ({"ceil_mode": 1, "strides": (3,), "pads": (0, 2)}, 3),
    ],
)
def test_window_sizes(attrs: dict[str, object], size: int) -> None:
    for length in (8, symbol("L")):
        graph = Graph()
        x = graph.add_input("x", TensorType(DType.F32, (1, 1, length)))
        found = graph.emit("MaxPool", [x], {"kernel_shape": (3,), **attrs}).outputs[0].type.dims[2]
        assert (found if isinstance(found, int) else found.subs(symbol("L"), 8)) == size


def test_traits() -> None:
    pointwise = {name for name, op in OPS.items() if op.pointwise}
    assert {"Add", "Cast", "Clip", "Where", "Relu", "Gelu", "PRelu"} <= pointwise
    assert not pointwise & {"Softmax", "CumSum", "BatchNormalization"}
    assert {n for n, op in OPS.items() if op.view} >= {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
    assert {n for n, op in OPS.items() if op.anchor} >= {"Conv", "MatMul", "Gemm", "MaxPool", "Softmax", "LSTM"}
    assert not any(OPS[n].deterministic for n in ("RandomNormal", "RandomUniformLike", "Multinomial", "Dropout"))


def test_every_op_of_onnx_is_known_expanded_or_named() -> None:
    """An op that is neither known nor a function is of strings, sequences or encoded images, or deprecated."""
    import onnx

    left = {
        s.name
        for s in onnx.defs.get_all_schemas()
        if s.domain == "" and not (s.has_function or s.has_context_dependent_function) and s.name not in OPS
    }
    sequences = {n for n in left if "Sequence" in n or "Optional" in n}
    assert left - sequences == {
        "Constant", "ImageDecoder", "RegexFullMatch", "Scatter", "StringConcat", "StringNormalizer", "StringSplit",
        "TfIdfVectorizer",
    }  # fmt: skip


def test_loading_the_ops_needs_no_sympy() -> None:
    code = "import sys; from optc.compiler.ops import load_all; load_all(); assert 'sympy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
