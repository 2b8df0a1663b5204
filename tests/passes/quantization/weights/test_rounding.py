"""Rounding of weights: error within what a format promises, special blocks, shared weights."""

from __future__ import annotations

import numpy as np
import pytest
from optc.passes.quantization.weights import parse_spec, quantize, signal_to_noise
from optc.passes.quantization.weights.rounding import Packed


def weights(k: int = 200, n: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((k, n), dtype="float32") * np.float32(0.05)


def noise(spec: str, w: np.ndarray | None = None) -> float:
    exact = weights() if w is None else w
    return signal_to_noise(exact, quantize(exact, parse_spec(spec).format).values())


@pytest.mark.parametrize(
    ("spec", "least"),
    [("int8", 42), ("int4", 21), ("int4:zeros", 21), ("codebook4", 22), ("nf4", 21), ("log4", 15), ("linear3", 15)],
)
def test_signal_to_noise_of_normal_weights(spec: str, least: float) -> None:
    """Decibel; the theory of a uniform quantizer gives 6.02 a bit, less what the block's largest weight takes."""
    assert noise(spec) > least


@pytest.mark.parametrize("spec", ["int8:block=32", "int4:plain", "int4:plain:zeros", "linear3:plain"])
def test_rounding_errs_by_half_a_step_at_most(spec: str) -> None:
    packed, exact = quantize(weights(), parse_spec(spec).format), weights()
    steps = packed.scales.astype(np.float32)[np.arange(len(exact)) // packed.block]
    clipped = np.abs(packed.scales.astype(np.float32)).max() * 0.3  # a scale rounded to bf16 falls short by 1/256
    assert (np.abs(exact - packed.values()) <= 0.5 * np.abs(steps) + clipped).all()


def test_searching_the_scale_beats_the_largest_magnitude() -> None:
    assert noise("int4") > noise("int4:plain") + 1


def test_zero_points_serve_weights_off_centre() -> None:
    shifted = weights() + np.float32(0.15)
    assert noise("int4:zeros", shifted) > noise("int4", shifted) + 3


def test_shared_weights_find_the_values_there_are() -> None:
    values = np.array([-0.9, -0.3, 0.05, 1.0], np.float32)
    exact = values[np.random.default_rng(0).integers(0, 4, (256, 32))]
    exact[0] = 1.0
    packed = quantize(exact, parse_spec("codebook2:block=column").format)
    assert packed.codebook is not None
    np.testing.assert_allclose(packed.codebook, values, atol=1e-3)
    assert signal_to_noise(exact, packed.values()) > 50


def test_a_block_of_zeros_stays_zero() -> None:
    exact = weights()
    exact[32:64, 3] = 0
    for spec in ("int4", "int4:zeros", "codebook4", "log4", "int8:block=32"):
        assert not quantize(exact, parse_spec(spec).format).values()[32:64, 3].any()
    assert not quantize(np.zeros((40, 2), np.float32), parse_spec("codebook3").format).values().any()


def test_tiny_and_huge_weights_keep_their_accuracy() -> None:
    for factor in (1e-30, 1e30):
        assert noise("int4", weights() * np.float32(factor)) == pytest.approx(noise("int4"), abs=0.5)


@pytest.mark.parametrize("spec", ["int4", "codebook4", "linear3:zeros"])
def test_columns_do_not_depend_on_each_other(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large matrices are rounded some columns at a time."""
    whole = quantize(weights(), parse_spec(spec).format)
    monkeypatch.setattr("optc.passes.quantization.weights.rounding._CHUNK", 1000)
    parts = quantize(weights(), parse_spec(spec).format)
    np.testing.assert_allclose(parts.values(), whole.values(), atol=1e-7)


def test_sizes_are_those_of_the_artifact() -> None:
    packed = Packed(4, 32, np.zeros((64, 8), np.int8), np.zeros((2, 8), np.float32))
    assert packed.nbytes == 64 * 8 // 2 + 2 * 8 * 4
