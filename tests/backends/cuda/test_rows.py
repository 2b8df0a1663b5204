"""Kernels of a warp a row, emulated, against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optc.backends.cuda import rows
from optc.backends.cuda.target import CudaTarget
from optc.backends.kernels.attention import BHSD, BSHD, LOWEST, AttentionSpec
from optc.backends.kernels.norm import NormSpec
from optc.backends.kernels.softmax import SoftmaxSpec

from .emulation import load

TARGET = CudaTarget.of("cuda:sm_80")
SMALL = AttentionSpec(2, 4, 4, 5, 37, 32, 32, 0.2)
ATTENTION = {
    "plain": SMALL,
    "one_key": replace(SMALL, keys=1),
    "odd_sizes": replace(SMALL, size=7, value_size=50),
    "shared_heads": replace(SMALL, key_heads=2, layouts=(BSHD, BHSD, BSHD, BSHD)),
    "added": replace(SMALL, mask=(2, 1, 1, 37)),
    "added_to_rows": replace(SMALL, mask=(1, 4, 5, 1)),
    "hidden": replace(SMALL, mask=(1, 1, 5, 37), mask_value=LOWEST),
    "causal": replace(SMALL, queries=40, causal=True),
}
NORMS = {
    "layer": NormSpec("layer", 7, 70, 1e-5),
    "layer_alone": NormSpec("layer", 3, 64, 1e-5, scale=False, bias=False),
    "rms": NormSpec("rms", 5, 33, 1e-3, bias=False),
}
SOFTMAX = {"softmax": SoftmaxSpec(9, 45), "log_softmax": SoftmaxSpec(2, 5, True)}


@pytest.fixture(scope="module")
def run() -> Callable[..., None]:
    kernels: dict[str, Any] = {name: rows.build_attention(spec, None) for name, spec in ATTENTION.items()}
    kernels |= {name: rows.build_norm(spec, None) for name, spec in NORMS.items()}
    return load(kernels | {name: rows.build_softmax(spec) for name, spec in SOFTMAX.items()}, TARGET)


def swapped(x: np.ndarray, layout: str) -> np.ndarray:
    return np.ascontiguousarray(x.swapaxes(1, 2) if layout == BSHD else x)


def attention(spec: AttentionSpec, q: Any, k: Any, v: Any, mask: np.ndarray | None) -> np.ndarray:
    """In float64."""
    group = spec.heads // spec.key_heads
    k, v = (np.repeat(x.astype("float64"), group, axis=1) for x in (k, v))
    scores = spec.scale * q.astype("float64") @ k.swapaxes(2, 3)
    if mask is not None:
        scores = np.where(mask, scores, spec.mask_value) if spec.mask_value is not None else scores + mask
    if spec.causal:
        seen = np.tri(spec.queries, spec.keys, spec.keys - spec.queries, dtype=bool)
        scores = np.where(seen, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str, run: Callable[..., None]) -> None:
    """Rows that see no key become NaN, as softmax over minus infinities does."""
    spec, rng = ATTENTION[name], np.random.default_rng(0)
    lengths = (spec.heads, spec.queries, spec.size), (spec.key_heads, spec.keys, spec.size)
    shapes = (*lengths, (spec.key_heads, spec.keys, spec.value_size))
    q, k, v = (rng.standard_normal((spec.batch, *shape), dtype="float32") for shape in shapes)
    mask = None
    if spec.mask is not None:
        hides = spec.mask_value is not None
        mask = rng.random(spec.mask) > 0.4 if hides else rng.standard_normal(spec.mask, dtype="float32")
    expected = attention(spec, q, k, v, mask)
    y = swapped(np.full(expected.shape, np.inf, "float32"), spec.layouts[3])
    arrays = [swapped(x, layout) for x, layout in zip((q, k, v), spec.layouts, strict=False)]
    run(name, *arrays, *([mask] if mask is not None else []), y)
    assert np.isnan(expected).any() == spec.causal
    np.testing.assert_allclose(swapped(y, spec.layouts[3]), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str, run: Callable[..., None]) -> None:
    spec, rng = NORMS[name], np.random.default_rng(0)
    x = 3 + rng.standard_normal((spec.rows, spec.columns), dtype="float32")
    vectors = [rng.standard_normal(spec.columns, dtype="float32") for given in (spec.scale, spec.bias) if given]
    y = np.full(x.shape, np.nan, "float32")
    run(name, x, *vectors, y)
    wide = x.astype("float64")
    centred = wide - wide.mean(1, keepdims=True) if spec.kind == "layer" else wide
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + spec.epsilon)
    expected = expected * vectors[0] if spec.scale else expected
    expected = expected + vectors[1] if spec.bias else expected
    np.testing.assert_allclose(y, expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax(name: str, run: Callable[..., None]) -> None:
    spec = SOFTMAX[name]
    x = 10 * np.random.default_rng(0).standard_normal((spec.rows, spec.columns), dtype="float32")
    y = np.full(x.shape, np.nan, "float32")
    run(name, x, y)
    shifted = x.astype("float64") - x.max(1, keepdims=True)
    expected = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    np.testing.assert_allclose(y, np.log(expected) if spec.log else expected, rtol=0, atol=4e-6)
