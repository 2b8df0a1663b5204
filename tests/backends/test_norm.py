"""Layer and RMS normalisation against float64 numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import norm
from optc.backends.kernels.norm import NormSpec
from optc.backends.target import Target
from tvm import tirx

EPSILON = 1e-5


def exact(kind: str, x: np.ndarray) -> np.ndarray:
    x = x.astype("float64")
    x = x - x.mean(axis=1, keepdims=True) if kind == "layer" else x
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + EPSILON)


def compiled(spec: NormSpec) -> Any:
    return jit({"f": norm.build(spec, next(iter(norm.plans(spec, Target.host()))))})["f"]


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 30), (3, 768)])
def test_scale_and_bias(kind: Any, rows: int, columns: int, symbolic: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, columns), dtype="float32")
    scale, bias = rng.standard_normal((2, columns), dtype="float32")
    y = np.empty_like(x)
    dims = (tirx.Var("r", "int64"), tirx.Var("c", "int64")) if symbolic else (rows, columns)
    compiled(NormSpec(kind, *dims, EPSILON))(x, scale, bias, y)
    np.testing.assert_allclose(y, exact(kind, x) * scale + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_without_scale_and_bias(kind: Any) -> None:
    x = np.random.default_rng(0).standard_normal((3, 40), dtype="float32")
    y = np.empty_like(x)
    compiled(NormSpec(kind, 3, 40, EPSILON, scale=False, bias=False))(x, y)
    np.testing.assert_allclose(y, exact(kind, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_skip_connection_and_its_sum(kind: Any) -> None:
    rng = np.random.default_rng(0)
    x, skip = rng.standard_normal((2, 5, 70), dtype="float32")
    scale, bias = rng.standard_normal((2, 70), dtype="float32")
    y, total = np.empty_like(x), np.empty_like(x)
    compiled(NormSpec(kind, 5, 70, EPSILON, skip=True, keep_sum=True))(x, skip, scale, bias, y, total)
    np.testing.assert_array_equal(total, x + skip)
    np.testing.assert_allclose(y, exact(kind, x + skip) * scale + bias, rtol=1e-5, atol=1e-5)


def test_a_large_mean_loses_no_precision() -> None:
    x = np.random.default_rng(0).standard_normal((2, 256), dtype="float32") + np.float32(1000)
    y = np.empty_like(x)
    compiled(NormSpec("layer", 2, 256, EPSILON, scale=False, bias=False))(x, y)
    np.testing.assert_allclose(y, exact("layer", x), rtol=0, atol=2e-4)
