"""Reductions against float64 numpy and onnx.reference."""

from __future__ import annotations

import numpy as np
import pytest
from optc.backends.base import KERNEL_BUILDERS
from optc.backends.jit import jit
from optc.backends.kernels import builders
from optc.backends.kernels.context import BuildContext
from optc.backends.target import Target
from optc.compiler.ir import Graph
from optc.compiler.types import DType, TensorType, symbol

from .harness import check_node, node_of, run_node

RNG = np.random.default_rng(3)
OPS = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"]


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("op", OPS)
def test_axes(op: str, axes: tuple[int, ...]) -> None:
    x = RNG.uniform(0.5, 1.5, (3, 7, 83)).astype(np.float32)
    check_node(f"Reduce{op}", [x, i64(*axes)], {"keepdims": 0}, constant=[1], rtol=2e-5)


@pytest.mark.parametrize("shape", [(2, 5, 160), (2, 160, 5), (160, 3, 2), (1, 1, 1)])
@pytest.mark.parametrize("op", ["Sum", "Max"])
def test_many_vectors(op: str, shape: tuple[int, ...]) -> None:
    x = RNG.standard_normal(shape).astype(np.float32)
    for axis in range(3):
        check_node(f"Reduce{op}", [x, i64(axis)], constant=[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float64, np.float16])
@pytest.mark.parametrize("op", ["Sum", "Max", "Min"])
def test_dtypes(op: str, dtype: type) -> None:
    if op == "Sum" and dtype is np.uint8:
        dtype = np.uint32
    x = RNG.integers(0, 9, (4, 37)).astype(dtype)
    check_node(f"Reduce{op}", [x, i64(1)], constant=[1], rtol=1e-3)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_nan_wins(op: str) -> None:
    x = RNG.standard_normal((40, 33)).astype(np.float32)
    x[7, 5] = np.nan
    for axis in (0, 1):
        (y,) = run_node(node_of(f"Reduce{op}", [x, i64(axis)], {"keepdims": 0}, [1]), [x, i64(axis)])
        np.testing.assert_array_equal(y, getattr(np, op.lower())(x, axis=axis))


@pytest.mark.parametrize(("op", "expected"), [("Sum", 0.0), ("Prod", 1.0), ("Max", -np.inf), ("LogSum", -np.inf)])
def test_over_nothing(op: str, expected: float) -> None:
    x = np.zeros((2, 0), np.float32)
    (y,) = run_node(node_of(f"Reduce{op}", [x, i64(1)], {"keepdims": 0}, [1]), [x, i64(1)])
    np.testing.assert_array_equal(y, np.full(2, expected, np.float32))


def test_no_axes_and_noop_reduces_nothing() -> None:
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    (y,) = run_node(node_of("ReduceSumSquare", [x, i64()], {"noop_with_empty_axes": 1}, [1]), [x, i64()])
    np.testing.assert_allclose(y, x * x)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_symbolic_dims(axis: int) -> None:
    builders.load_all()
    n, m, k = symbol("n"), symbol("m"), symbol("k")
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (n, m, k)))
    node = graph.emit("ReduceMax", [x, graph.constant(i64(axis))], {"keepdims": 0})
    kernel = jit({"f": KERNEL_BUILDERS[node.op](node, BuildContext(Target.host()))})["f"]
    for shape in [(2, 3, 4), (5, 70, 67), (1, 200, 1)]:
        data = RNG.standard_normal(shape).astype(np.float32)
        y = np.empty(data.max(axis).shape, np.float32)
        kernel(data, i64(axis), y)
        np.testing.assert_array_equal(y, data.max(axis))


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_arg(op: str, axis: int, last: int) -> None:
    x = RNG.integers(0, 4, (6, 9)).astype(np.float32)
    check_node(op, [x], {"axis": axis, "select_last_index": last, "keepdims": 0})


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sum(exclusive: int, reverse: int) -> None:
    x = RNG.standard_normal((3, 8, 2)).astype(np.float32)
    check_node("CumSum", [x, np.int64(1)], {"exclusive": exclusive, "reverse": reverse}, constant=[1])
