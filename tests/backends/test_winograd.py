"""Winograd's algorithm against float64 numpy: sizes, borders, columns, parts, threads, processors, its choice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import conv, winograd
from optc.backends.kernels.builder import buffer
from optc.backends.kernels.conv import ConvSpec
from optc.backends.kernels.tile import RegisterTile
from optc.backends.kernels.winograd import WinogradPlan
from optc.backends.target import Target
from tvm import tirx

B, H, W = (tirx.Var(name, "int64") for name in "BHW")
ERROR = {2: 2e-6, 4: 1e-5}
"""Of the result's range, by the side of a square: far below what is promised (1e-4), a few times what is seen."""


def layer(height: Any, width: Any, c_in: int, c_out: int, pads: tuple[int, ...] = (1,) * 4, n: Any = 1) -> ConvSpec:
    return ConvSpec(n, (height, width), c_in, c_out, (3, 3), (1, 1), pads, (1, 1))


def reference(x: np.ndarray, w: np.ndarray, pads: tuple[int, ...]) -> np.ndarray:
    """The convolution in float64, tap by tap."""
    padded = np.pad(x.astype("float64"), [(0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)])
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    taps = [(i, j) for i in range(3) for j in range(3)]
    return np.sum([padded[:, i : i + height, j : j + width] @ w[:, :, i, j].T.astype("float64") for i, j in taps], 0)


def check(
    spec: ConvSpec,
    plan: WinogradPlan,
    sizes: dict[Any, int] | None = None,
    target: Target | None = None,
    threads: int = 1,
) -> None:
    shape = [(sizes or {}).get(d, d) for d in (spec.batch, *spec.spatial)]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*shape, spec.c_in), dtype="float32")
    w = rng.standard_normal((spec.c_out, spec.c_in, 3, 3), dtype="float32")
    exact = reference(x, w, spec.pads)
    y = np.full(exact.shape, np.nan, "float32")
    kernel = jit({"f": winograd.build(spec, plan)}, target, threads=threads)["f"]
    kernel(x, winograd.pack_weights(w, spec, plan), y)
    np.testing.assert_allclose(y, exact, rtol=0, atol=ERROR[plan.out] * np.abs(exact).max())


def some_plan(out: int, **fields: Any) -> WinogradPlan:
    plan = WinogradPlan(RegisterTile(5, 2, 16), out, rows=2, part=1, groups=1, workers=1, ahead=4, a_ahead=16)
    return replace(plan, **fields)


@pytest.mark.parametrize("out", [2, 4])
@pytest.mark.parametrize(
    "spec",
    [
        layer(8, 8, 16, 32),
        layer(7, 9, 20, 30),
        layer(13, 6, 5, 70, n=2),
        layer(7, 9, 16, 20, (0, 0, 0, 0)),
        layer(6, 5, 16, 20, (2, 0, 1, 2)),
        layer(1, 1, 16, 16),
    ],
)
def test_sizes_and_borders(spec: ConvSpec, out: int) -> None:
    check(spec, some_plan(out))


@pytest.mark.parametrize("out", [2, 4])
def test_sizes_known_only_at_run_time(out: int) -> None:
    check(layer(H, W, 20, 20, n=B), some_plan(out), {B: 2, H: 11, W: 37})


@pytest.mark.parametrize(("part", "groups", "rows"), [(1, 1, 1), (2, 1, 3), (1, 2, 2), (3, 2, 2), (5, 1, 4)])
def test_tasks_cover_the_output(part: int, groups: int, rows: int) -> None:
    plan = some_plan(4, part=part, groups=groups, rows=rows, workers=2)
    check(layer(13, 11, 24, 150, n=3), plan, threads=2)


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_other_processors(level: str) -> None:
    target = Target.parse(f"cpu:{level}")
    check(layer(9, 10, 24, 45), some_plan(4, tile=RegisterTile(3, 2, target.lanes)), target=target)


def test_many_channels_keep_the_error_small() -> None:
    check(layer(8, 8, 512, 32), some_plan(4))


def test_epilogue_sees_values_and_indices() -> None:
    spec, plan = layer(5, 6, 16, 20, n=2), some_plan(4)

    class Residual:
        flat, dtype = False, "float32"
        buffers = (buffer("residual", (2, 5, 6, 20)),)

        def __call__(self, value: Any, indices: Any, lanes: int) -> Any:
            last = indices[-1] if lanes == 1 else tirx.Ramp(indices[-1], tirx.IntImm("int64", 1), lanes)
            return value + tirx.BufferLoad(self.buffers[0], [*indices[:-1], last])

    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 5, 6, 16), dtype="float32"), rng.standard_normal((20, 16, 3, 3), dtype="float32")
    residual = rng.standard_normal((2, 5, 6, 20), dtype="float32")
    y = np.empty_like(residual)
    kernel = jit({"f": winograd.build(spec, plan, Residual())})["f"]
    kernel(x, winograd.pack_weights(w, spec, plan), residual, y)
    np.testing.assert_allclose(y, reference(x, w, spec.pads) + residual, rtol=0, atol=1e-4)


@pytest.mark.parametrize("out", [2, 4])
def test_transforms_compute_a_convolution(out: int) -> None:
    b, g, a = winograd.transforms(out)
    x, w = np.arange(out + 2.0) ** 2, np.array([3.0, -1.0, 2.0])
    np.testing.assert_allclose(a @ ((g @ w) * (b @ x)), np.correlate(x, w, "valid"), rtol=1e-12)


def test_chosen_where_it_pays() -> None:
    host = Target.parse("cpu:sapphirerapids")
    assert next(conv.plans(layer(56, 56, 64, 64), host)) == next(winograd.plans(layer(56, 56, 64, 64), host))
    few = layer(112, 112, 3, 8)
    strided = replace(layer(56, 56, 64, 64), strides=(2, 2))
    for spec in (few, strided):
        assert not isinstance(next(conv.plans(spec, host)), WinogradPlan)
