"""Pooling against ONNX Runtime: pads, ceil_mode, dilations, counted padding, 1-D to 3-D, global, symbolic sizes; of
bytes against integers, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from helpers import graph_of
from onnx import TensorProto, helper
from optc.backends.cpu import lower
from optc.backends.jit import jit
from optc.backends.kernels import mean, pool
from optc.backends.kernels.mean import MeanSpec
from optc.backends.kernels.pool import PoolSpec
from optc.backends.runtime.host import host_features
from optc.backends.steps import Kernel
from optc.backends.target import LEVELS, Target
from tvm import tirx


def expected(x: np.ndarray, spec: PoolSpec, ceil_mode: bool) -> np.ndarray:
    """ONNX Runtime's result for channels-last x."""
    attributes: dict[str, Any] = {
        "kernel_shape": spec.kernel,
        "strides": spec.strides,
        "pads": spec.pads,
        "dilations": spec.dilations,
        "ceil_mode": int(ceil_mode),
    }
    if spec.kind == "average":
        attributes["count_include_pad"] = int(spec.count_include_pad)
    op = "MaxPool" if spec.kind == "max" else "AveragePool"
    moved = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, moved.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.moveaxis(session.run(None, {"x": moved})[0], 1, -1)


CASES = {
    "padded": ((14, 15), (7, 8), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False),
    "ceil": ((14, 15), (7, 7), (3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True),
    "ceil and padded": ((14, 15), (7, 8), (3, 3), (2, 2), (1, 1, 0, 0), (1, 1), True),
    "dilated": ((14, 15), (10, 11), (3, 3), (1, 1), (0, 0, 0, 0), (2, 2), False),
    "global": ((7, 7), (1, 1), (7, 7), (1, 1), (0, 0, 0, 0), (1, 1), False),
    "1-D": ((9,), (4,), (3,), (2,), (0, 0), (1,), False),
    "3-D": ((5, 6, 7), (2, 3, 3), (2, 2, 3), (2, 2, 2), (0, 0, 0, 0, 0, 0), (1, 1, 1), False),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("kind", "counted"), [("max", False), ("average", False), ("average", True)])
def test_pool(name: str, kind: Any, counted: bool) -> None:
    size, out, kernel, strides, pads, dilations, ceil_mode = CASES[name]
    channels = 20
    spec = PoolSpec(kind, 2, size, out, channels, kernel, strides, pads, dilations, counted)
    x = np.random.default_rng(0).standard_normal((2, *size, channels), dtype="float32")
    y = np.full((2, *out, channels), np.nan, "float32")
    jit({"f": pool.build(spec, next(iter(pool.plans(spec, Target.host()))))})["f"](x, y)
    np.testing.assert_allclose(y, expected(x, spec, ceil_mode), rtol=1e-6, atol=1e-6)


def test_sizes_known_only_at_run_time() -> None:
    h, w = tirx.Var("h", "int64"), tirx.Var("w", "int64")
    spec = PoolSpec("max", 1, (h, w), ((h - 1) // 2 + 1, (w - 1) // 2 + 1), 24, (3, 3), (2, 2), (1,) * 4, (1, 1))
    x = np.random.default_rng(0).standard_normal((1, 13, 22, 24), dtype="float32")
    y = np.empty((1, 7, 11, 24), "float32")
    jit({"f": pool.build(spec, next(iter(pool.plans(spec, Target.host()))))})["f"](x, y)
    fixed = PoolSpec("max", 1, (13, 22), (7, 11), 24, (3, 3), (2, 2), (1,) * 4, (1, 1))
    np.testing.assert_array_equal(y, expected(x, fixed, False))


def windows_of(x: np.ndarray, spec: PoolSpec) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """(output position, the taps inside the image [taps, batch, channels]) of every window of channels-last x."""
    rank = len(spec.kernel)
    found = []
    for position in np.ndindex(*spec.out):
        taps = []
        for tap in np.ndindex(*spec.kernel):
            rows = zip(position, tap, spec.strides, spec.dilations, spec.pads[:rank], strict=True)
            at = [p * s + t * d - b for p, t, s, d, b in rows]
            if all(0 <= a < size for a, size in zip(at, spec.spatial, strict=True)):
                taps.append(x[(slice(None), *at)])
        found.append((position, np.array(taps)))
    return found


BYTES = [t for t in LEVELS.values() if host_features().issuperset(t.features)]


@pytest.mark.parametrize("target", BYTES, ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["padded", "ceil and padded", "dilated", "1-D", "3-D"])
def test_pools_of_bytes(name: str, target: Target) -> None:
    size, out, kernel, strides, pads, dilations, _ = CASES[name]
    x = np.random.default_rng(0).integers(0, 256, (2, *size, 150)).astype("uint8")
    scale, zero = np.float32(0.0371), 19
    most = PoolSpec("max", 2, size, out, 150, kernel, strides, pads, dilations, dtype="uint8")
    means = [replace(most, kind="average", count_include_pad=c, scale=float(scale), zero_point=zero) for c in (0, 1)]
    specs = {"max": most, "mean": means[0], "counted": means[1]}
    kernels = jit({n: pool.build(s, next(pool.plans(s, target))) for n, s in specs.items()}, target)
    got = {n: np.full((2, *out, 150), 77, "uint8" if n == "max" else "float32") for n in specs}
    for n in specs:
        kernels[n](x, got[n])
    rank = len(kernel)
    for position, taps in windows_of(x, most):
        at = (slice(None), *position)
        np.testing.assert_array_equal(got["max"][at], taps.max(0))
        total = (taps.astype("int32") - zero).sum(0).astype("float32")
        np.testing.assert_array_equal(got["mean"][at], total * (scale / np.float32(len(taps))))
        rooms = zip(position, size, kernel, strides, pads[:rank], pads[rank:], dilations, strict=True)
        counted = [min(k, -(-(n + e - (p * s - b)) // d)) for p, n, k, s, b, e, d in rooms]
        np.testing.assert_array_equal(got["counted"][at], total * (scale / np.float32(np.prod(counted))))


@pytest.mark.parametrize("target", BYTES, ids=lambda t: t.name)
@pytest.mark.parametrize("channels", [5, 64, 200])
def test_means_of_bytes(channels: int, target: Target) -> None:
    h = tirx.Var("h", "int64")
    x = np.random.default_rng(0).integers(0, 256, (3, 9, 11, channels)).astype("uint8")
    total = (x.astype("int32") - 19).sum((1, 2)).astype("float32")
    for height in (9, h):
        spec = MeanSpec(3, (height, 11), channels, 0.0371, 19)
        y = np.full((3, channels), np.nan, "float32")
        jit({"f": mean.build(spec, next(mean.plans(spec, target)))}, target)["f"](x, y)
        np.testing.assert_array_equal(y, total * (np.float32(0.0371) / np.float32(99)))


def test_a_region_of_bytes_is_one_kernel() -> None:
    graph = graph_of("""graph main(%x: u8[1,6,7,20]) { %s: f32[] = const 0.04 %z: u8[] = const 7 %t: f32[] = const 0.03
      %d = DequantizeLinear(%x, %s, %z) %p = optc.AveragePool(%d) {kernel_shape=[2,2], strides=[2,2]}
      %y = QuantizeLinear(%p, %t, %z) return %y }""")
    (step,) = lower(graph, Target.host()).steps
    assert isinstance(step, Kernel)
    x = np.random.default_rng(0).integers(0, 256, (1, 6, 7, 20)).astype("uint8")
    y = np.full((1, 3, 3, 20), 77, "uint8")
    jit({"f": step.func})["f"](x, y)
    taps = x[:, :, :6].reshape(1, 3, 2, 3, 2, 20).astype("int32") - 7
    mean_ = taps.sum((2, 4)).astype("float32") * (np.float32(0.04) / np.float32(4))
    np.testing.assert_array_equal(y, np.clip(np.rint(mean_ * (np.float32(1) / np.float32(0.03))), -7, 248) + 7)
