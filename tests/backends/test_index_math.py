"""Pointwise definitions against onnx.reference, over dtypes."""

from __future__ import annotations

import numpy as np
import pytest

from .harness import check_node, node_of, run_node

RNG = np.random.default_rng(1)
X = (RNG.standard_normal((3, 41)) * 3).astype(np.float32)
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, 2.5, -0.5, 3e38, 1e-40], np.float32)
INTS = RNG.integers(-9, 9, (3, 41))

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Gelu",
]
DOMAIN = {"Acos": (-1, 1), "Asin": (-1, 1), "Atanh": (-0.99, 0.99), "Acosh": (1, 9), "Log": (0.01, 9), "Sqrt": (0, 9)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str, dtype: type) -> None:
    low, high = DOMAIN.get(op, (-6, 6))
    x = RNG.uniform(low, high, (3, 41)).astype(dtype)
    check_node(op, [x], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("op", ["Relu", "Neg", "Abs", "Sign", "Round", "Floor", "Ceil", "IsNaN", "IsInf", "Sqrt"])
def test_special_values(op: str) -> None:
    check_node(op, [SPECIAL])


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min", "Equal", "Less", "GreaterOrEqual"])
def test_binary(op: str, dtype: type) -> None:
    a, b = (RNG.integers(0, 90, shape).astype(dtype) for shape in ((3, 41), (41,)))
    check_node(op, [a, b])


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_integer_division_truncates(dtype: type) -> None:
    a, b = INTS.astype(dtype), np.where(INTS[::-1] == 0, 3, INTS[::-1]).astype(dtype)
    (y,) = run_node(node_of("Div", [a, b], {}, ()), [a, b])
    np.testing.assert_array_equal(y, np.trunc(a / b).astype(dtype))


def test_integer_division_does_not_trap() -> None:
    a, b = np.array([7, np.iinfo(np.int32).min], np.int32), np.array([0, -1], np.int32)
    (y,) = run_node(node_of("Div", [a, b], {}, ()), [a, b])
    assert y[0] == 0


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8])
def test_mod_of_integers(dtype: type, fmod: int) -> None:
    a, b = INTS.astype(dtype), np.where(INTS[::-1] == 0, 3, INTS[::-1]).astype(dtype)
    check_node("Mod", [a, b], {"fmod": fmod})


def test_mod_of_floats() -> None:
    check_node("Mod", [X, X[::-1].copy()], {"fmod": 1})


@pytest.mark.parametrize(("base", "exponent"), [("f4", "f4"), ("f4", "i8"), ("i4", "i4"), ("i8", "f4")])
def test_pow(base: str, exponent: str) -> None:
    a, b = np.arange(1, 9).astype(base), (np.arange(8) % 4).astype(exponent)
    check_node("Pow", [a, b])


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 3.0, -1.0, 2.5])
def test_pow_by_a_constant(exponent: float) -> None:
    check_node("Pow", [np.abs(X), np.float32(exponent)], constant=[1], rtol=1e-5)


@pytest.mark.parametrize("bounds", [(None, 1.0), (-1.0, None), (-1.0, 1.0)])
def test_clip_with_optional_bounds(bounds: tuple) -> None:
    check_node("Clip", [X, *(None if b is None else np.float32(b) for b in bounds)])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_variadic(op: str, count: int) -> None:
    check_node(op, [X + n for n in range(count)])


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_nan_wins(op: str) -> None:
    (y,) = run_node(node_of(op, [SPECIAL, SPECIAL[::-1].copy()], {}, ()), [SPECIAL, SPECIAL[::-1].copy()])
    np.testing.assert_array_equal(np.isnan(y), np.isnan(SPECIAL) | np.isnan(SPECIAL[::-1]))


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    check_node(op, [X > 0, X > 1])


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bit_shift(direction: str) -> None:
    check_node("BitShift", [np.array([16, 4, 1], np.uint8), np.array([1, 2, 3], np.uint8)], {"direction": direction})


def test_where() -> None:
    check_node("Where", [X > 0, X, np.float32([7.0])])


def test_prelu_with_slope_per_channel() -> None:
    check_node("PRelu", [X, np.linspace(0, 1, 41, dtype=np.float32)])


CASTS = ["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "uint16", "uint32", "bool"]


@pytest.mark.parametrize("to", CASTS)
@pytest.mark.parametrize("source", CASTS)
def test_cast(source: str, to: str) -> None:
    import onnx

    x = np.array([0, 1, 2, 3.7, 100.2]).astype(source)
    check_node("Cast", [x], {"to": onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to))})


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantize_and_dequantize_along_an_axis(dtype: type, axis: int) -> None:
    x = RNG.uniform(-20, 20, (4, 6)).astype(np.float32)
    scale = RNG.uniform(0.05, 0.2, x.shape[axis]).astype(np.float32)
    point = RNG.integers(0, 9, x.shape[axis]).astype(dtype)
    check_node("QuantizeLinear", [x, scale, point], {"axis": axis})
    check_node("DequantizeLinear", [x.astype(dtype), scale, point], {"axis": axis})


def test_batch_normalization() -> None:
    x = RNG.standard_normal((2, 5, 7)).astype(np.float32)
    scale, bias, mean, variance = RNG.uniform(0.5, 2, (4, 5)).astype(np.float32)
    check_node("BatchNormalization", [x, scale, bias, mean, variance])
