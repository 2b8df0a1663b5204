"""Shared by the bfloat16 tests: data, float64 references, who can run them."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from optc.backends.kernels.conv import ConvSpec
from optc.backends.runtime.host import host_features

BF16 = np.dtype(ml_dtypes.bfloat16)

needs_amx = pytest.mark.skipif("amx-bf16" not in host_features(), reason="this processor has no AMX for bfloat16")
needs_bf16 = pytest.mark.skipif("avx512bf16" not in host_features(), reason="this processor has no AVX512-BF16")


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers that bfloat16 holds exactly, as its bits."""
    drawn = np.random.default_rng(seed + len(shape)).standard_normal(shape).astype(BF16)
    return drawn.view(np.uint16)


def wide(bits: np.ndarray) -> np.ndarray:
    """What the bits stand for, in float64."""
    return np.asarray(bits.view(BF16).astype(np.float64))


def check_sums(y: np.ndarray, exact: np.ndarray, magnitude: np.ndarray, products: int) -> None:
    """`y` f32 against sums in float64. `magnitude` are the sums of absolute values: adding `products` terms in float32
    in any order is off by at most products * 2^-24 of that (Higham, Accuracy and Stability, section 4.2)."""
    np.testing.assert_array_less(np.abs(y - exact), 2.0**-24 * (products + 8) * magnitude + 1e-30)


def check_rounded(y: np.ndarray, exact: np.ndarray, magnitude: np.ndarray, products: int) -> None:
    """`y`, bits of bf16, against sums in float64: those of float32, rounded once."""
    error = 2.0**-24 * (products + 8) * magnitude
    np.testing.assert_array_less(np.abs(wide(y) - exact), error + 2.0**-8 * (np.abs(exact) + error) + 1e-30)


def convolved(x: np.ndarray, w: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """The convolution of x [n, spatial..., c] by w [c_out, c / group, kernel...] in float64, channels last."""
    rank = len(spec.kernel)
    begin, end = spec.pads[:rank], spec.pads[rank:]
    x = np.pad(x, [(0, 0), *zip(begin, end, strict=True), (0, 0)])
    out = [(x.shape[d + 1] - spec.reach[d]) // spec.strides[d] + 1 for d in range(rank)]
    y = np.zeros((x.shape[0], *out, spec.c_out))
    each, columns = spec.c_in // spec.group, spec.c_out // spec.group
    for tap in itertools.product(*map(range, spec.kernel)):
        window: Any = [slice(None)]
        for d, t in enumerate(tap):
            first = t * spec.dilations[d]
            window.append(slice(first, first + (out[d] - 1) * spec.strides[d] + 1, spec.strides[d]))
        for g in range(spec.group):
            taken, made = x[(*window, slice(g * each, (g + 1) * each))], slice(g * columns, (g + 1) * columns)
            y[..., made] += taken @ w[(made, slice(None), *tap)].T
    return y
