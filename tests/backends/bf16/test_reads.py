"""Rounding to bfloat16 on every level, and the float kernels that read it: depthwise, pools, means, normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import exprs, mean, norm, pool
from optc.backends.kernels.bf16 import depthwise
from optc.backends.kernels.builder import KernelBuilder, buffer
from optc.backends.kernels.conv import ConvSpec
from optc.backends.runtime.host import host_features
from optc.backends.target import LEVELS, Target

from .support import BF16, check_sums, convolved, numbers, wide

RUNNABLE = [name for name, level in LEVELS.items() if host_features().issuperset(level.features)]


def rounding(lanes: int) -> Any:
    kb = KernelBuilder()
    x, y = buffer("x", (64,)), buffer("y", (64,), "uint16")
    for at in range(0, 64, lanes):
        kb.store(kb.flat(y), at, exprs.f32_to_bf16(kb.load(kb.flat(x), at, lanes)), lanes)
    return kb.finish([x, y])


@pytest.mark.parametrize("level", RUNNABLE)
def test_rounding_to_nearest_even(level: str) -> None:
    kernels = jit({f"f{lanes}": rounding(lanes) for lanes in (1, 4, 8, 16, 32, 64)}, Target.parse(f"cpu:{level}"))
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    words = x.view(np.uint32)
    words[:4] = 0x3F808000, 0x3F818000, 0x3F808001, 0xBF808000  # halfway down and up, just above, negative
    x[4:9] = np.inf, -np.inf, 3.4e38, 0.0, -0.0
    expected = x.astype(BF16).view(np.uint16)
    for name, kernel in kernels.items():
        y = np.zeros(64, np.uint16)
        kernel(x, y)
        np.testing.assert_array_equal(y, expected, name)


def test_nan_stays_nan() -> None:
    for level in RUNNABLE:
        kernel = jit({"f": rounding(16)}, Target.parse(f"cpu:{level}"))["f"]
        x, y = np.full(64, np.nan, np.float32), np.zeros(64, np.uint16)
        x.view(np.uint32)[0] = 0x7F800001  # its upper half alone would be infinity
        kernel(x, y)
        assert np.isnan(wide(y)).all()


@pytest.mark.parametrize("channels", [16, 40, 7])
def test_depthwise(channels: int) -> None:
    spec = ConvSpec(2, (9, 11), channels, channels, (3, 3), (1, 2), (1,) * 4, (1, 1), channels)
    plan = next(depthwise.plans(spec, Target.host()))
    x = numbers(2, 9, 11, channels)
    w = np.random.default_rng(1).standard_normal((channels, 1, 3, 3)).astype(np.float32)
    y = np.zeros((2, *spec.out_spatial, channels), np.float32)
    jit({"f": depthwise.build(spec, plan)})["f"](x, depthwise.pack_weights(w, spec, plan), y)
    magnitude = convolved(np.abs(wide(x)), np.abs(w), spec)
    check_sums(y, convolved(wide(x), w.astype(np.float64), spec), magnitude, 9)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pools(kind: Any) -> None:
    spec = pool.PoolSpec(kind, 2, (8, 10), (4, 5), 24, (2, 2), (2, 2), (0,) * 4, (1, 1), dtype="uint16")
    x, y = numbers(2, 8, 10, 24), np.zeros((2, 4, 5, 24), np.float32)
    jit({"f": pool.build(spec, next(pool.plans(spec, Target.host())))})["f"](x, y)
    windows = wide(x).reshape(2, 4, 2, 5, 2, 24)
    expected = windows.max((2, 4)) if kind == "max" else windows.mean((2, 4))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)


def test_mean_of_pixels() -> None:
    spec = mean.MeanSpec(2, (7, 7), 40, 1.0, 0, "uint16")
    x, y = numbers(2, 7, 7, 40), np.zeros((2, 40), np.float32)
    jit({"f": mean.build(spec, next(mean.plans(spec, Target.host())))})["f"](x, y)
    np.testing.assert_allclose(y, wide(x).mean((1, 2)), rtol=0, atol=1e-6)


def test_layer_norm() -> None:
    spec = norm.NormSpec("layer", 5, 50, 1e-5, dtype="uint16")
    x, scale, bias = numbers(5, 50), np.full(50, 2, np.float32), np.ones(50, np.float32)
    y = np.zeros((5, 50), np.float32)
    jit({"f": norm.build(spec, next(norm.plans(spec, Target.host())))})["f"](x, scale, bias, y)
    centred = wide(x) - wide(x).mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * 2 + 1
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
