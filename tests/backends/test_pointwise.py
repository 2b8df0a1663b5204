"""Groups of nodes as one kernel."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from optc.backends.kernels.pointwise import build_group
from optc.backends.target import Target
from optc.compiler.errors import UnsupportedError
from optc.compiler.ir import Graph
from optc.compiler.types import DType, TensorType, symbol

from .harness import run_graph

RNG = np.random.default_rng(0)


def _graph(*inputs: tuple[DType, tuple]) -> Graph:
    graph = Graph()
    for number, (dtype, shape) in enumerate(inputs):
        graph.add_input(f"x{number}", TensorType(dtype, shape))
    return graph


def _data(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _relu_of_sum(graph: Graph) -> None:
    total = graph.emit("Add", list(graph.inputs)).output
    graph.set_outputs([graph.emit("Relu", [total]).output])


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("bias", [(5, 1, 1), (37,), (1,), (3, 5, 7, 37)])
def test_chain_with_broadcast(bias: tuple[int, ...], parallel: bool) -> None:
    graph = _graph((DType.F32, (3, 5, 7, 37)), (DType.F32, bias))
    _relu_of_sum(graph)
    x, b = _data(3, 5, 7, 37), _data(*bias)
    (y,) = run_graph(graph, [x, b], [x.shape], parallel=parallel)
    np.testing.assert_array_equal(y, np.maximum(x + b, 0))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("size", [1, 5, 64])
def test_symbolic_dims(size: int, parallel: bool) -> None:
    n = symbol("n")
    graph = _graph((DType.F32, (n, 33)), (DType.F32, (n, 1)))
    _relu_of_sum(graph)
    x, b = _data(size, 33), _data(size, 1)
    (y,) = run_graph(graph, [x, b], [x.shape], parallel=parallel)
    np.testing.assert_array_equal(y, np.maximum(x + b, 0))


def test_shared_values_are_computed_once_and_outputs_may_be_several() -> None:
    graph = _graph((DType.F32, (9, 21)))
    a = graph.emit("Sigmoid", [graph.inputs[0]]).output
    b = graph.emit("Mul", [a, graph.inputs[0]]).output
    graph.set_outputs([a, b])
    x = _data(9, 21)
    got = run_graph(graph, [x], [x.shape, x.shape])
    sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(got[0], sigmoid, rtol=1e-6)
    np.testing.assert_allclose(got[1], sigmoid * x, rtol=1e-6)


def test_scalar_constants_become_immediates() -> None:
    graph = _graph((DType.F32, (4,)))
    half = graph.constant(np.float32(0.5))
    out = graph.emit("Mul", [graph.inputs[0], half]).output
    built = build_group(list(graph.nodes), [*graph.inputs, half], [out], Target.host())
    assert built.inputs == (graph.inputs[0],)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_round_to_nearest_even(dtype: type) -> None:
    kind = DType.from_numpy(dtype)
    graph = _graph((kind, (3, 50)), (kind, (50,)))
    graph.set_outputs([graph.emit("Mul", list(graph.inputs)).output])
    x, b = _data(3, 50).astype(dtype), _data(50).astype(dtype)
    (y,) = run_graph(graph, [x, b], [x.shape])
    np.testing.assert_array_equal(y, x * b)


def test_concat_of_computed_parts() -> None:
    graph = _graph((DType.F32, (2, 3, 19)), (DType.F32, (2, 4, 19)))
    left = graph.emit("Neg", [graph.inputs[0]]).output
    joined = graph.emit("Concat", [left, graph.inputs[1]], {"axis": 1}).output
    graph.set_outputs([graph.emit("Relu", [joined]).output])
    a, b = _data(2, 3, 19), _data(2, 4, 19)
    (y,) = run_graph(graph, [a, b], [(2, 7, 19)])
    np.testing.assert_array_equal(y, np.maximum(np.concatenate([-a, b], 1), 0))


def test_concat_of_symbolic_parts() -> None:
    past = symbol("past")
    graph = _graph((DType.F32, (past, 6)), (DType.F32, (2, 6)))
    graph.set_outputs([graph.emit("Concat", list(graph.inputs), {"axis": 0}).output])
    a, b = _data(5, 6), _data(2, 6)
    (y,) = run_graph(graph, [a, b], [(7, 6)])
    np.testing.assert_array_equal(y, np.concatenate([a, b]))


@pytest.mark.parametrize("shape", [(64, 64), (3, 40, 48), (33, 57)])
def test_transpose_then_add(shape: tuple[int, ...]) -> None:
    order = tuple(reversed(range(len(shape))))
    graph = _graph((DType.F32, shape), (DType.F32, shape[::-1]))
    turned = graph.emit("Transpose", [graph.inputs[0]], {"perm": order}).output
    graph.set_outputs([graph.emit("Add", [turned, graph.inputs[1]]).output])
    a, b = _data(*shape), _data(*shape[::-1])
    (y,) = run_graph(graph, [a, b], [shape[::-1]])
    np.testing.assert_array_equal(y, a.T + b)


def test_padding_splits_into_parts_without_conditions() -> None:
    graph = _graph((DType.F32, (1, 6, 7, 16)))
    pads = graph.constant(np.array([0, 1, 2, 0, 0, 1, 1, 0]))
    graph.set_outputs([graph.emit("Pad", [graph.inputs[0], pads]).output])
    x = _data(1, 6, 7, 16)
    (y,) = run_graph(graph, [x], [(1, 8, 10, 16)])
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (1, 1), (2, 1), (0, 0))))


def test_reshape_inside_a_group() -> None:
    graph = _graph((DType.F32, (4, 6, 10)), (DType.F32, (24, 5, 2)))
    seen = graph.emit("Reshape", [graph.inputs[0], graph.constant(np.array([24, 5, 2]))]).output
    graph.set_outputs([graph.emit("Add", [seen, graph.inputs[1]]).output])
    a, b = _data(4, 6, 10), _data(24, 5, 2)
    (y,) = run_graph(graph, [a, b], [b.shape])
    np.testing.assert_array_equal(y, a.reshape(b.shape) + b)


def test_an_op_without_definition_is_refused() -> None:
    graph = _graph((DType.F32, (4, 4)))
    out = graph.emit("MatMul", [graph.inputs[0], graph.inputs[0]]).output
    with pytest.raises(UnsupportedError):
        build_group(list(graph.nodes), graph.inputs, [out], Target.host())
