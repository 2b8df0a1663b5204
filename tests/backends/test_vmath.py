"""Elementary functions against float64 numpy over the whole float32 range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import vmath
from optc.backends.kernels.builder import KernelBuilder, buffer

SIZE = 1 << 12
erf64 = np.vectorize(math.erf)


def sigmoid64(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.exp(-np.abs(x)), 1.0) / (1 + np.exp(-np.abs(x)))


def softplus64(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


EXACT = {
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "tanh": np.tanh,
    "sigmoid": sigmoid64,
    "erf": erf64,
    "gelu": lambda x: 0.5 * x * np.vectorize(math.erfc)(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x * sigmoid64(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "softplus": softplus64,
    "silu": lambda x: x * sigmoid64(x),
    "mish": lambda x: x * np.tanh(softplus64(x)),
    "relu": lambda x: np.maximum(x, 0),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
}
LIMITS = {  # at -infinity, at +infinity
    "exp": (0, math.inf),
    "log": (math.nan, math.inf),
    "log1p": (math.nan, math.inf),
    "expm1": (-1, math.inf),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "erf": (-1, 1),
    "softplus": (0, math.inf),
    "gelu": (0, math.inf),
    "gelu_tanh": (0, math.inf),
    "silu": (0, math.inf),
    "mish": (0, math.inf),
    "hard_swish": (0, math.inf),
    "elu": (-1, math.inf),
}
ABSOLUTE = {"gelu": 2e-6, "gelu_tanh": 2e-6, "mish": 1e-7, "hard_swish": 1e-6, "hard_sigmoid": 1e-7, "silu": 1e-42}
"""Functions with a cancelling or denormal tail or a kink, where the error is bounded absolutely."""


@pytest.fixture(scope="module")
def compiled() -> dict:
    kernels = {}
    for name, function in vmath.FUNCTIONS.items():
        for lanes in (1, 16):
            kb = KernelBuilder()
            x, y = buffer("x", (SIZE,)), buffer("y", (SIZE,))
            with kb.loop(SIZE // lanes) as i:
                kb.store(kb.flat(y), i * lanes, function(kb.load(kb.flat(x), i * lanes, lanes)), lanes)
            kernels[f"{name}_{lanes}"] = kb.finish([x, y])
    return jit(kernels)


def inputs() -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = [
        rng.uniform(-12, 12, SIZE // 2),
        rng.uniform(-110, 110, SIZE // 4),
        10.0 ** rng.uniform(-44, 38, SIZE // 8) * rng.choice([-1, 1], SIZE // 8),
    ]
    edges = [0.0, -0.0, 0.625, -0.625, 0.927734375, 88.7, 88.8, -87.4, -103.9, 1e-45, 3.4e38, -3.4e38, 1.0, -1.0]
    values = np.concatenate([*parts, edges]).astype("float32")
    return np.concatenate([values, np.zeros(SIZE - values.size, "float32")])


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("name", sorted(EXACT))
def test_is_within_a_few_ulp_of_float64(compiled: dict, name: str, lanes: int) -> None:
    x = inputs()
    y = np.empty_like(x)
    compiled[f"{name}_{lanes}"](x, y)
    with np.errstate(all="ignore"):
        exact = EXACT[name](x.astype("float64"))
        rounded = exact.astype("float32")
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(rounded))
    np.testing.assert_array_equal(y[~finite], rounded[~finite])
    error = np.abs(y[finite].astype("float64") - exact[finite])
    bound = 4 * np.spacing(np.abs(rounded[finite])) + ABSOLUTE.get(name, 0.0)
    worst = np.argmax(error / bound)
    assert (error <= bound).all(), f"{name}({x[finite][worst]!r}) = {y[finite][worst]!r}, exact {exact[finite][worst]}"


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("name", sorted(vmath.FUNCTIONS))
def test_nan_stays_nan_and_infinities_give_the_limits(compiled: dict, name: str, lanes: int) -> None:
    x = np.tile(np.array([np.nan, -np.inf, np.inf, np.nan], "float32"), SIZE // 4)
    y = np.empty_like(x)
    compiled[f"{name}_{lanes}"](x, y)
    assert np.isnan(y[::4]).all()
    if name in LIMITS:
        np.testing.assert_array_equal(np.unique(y[1::4]) + 0.0, [LIMITS[name][0]])
        np.testing.assert_array_equal(np.unique(y[2::4]), [LIMITS[name][1]])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats(dtype: str) -> None:
    names = ["exp", "log", "tanh", "sigmoid", "erf", "gelu", "silu"]
    kernels = {}
    for name in names:
        kb = KernelBuilder()
        x, y = buffer("x", (64,), dtype), buffer("y", (64,), dtype)
        with kb.loop(64) as i:
            kb.store(kb.flat(y), i, vmath.FUNCTIONS[name](kb.load(kb.flat(x), i)))
        kernels[name] = kb.finish([x, y])
    compiled = jit(kernels)
    x = np.random.default_rng(1).uniform(0.1, 5, 64).astype(dtype)
    for name in names:
        y = np.empty_like(x)
        compiled[name](x, y)
        exact = EXACT[name](x.astype("float64"))
        np.testing.assert_allclose(y.astype("float64"), exact, rtol=4 * float(np.finfo(dtype).eps))
