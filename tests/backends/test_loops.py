"""Kernels of single nodes as loops: contractions, pools, normalisations, the rest."""

from __future__ import annotations

import numpy as np
import optc.compiler.ops.nhwc  # noqa: F401  (registers the channels-last ops)
import pytest

from .harness import check_node, node_of, run_node

RNG = np.random.default_rng(4)


def data(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 1, 3, 4), (5, 4, 2))]
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], dtype: str) -> None:
    check_node("MatMul", [(data(*a) * 5).astype(dtype), (data(*b) * 5).astype(dtype)])


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm(trans: tuple[int, int]) -> None:
    a, b = (
        data(*((4, 3) if trans[0] else (3, 4)), dtype="float64"),
        data(*((5, 4) if trans[1] else (4, 5)), dtype="float64"),
    )
    attrs = {"transA": trans[0], "transB": trans[1], "alpha": 0.5, "beta": 2.0}
    check_node("Gemm", [a, b, data(5, dtype="float64")], attrs)


def test_matmul_integer() -> None:
    a, b = RNG.integers(0, 255, (3, 4)).astype("u1"), RNG.integers(-9, 9, (4, 5)).astype("i1")
    check_node("MatMulInteger", [a, b, np.uint8(7), np.int8(-2)])


@pytest.mark.parametrize("attrs", [{}, {"pads": [1, 2, 1, 0], "strides": [2, 1]}, {"dilations": [2, 1]}])
@pytest.mark.parametrize("group", [1, 2])
def test_conv(group: int, attrs: dict) -> None:
    w = data(4, 4 // group, 3, 2, dtype="float64")
    check_node("Conv", [data(2, 4, 7, 6, dtype="float64"), w, data(4, dtype="float64")], {"group": group, **attrs})


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_conv_with_automatic_padding(auto: str) -> None:
    check_node("Conv", [data(1, 1, 7, 6), data(1, 1, 3, 2)], {"auto_pad": auto, "strides": [2, 2]})


def test_conv_channels_last() -> None:
    x, w = data(1, 3, 6, 5), data(4, 3, 3, 3)
    (y,) = run_node(node_of("Conv", [x, w], {"pads": (1, 1, 1, 1)}, ()), [x, w])
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    (z,) = run_node(node_of("optc.Conv", [last, w], {"pads": (1, 1, 1, 1)}, ()), [last, w])
    np.testing.assert_allclose(z.transpose(0, 3, 1, 2), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "attrs", [{}, {"strides": [2, 3]}, {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 0]}]
)
def test_conv_transpose(attrs: dict) -> None:
    check_node("ConvTranspose", [data(1, 2, 4, 3), data(2, 3, 3, 2)], attrs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "equation", ["ij,jk->ik", "bij,bjk->bik", "ij->ji", "ii->i", "...ij,...jk->...ik", "ij,jk", "i,j->ij"]
)
def test_einsum(equation: str) -> None:
    shapes = {"bij": (2, 3, 3), "bjk": (2, 3, 3), "...ij": (2, 3, 3), "...jk": (3, 3), "i": (3,), "j": (4,)}
    terms = equation.split("->")[0].split(",")
    arrays = [data(*shapes.get(t, (3, 3))) for t in terms]
    check_node("Einsum", arrays, {"equation": equation}, rtol=1e-4)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pool(op: str, ceil: int) -> None:
    attrs = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": ceil}
    check_node(op, [data(1, 2, 7, 8)], attrs)


@pytest.mark.parametrize("order", [0, 1])
def test_max_pool_places(order: int) -> None:
    from optc.compiler.ir import Graph
    from optc.compiler.types import DType, TensorType

    x = data(1, 2, 4, 4)
    graph = Graph()
    value = graph.add_input("x", TensorType(DType.F32, x.shape))
    attrs = {"kernel_shape": (2, 2), "strides": (2, 2), "storage_order": order}
    best, place = run_node(graph.emit("MaxPool", [value], attrs, num_outputs=2), [x])
    flat = x if order == 0 else x.transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(np.ravel(flat)[place], best)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_along_any_axis(op: str, axis: int, dtype: str) -> None:
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    check_node(op, [data(3, 5, 4, dtype=dtype)], {"axis": axis}, rtol=tolerance, atol=tolerance)


def test_layer_normalization_with_statistics() -> None:
    arrays = [data(3, 4, 5, dtype="float64"), data(4, 5, dtype="float64"), data(4, 5, dtype="float64")]
    check_node("LayerNormalization", arrays, {"axis": 1}, rtol=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(p: int) -> None:
    x = data(3, 5)
    (y,) = run_node(node_of("LpNormalization", [x], {"axis": 1, "p": p}, ()), [x])
    np.testing.assert_allclose(y, x / np.linalg.norm(x, p, axis=1, keepdims=True), rtol=1e-5)


def test_instance_and_group_normalization() -> None:
    check_node("InstanceNormalization", [data(2, 3, 4, 5), data(3), data(3)], rtol=1e-4, atol=1e-5)
    check_node("GroupNormalization", [data(2, 4, 5), data(4), data(4)], {"num_groups": 2}, rtol=1e-4, atol=1e-5)


def test_lrn() -> None:
    x = data(1, 5, 3, 3)
    (y,) = run_node(node_of("LRN", [x], {"size": 3, "alpha": 0.5}, ()), [x])
    sums = np.stack([(x[:, max(c - 1, 0) : c + 2].astype("f8") ** 2).sum(1) for c in range(5)], 1)
    np.testing.assert_allclose(y, x / (1 + 0.5 / 3 * sums) ** 0.75, rtol=1e-5)


def test_dynamic_quantize_linear() -> None:
    check_node("DynamicQuantizeLinear", [data(3, 7)], outputs=3)


def test_dropout_at_inference_is_the_identity() -> None:
    check_node("Dropout", [data(3, 7)])
