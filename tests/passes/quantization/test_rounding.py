"""Weights rounded by reconstruction."""

from __future__ import annotations

import numpy as np
from helpers import graph_of
from optc.passes.quantization.insert import Affine, Choice
from optc.passes.quantization.placement import place
from optc.passes.quantization.record import Recorded
from optc.passes.quantization.rounding import reconstruct, rounded


def correlated(rows: int, size: int, seed: int) -> np.ndarray:
    """Inputs that lie near a few directions."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(7).standard_normal((3, size))
    return (rng.standard_normal((rows, 3)) @ mix + 0.1 * rng.standard_normal((rows, size))).astype(np.float32)


def test_the_output_error_is_less_than_of_the_nearest() -> None:
    rng = np.random.default_rng(0)
    x, w = correlated(500, 16, 1).astype(np.float64), rng.standard_normal((8, 16))
    scale = np.abs(w).max(1) / 7  # coarse, so that rounding matters
    found = reconstruct(w, scale, x.T @ x / len(x))
    nearest = np.rint(w / scale[:, None])
    error, plain = (np.square(x @ (w - q * scale[:, None]).T).sum() for q in (found, nearest))
    assert error < 0.5 * plain


def test_white_inputs_mean_the_nearest() -> None:
    w = np.random.default_rng(0).standard_normal((4, 6))
    scale = np.abs(w).max(1) / 127
    np.testing.assert_array_equal(reconstruct(w, scale, np.eye(6)), np.rint(w / scale[:, None]))


def test_inputs_that_are_all_zero_mean_the_nearest() -> None:
    w = np.random.default_rng(0).standard_normal((4, 6))
    scale = np.abs(w).max(1) / 127
    np.testing.assert_array_equal(reconstruct(w, scale, np.zeros((6, 6))), np.rint(w / scale[:, None]))


def test_weights_stay_in_symmetric_s8() -> None:
    w = np.array([[1.27, 1.27, -1.27]])
    x = correlated(100, 3, 2).astype(np.float64)
    found = reconstruct(w, np.array([0.01]), x.T @ x)
    assert found.dtype == np.int8
    assert found.min() >= -127


def test_layers_of_one_input_each_get_weights_of_their_own() -> None:
    source = """
    graph main(%x: f32[m,16]) {
      %w1: f32[16,8] = const random(1)
      %w2: f32[16,8] = const random(2)
      %y = MatMul(%x, %w1)
      %z = MatMul(%x, %w2)
      return %y, %z
    }
    """
    graph = graph_of(source)
    placement = place(graph)
    grid = Affine(float(np.float32(20 / 255)), 128)
    choice = Choice(dict.fromkeys(placement.values, grid))
    data = [{"x": correlated(64, 16, i)} for i in range(4)]
    fit = Recorded(graph, placement.layers, data[::2])
    weights, steps = rounded(placement, choice, fit, Recorded(graph, placement.layers, data[1::2]))
    assert len(steps) == 2
    assert all(step.after > step.before for node, step in steps.items() if node in weights)
    assert all(weights[n].data.shape == (16, 8) for n in weights)
