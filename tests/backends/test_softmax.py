"""Softmax and log-softmax against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import softmax
from optc.backends.kernels.softmax import SoftmaxSpec
from optc.backends.target import Target
from tvm import tirx


def run(spec: SoftmaxSpec, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, np.nan)
    jit({"f": softmax.build(spec, next(iter(softmax.plans(spec, Target.host()))))})["f"](x, y)
    return y


def exact(x: np.ndarray, log: bool) -> np.ndarray:
    shifted = x.astype("float64") - x.max(axis=1, keepdims=True)
    result = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result if log else np.exp(result)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 7), (2, 1003)])
def test_rows(rows: int, columns: int, symbolic: bool, log: bool) -> None:
    x = 5 * np.random.default_rng(0).standard_normal((rows, columns), dtype="float32")
    dims = (tirx.Var("r", "int64"), tirx.Var("c", "int64")) if symbolic else (rows, columns)
    np.testing.assert_allclose(run(SoftmaxSpec(*dims, log), x), exact(x, log), rtol=2e-6, atol=4e-6)


def test_large_values_do_not_overflow() -> None:
    x = np.array([[1e4, 1e4 - 1, -1e4], [-3e38, 3e38, 0.0]], "float32")
    np.testing.assert_allclose(run(SoftmaxSpec(2, 3), x), exact(x, False), rtol=1e-6)


def test_masked_entries_become_zero() -> None:
    x = np.array([[0.0, -np.inf, 1.0, -np.inf]], "float32")
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(run(SoftmaxSpec(1, 4), x), exact(x, False), rtol=1e-6)
