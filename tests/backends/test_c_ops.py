"""Every C op against ONNX's own node tests, and against bad values."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from c_harness import COpError, attributes, call, run_node
from onnx import TensorProto
from onnx.backend.test.loader import load_model_tests
from onnx.numpy_helper import to_array
from optc.backends.base import C_OPS
from optc.compiler.types import DType

# Results drawn by a generator of their own, tested below.
_RANDOM = {"Bernoulli", "Dropout"}
# The expected values hold rounding noise (1.9e-7) above their own tolerance (1e-7) where the result is exactly zero.
_NOISY = {"test_dft_inverse", "test_dft_inverse_opset19"}
# Their old forms reach the backend as another op, or with attributes moved to inputs.
_OLD_FORMS = ("_expanded", "test_dropout", "test_training")


def _single_node_cases() -> Iterator[Any]:
    with np.errstate(all="ignore"):
        cases = load_model_tests(kind="node")
    for case in cases:
        if any(form in case.name for form in _OLD_FORMS) or case.name in _NOISY or case.model is None:
            continue
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in C_OPS or nodes[0].op_type in _RANDOM or nodes[0].domain:
            continue
        if all(_is_plain(value) for value in (*case.model.graph.input, *case.model.graph.output)):
            yield pytest.param(case, id=case.name)


def _is_plain(value: Any) -> bool:
    kind = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0
    return kind in {d.value for d in DType} and kind != DType.STRING.value


@functools.cache
def _cases() -> list[Any]:
    return list(_single_node_cases())


@pytest.mark.parametrize("case", _cases())
def test_matches_the_node_tests_of_onnx(case: Any) -> None:
    node = case.model.graph.node[0]
    for data_set in case.data_sets:
        given, expected = (list(map(_array, part)) for part in data_set)
        arrays = iter(given)
        inputs = [next(arrays) if name else None for name in node.input]
        wanted = dict(zip((o.name for o in case.model.graph.output), expected, strict=True))
        first = next(iter(wanted.values()))
        dtypes = [DType.from_numpy(wanted.get(name, first).dtype) for name in node.output]
        ranks = [wanted.get(name, first).ndim for name in node.output]
        results = run_node(node.op_type, inputs, dtypes, ranks, **attributes(node))
        for name, result in zip(node.output, results, strict=True):
            if name in wanted:
                assert result.shape == wanted[name].shape
                _assert_close(result, wanted[name], case.rtol, case.atol)


def _array(value: Any) -> np.ndarray:
    return to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _assert_close(result: np.ndarray, expected: np.ndarray, rtol: float, atol: float) -> None:
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(result, expected)
    else:
        np.testing.assert_allclose(result.astype(np.float64), expected.astype(np.float64), rtol=rtol, atol=atol)


@pytest.mark.parametrize("n", [1, 2, 3, 12, 15, 64])
@pytest.mark.parametrize("onesided", [0, 1])
def test_dft_and_its_inverse_are_numpys(n: int, onesided: int) -> None:
    x = np.random.default_rng(n).standard_normal((2, n, 3, 1))
    (y,) = run_node("DFT", [x, None, np.array(1)], [DType.F64], onesided=onesided)
    full = np.fft.fft(x[..., 0], axis=1)
    expected = full[:, : n // 2 + 1] if onesided else full
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], expected, atol=1e-12)
    if n > 1:
        (back,) = run_node("DFT", [y, np.array(n), np.array(1)], [DType.F64], inverse=1, onesided=onesided)
        np.testing.assert_allclose(back[..., 0], x[..., 0], atol=1e-12)


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "message"),
    [
        ("Reshape", [np.zeros(6), np.array([4, -1])], {}, "6 elements do not fit shape"),
        ("Reshape", [np.zeros(6), np.array([-1, -1])], {}, "bad shape"),
        ("Expand", [np.zeros((2, 3)), np.array([2, 4])], {}, "does not broadcast"),
        ("Squeeze", [np.zeros((2, 3)), np.array([0])], {}, "has size 2"),
        ("Unsqueeze", [np.zeros(2), np.array([0, 0])], {}, "given twice"),
        ("Tile", [np.zeros(2), np.array([-1])], {}, "bad repeat"),
        ("Tile", [np.zeros(2), np.array([2**62])], {}, "out of memory|impossible|bad repeat"),
        ("ConstantOfShape", [np.array([2**40, 2**40])], {}, "impossible result shape"),
        ("ConstantOfShape", [np.array([-1])], {}, "impossible result shape"),
        ("Slice", [np.zeros(4), np.array([0]), np.array([4]), np.array([1])], {}, "axis 1 out of range"),
        ("Slice", [np.zeros(4), np.array([0]), np.array([4]), np.array([0]), np.array([0])], {}, "bad step"),
        ("Pad", [np.zeros(4), np.array([-3, -2])], {}, "do not fit"),
        ("Range", [np.array(0), np.array(4), np.array(0)], {}, "delta is zero"),
        ("Gather", [np.zeros(4), np.array([0, 4])], {}, r"index 4 out of range \[-4, 4\)"),
        ("GatherElements", [np.zeros(4), np.array([-5])], {}, "index -5 out of range"),
        ("GatherND", [np.zeros((2, 2)), np.array([[0, 2]])], {}, "index 2 out of range"),
        ("ScatterND", [np.zeros(4), np.array([[9]]), np.zeros(1)], {}, "index 9 out of range"),
        ("ScatterElements", [np.zeros(4), np.array([4]), np.zeros(1)], {}, "index 4 out of range"),
        ("OneHot", [np.array([1]), np.array(-2), np.zeros(2)], {}, "impossible result shape"),
        ("TopK", [np.zeros(4), np.array([5])], {}, "k = 5 out of range"),
        ("ReduceSum", [np.zeros((2, 2)), np.array([2])], {}, "axis 2 out of range"),
        ("CumSum", [np.zeros(4), np.array(1)], {}, "axis 1 out of range"),
        ("ReverseSequence", [np.zeros((4, 1)), np.array([5])], {}, "length 5 out of range"),
        ("Compress", [np.zeros(2), np.ones(3, bool)], {}, "3 conditions"),
        ("Det", [np.zeros((2, 3))], {}, "must be square"),
        ("MaxUnpool", [np.zeros((1, 1, 1)), np.full((1, 1, 1), 7)], {"kernel_shape": (2,)}, "index 7 out of range"),
    ],
)
def test_bad_values_are_refused(
    op: str, inputs: list[np.ndarray], attrs: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(COpError, match=message):
        run_node(op, inputs, [DType.F64], [1], **attrs)


def test_split_sizes_must_sum_to_the_axis() -> None:
    with pytest.raises(COpError, match="sizes sum to 3"):
        run_node("Split", [np.zeros(4), np.array([1, 2])], [DType.F64] * 2, axis=0)


def test_an_output_of_another_shape_than_promised_is_refused() -> None:
    selected = C_OPS["Size"]
    reshape = run_node("Reshape", [np.arange(6), np.array([2, 3])], [DType.I64])
    assert reshape[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert selected is not None
    from optc.backends.base import CCall

    c_call = CCall("optc_op_reshape", "shape.c", (0,))
    planned = [np.zeros((3, 2), np.int64)]
    with pytest.raises(COpError, match=r"result has shape \[2, 3\], the graph promises \[3, 2\]"):
        call(c_call, [np.arange(6), np.array([2, 3])], [DType.I64], planned)


def test_planned_outputs_are_written_in_place() -> None:
    from optc.backends.base import CCall

    planned = [np.zeros((2, 3), np.int64)]
    call(CCall("optc_op_reshape", "shape.c", (0,)), [np.arange(6), np.array([2, -1])], [DType.I64], planned)
    assert planned[0].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.int32, np.uint8])
def test_integer_extremes_reduce_exactly(dtype: type) -> None:
    x = np.array([[np.iinfo(dtype).max, np.iinfo(dtype).min, 3]], dtype)
    kind = [DType.from_numpy(dtype)]
    assert run_node("ReduceMax", [x, np.array([1])], kind, keepdims=0)[0].tolist() == [np.iinfo(dtype).max]
    assert run_node("ReduceMin", [x, np.array([1])], kind, keepdims=0)[0].tolist() == [np.iinfo(dtype).min]


def test_top_k_agrees_with_a_stable_sort() -> None:
    x = np.random.default_rng(0).integers(0, 5, (3, 40)).astype(np.float32)
    values, indices = run_node("TopK", [x, np.array([17])], [DType.F32, DType.I64])
    order = np.argsort(-x, axis=1, kind="stable")[:, :17]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))


def test_casts_to_half_round_once() -> None:
    x = np.array([1 + 2**-11 + 2**-30, 1 + 2**-11, 65519.99, 65520.0, 2**-25, 2**-25 * 1.001, np.nan], np.float64)
    (y,) = run_node("Cast", [x], [DType.F16])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y, x.astype(np.float16))


@pytest.mark.parametrize(("op", "mean"), [("RandomUniform", 0.5), ("RandomNormal", 0.0)])
def test_seeded_random_numbers_repeat_and_have_their_mean(op: str, mean: float) -> None:
    first, second = (run_node(op, [], [DType.F32], shape=(10000,), seed=3.0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert abs(first.mean() - mean) < 0.05
    assert not np.array_equal(run_node(op, [], [DType.F32], shape=(10000,), seed=4.0)[0], first)


def test_multinomial_follows_the_probabilities() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1]], np.float32))
    (drawn,) = run_node("Multinomial", [logits], [DType.I32], sample_size=20000, seed=1.0)
    shares = np.bincount(drawn[0], minlength=3) / 20000
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.02)


def test_dropout_in_training_scales_what_it_keeps() -> None:
    x = np.ones(10000, np.float32)
    dtypes = [DType.F32, DType.BOOL]
    y, mask = run_node("Dropout", [x, np.array(0.25, np.float32), np.array(True)], dtypes, seed=1.0)
    np.testing.assert_allclose(y, np.where(mask, 1 / 0.75, 0), rtol=1e-6)
    assert abs(mask.mean() - 0.75) < 0.03


def test_a_seed_draws_numpys_numbers() -> None:
    (drawn,) = run_node("RandomUniform", [], [DType.F64], shape=(1500,), seed=5.0)
    np.testing.assert_array_equal(drawn, np.random.RandomState(5).uniform(size=1500))
