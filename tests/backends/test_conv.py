"""The convolution template against float64 numpy: 1-D to 3-D, strides, pads, dilations, groups, symbolic sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import conv, depthwise
from optc.backends.kernels.conv import ConvPlan, ConvSpec
from optc.backends.kernels.depthwise import DepthwisePlan
from optc.backends.kernels.tile import RegisterTile, Run
from optc.backends.target import Target
from tvm import tirx

B, H, W = (tirx.Var(name, "int64") for name in "BHW")


def reference(x: np.ndarray, w: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """The convolution in float64, tap by tap."""
    rank = len(spec.kernel)
    padded = np.pad(x.astype("float64"), [(0, 0), *zip(spec.pads[:rank], spec.pads[rank:], strict=True), (0, 0)])
    out = [(padded.shape[1 + i] - spec.reach[i]) // spec.strides[i] + 1 for i in range(rank)]
    y = np.zeros((x.shape[0], *out, spec.c_out))
    c_in, c_out = spec.c_in // spec.group, spec.c_out // spec.group
    for tap in np.ndindex(*spec.kernel):
        starts = [t * d for t, d in zip(tap, spec.dilations, strict=True)]
        cut = [slice(s, s + (o - 1) * k + 1, k) for s, o, k in zip(starts, out, spec.strides, strict=True)]
        part = padded[(slice(None), *cut)]
        for g in range(spec.group):
            weights = w[(slice(g * c_out, (g + 1) * c_out), slice(None), *tap)].astype("float64")
            y[..., g * c_out : (g + 1) * c_out] += part[..., g * c_in : (g + 1) * c_in] @ weights.T
    return y


def check(
    template: Any, spec: ConvSpec, sizes: dict[Any, int] | None = None, plan: Any = None, threads: int = 1
) -> None:
    """Runs the kernel on random data and compares, relative to the range of the result."""
    plan = plan or next(iter(template.plans(spec, Target.host())))
    shape = [(sizes or {}).get(d, d) for d in (spec.batch, *spec.spatial)]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*shape, spec.c_in), dtype="float32")
    w = rng.standard_normal((spec.c_out, spec.c_in // spec.group, *spec.kernel), dtype="float32")
    exact = reference(x, w, spec)
    y = np.full(exact.shape, np.nan, "float32")
    kernel = jit({"f": template.build(spec, plan)}, threads=threads)["f"]
    kernel(x, template.pack_weights(w, spec, plan), y)
    np.testing.assert_allclose(y, exact, rtol=0, atol=3e-6 * np.abs(exact).max())


def square(
    size: Any,
    c_in: int,
    c_out: int,
    k: int,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    group: int = 1,
    n: Any = 1,
) -> ConvSpec:
    return ConvSpec(n, size, c_in, c_out, (k, k), (stride,) * 2, (pad,) * 4, (dilation,) * 2, group)


CASES = {
    "3x3": square((14, 14), 20, 30, 3, pad=1),
    "3x3 rows of 7": square((7, 7), 16, 64, 3, pad=1),
    "7x7 of RGB": square((33, 30), 3, 16, 7, 2, 3),
    "1x1": square((9, 10), 24, 40, 1, n=2),
    "1x1 stride 2": square((9, 10), 24, 40, 1, 2),
    "no padding": square((12, 13), 8, 12, 3),
    "dilated": square((15, 16), 8, 12, 3, 1, 2, 2),
    "grouped": square((10, 11), 24, 36, 3, 1, 1, group=3, n=2),
    "groups of one channel": square((6, 5), 4, 8, 3, 1, 1, group=4),
    "image smaller than the kernel": square((2, 3), 5, 7, 5, 1, 2),
    "one column": ConvSpec(1, (20, 1), 6, 9, (3, 1), (1, 1), (1, 0, 1, 0), (1, 1)),
    "uneven pads": ConvSpec(2, (8, 9), 6, 9, (4, 2), (2, 1), (1, 0, 2, 1), (1, 1)),
    "1-D": ConvSpec(2, (101,), 20, 30, (5,), (2,), (1, 3), (1,)),
    "3-D": ConvSpec(1, (5, 6, 7), 8, 12, (3, 2, 3), (1, 2, 1), (1, 0, 1, 1, 1, 0), (1, 1, 2)),
}
DEPTHWISE = {
    "3x3": square((14, 15), 48, 48, 3, 1, 1, group=48),
    "stride 2": square((14, 15), 33, 33, 3, 2, 1, group=33, n=2),
    "5x5": square((9, 21), 24, 24, 5, 1, 2, group=24),
    "dilated": square((12, 13), 28, 28, 3, 2, 2, 2, group=28),
    "image smaller than the kernel": square((3, 2), 5, 5, 5, 1, 2, group=5),
    "no padding": square((9, 8), 16, 16, 3, group=16),
    "1-D": ConvSpec(2, (40,), 30, 30, (5,), (2,), (1, 3), (1,), 30),
    "3-D": ConvSpec(1, (5, 6, 7), 12, 12, (3, 2, 3), (1, 2, 1), (1, 0, 1, 1, 1, 0), (1, 1, 2), 12),
}


@pytest.mark.parametrize("name", CASES)
def test_convolution(name: str) -> None:
    check(conv, CASES[name])


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name: str) -> None:
    check(depthwise, DEPTHWISE[name])


@pytest.mark.parametrize(
    ("k", "stride", "pad", "group"), [(3, 1, 1, 1), (3, 2, 0, 1), (1, 1, 0, 1), (3, 1, 1, 20), (5, 2, 2, 20)]
)
def test_sizes_known_only_at_run_time(k: int, stride: int, pad: int, group: int) -> None:
    spec = square((H, W), 20, 20, k, stride, pad, group=group, n=B)
    check(depthwise if spec.depthwise else conv, spec, {B: 2, H: 11, W: 37})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("strip", "groups"), [(2, 1), (14, 3), (4, 2)])
def test_tasks_cover_the_output(strip: int, groups: int, threads: int) -> None:
    plan = ConvPlan(RegisterTile(10, 1, 16), 2, 5, strip, groups, workers=2, ahead=4)
    check(conv, square((13, 5), 6, 70, 3, 1, 1, n=3), plan=plan, threads=threads)


@pytest.mark.parametrize("taps", [1, 3])
def test_what_is_fetched_ahead_changes_nothing(taps: int) -> None:
    plan = ConvPlan(RegisterTile(5, 1, 16), 1, 5, 4, 1, workers=1, taps=taps, ahead=4, a_ahead=16, touch=True, spread=6)
    check(conv, square((13, 10), 20, 70, 3, 2, 1), plan=plan)


@pytest.mark.parametrize("c", [64, 70, 72, 88])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_passes_over_the_image_for_blocks_of_channels(c: int, stride: int) -> None:
    plan = DepthwisePlan(4, 16, parallel=True, block=32, ahead=True)
    check(depthwise, square((9, 11), c, c, 5, stride, 2, group=c, n=2), plan=plan, threads=2)


OVERLAPS = {
    "windows that overlap": (square((7, 9), 6, 20, 3, 1, 1), 5),
    "stride": (square((9, 13), 6, 20, 3, 2, 1), 5),
    "stride beyond the kernel": (square((9, 13), 6, 20, 2, 3, 1), 5),
    "dilation": (square((9, 13), 6, 20, 3, 1, 2, 2), 5),
    "dilation beyond the stride": (square((9, 13), 6, 20, 3, 2, 1, 3), 2),
    "groups": (square((6, 8), 12, 40, 3, 1, 1, group=2), 4),
    "tiles that are not clipped": (square((4, 23), 6, 20, 3, 1, 1), 4),
    "image smaller than the kernel": (square((2, 3), 5, 7, 5, 1, 2), 2),
    "border wider than a tile": (square((3, 9), 5, 7, 7, 1, 5), 2),
    "uneven pads": (ConvSpec(2, (8, 9), 6, 9, (4, 2), (2, 1), (1, 0, 2, 1), (1, 1)), 5),
    "one column of taps": (ConvSpec(1, (9, 8), 6, 9, (3, 1), (1, 1), (1, 0, 1, 0), (1, 1)), 4),
    "one tap in a border": (square((5, 8), 6, 20, 1, 2, 1), 4),
    "1-D": (ConvSpec(2, (21,), 6, 20, (5,), (1,), (2, 2), (1,)), 8),
    "3-D": (ConvSpec(1, (5, 6, 7), 8, 12, (2, 2, 3), (1, 2, 1), (0, 0, 1, 0, 1, 0), (1, 1, 2)), 3),
}


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", OVERLAPS)
def test_taps_side_by_side(name: str, clip: bool) -> None:
    spec, width = OVERLAPS[name]
    plan = ConvPlan(RegisterTile(width, 1, 8), 1, width, 4, groups=1, workers=1, taps=spec.kernel[-1], clip=clip)
    check(conv, spec, plan=plan)


def test_taps_side_by_side_in_a_tile_of_two_lines() -> None:
    plan = ConvPlan(RegisterTile(8, 1, 8), 2, 4, strip=4, groups=1, workers=1, taps=3)
    check(conv, square((5, 4), 6, 20, 3, 1, 1), plan=plan)


def test_height_known_only_at_run_time_where_tiles_are_clipped() -> None:
    spec = square((H, 17), 6, 20, 3, 1, 1, n=B)
    plan = next(iter(conv.plans(spec, Target.host())))
    assert isinstance(plan, ConvPlan)
    assert plan.clip
    check(conv, spec, {B: 2, H: 7}, plan)


def test_clipping_needs_a_known_width_and_no_border_in_depth() -> None:
    deep = ConvSpec(1, (5, 6, 7), 8, 12, (3, 3, 3), (1, 1, 1), (1,) * 6, (1, 1, 1))
    for spec in (square((9, W), 8, 8, 3, 1, 1), deep, square((9, 9), 8, 8, 3)):
        assert not any(plan.clip for plan in conv.plans(spec, Target.host()) if isinstance(plan, ConvPlan))


def test_taps_side_by_side_of_sizes_known_only_at_run_time() -> None:
    plan = ConvPlan(RegisterTile(6, 1, 8), 1, 6, strip=4, groups=1, workers=1, taps=3)
    check(conv, square((H, W), 6, 20, 3, 1, 1, n=B), {B: 2, H: 7, W: 17}, plan)


def test_one_vector_of_channels_reads_a_pixel_once_for_all_taps() -> None:
    plan = next(conv.direct_plans(square((14, 14), 16, 16, 3, pad=1), Target.parse("cpu:x86-64-v4")))
    assert isinstance(plan, ConvPlan)
    assert (plan.taps, plan.clip, plan.tile.rows, plan.tile.vectors) == (3, True, 14, 1)


def test_readers_join_rows_that_meet() -> None:
    run = Run((), 4, taps=2, apart=4)
    assert run.readers([0, 4]) == [(0, [(0, 0)]), (4, [(0, 1), (1, 0)]), (8, [(1, 1)])]


def test_readers_leave_out_what_is_not_there() -> None:
    run = Run((), 4, taps=2, apart=4, span=(4, 8))
    assert run.readers([0, 4]) == [(4, [(0, 1), (1, 0)])]


def test_later_plans_are_correct() -> None:
    spec = square((7, 9), 8, 40, 3, 1, 1)
    for plan in list(conv.plans(spec, Target.host()))[1:4]:
        check(conv, spec, plan=plan)


def test_output_size() -> None:
    assert square((224, 224), 3, 64, 7, 2, 3).out_spatial == (112, 112)
