"""The integer products said in ONNX: numpy's sums, with padding by any byte."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, run_reference


def convolved(x: np.ndarray, w: np.ndarray, pad: int) -> np.ndarray:
    """int32 [N, H, W, M]: x uint8 [N, H, W, C] padded by one pixel of `pad` all around, w int8 [M, C, 3, 3]."""
    padded = np.pad(x.astype(np.int64), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=pad)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # [N, H, W, C, 3, 3]
    return np.einsum("nhwckl,mckl->nhwm", windows, w.astype(np.int64)).astype(np.int32)


@pytest.mark.parametrize("pad", ["_", "%fixed", "%pad"])
def test_conv(pad: str) -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    graph = graph_of(f"""
graph main(%x: u8[N,H,5,3], %pad: u8[]) {{
  %w: i8[4,3,3,3] = const {str(w.tolist()).replace(" ", "")}
  %b: i32[4] = const [1,-2,100000,0]
  %fixed: u8[] = const 9
  %y = optc.ConvInteger(%x, %w, %b, {pad}) {{pads=[1,1,1,1]}}
  return %y
}}
""")
    inputs = {"x": rng.integers(0, 256, (2, 6, 5, 3)).astype(np.uint8), "pad": np.array(200, np.uint8)}
    expected = convolved(inputs["x"], w, {"_": 0, "%fixed": 9, "%pad": 200}[pad]) + np.array([1, -2, 100000, 0])
    np.testing.assert_array_equal(run_reference(graph, inputs)["y"], expected)


@pytest.mark.parametrize("bias", ["_", "%b"])
def test_matmul(bias: str) -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, (7, 3)).astype(np.int8)
    graph = graph_of(f"""
graph main(%x: u8[N,4,7]) {{
  %w: i8[7,3] = const {str(w.tolist()).replace(" ", "")}
  %b: i32[3] = const [1,-2,100000]
  %y = optc.MatMulInteger(%x, %w, {bias})
  return %y
}}
""")
    x = rng.integers(0, 256, (2, 4, 7)).astype(np.uint8)
    expected = x.astype(np.int32) @ w.astype(np.int32) + (np.array([1, -2, 100000]) if bias == "%b" else 0)
    np.testing.assert_array_equal(run_reference(graph, {"x": x})["y"], expected)
