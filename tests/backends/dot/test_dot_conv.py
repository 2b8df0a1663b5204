"""Integer convolutions, dense, grouped and depthwise, against numpy, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optc.backends.isa.dot import Dot4
from optc.backends.jit import jit
from optc.backends.kernels.conv import ConvPlan, ConvSpec
from optc.backends.kernels.dot import conv, depthwise
from optc.backends.kernels.dot.depthwise import DepthwisePlan
from optc.backends.kernels.tile import RegisterTile
from optc.backends.target import Target
from tvm import tirx

from .exact import BORDER, LEVELS, Halved, convolution, numbers, sizes_of

B, H, W = (tirx.Var(name, "int64") for name in "BHW")
Case = tuple[ConvSpec, dict[Any, int], Any]


def check(template: Any, cases: list[Case], level: str, threads: int = 1) -> None:
    """Runs a kernel a (spec, sizes of its symbols, plan or None), all compiled together."""
    target = Target.parse(f"cpu:{level}")
    cases = [(spec, sizes, plan or next(template.plans(spec, target))) for spec, sizes, plan in cases]
    kernels = jit({f"f{i}": template.build(spec, plan) for i, (spec, _, plan) in enumerate(cases)}, target, threads)
    for i, (spec, sizes, plan) in enumerate(cases):
        known = sizes_of(spec, sizes)
        x, bias = numbers("uint8", known.batch, *known.spatial, spec.c_in), numbers("int32", spec.c_out)
        w = numbers("int8", spec.c_out, spec.c_in // spec.group, *spec.kernel)
        exact = convolution(x, w, bias, known)
        y = np.full(exact.shape, 77, "int32")
        border = [np.array([BORDER], "uint8")] if spec.padded else []
        kernels[f"f{i}"](x, template.pack_weights(w, spec, plan), bias, *border, y)
        np.testing.assert_array_equal(y, exact, err_msg=f"{spec} {plan}")


def square(
    size: Any, c_in: int, c_out: int, k: int, stride: int = 1, pad: int = 0, dilation: int = 1, group: int = 1,
    n: Any = 1,
) -> ConvSpec:  # fmt: skip
    return ConvSpec(n, size, c_in, c_out, (k, k), (stride,) * 2, (pad,) * 4, (dilation,) * 2, group)


CONVS = [
    square((14, 14), 20, 30, 3, pad=1),
    square((7, 7), 16, 64, 3, pad=1),
    square((33, 30), 3, 16, 7, 2, 3),
    square((9, 10), 24, 40, 1, n=2),
    square((9, 10), 22, 40, 1, 2),
    square((12, 13), 8, 12, 3),
    square((15, 16), 7, 12, 3, 1, 2, 2),
    square((10, 11), 24, 36, 3, 1, 1, group=3, n=2),
    square((6, 5), 4, 8, 3, 1, 1, group=4),
    square((8, 8), 6, 6, 3, 1, 1, group=3),
    square((2, 3), 5, 7, 5, 1, 2),
    ConvSpec(1, (20, 1), 6, 9, (3, 1), (1, 1), (1, 0, 1, 0), (1, 1)),
    ConvSpec(2, (8, 9), 6, 9, (4, 2), (2, 1), (1, 0, 2, 1), (1, 1)),
    ConvSpec(2, (101,), 20, 30, (5,), (2,), (1, 3), (1,)),
    ConvSpec(1, (5, 6, 7), 8, 12, (3, 2, 3), (1, 2, 1), (1, 0, 1, 1, 1, 0), (1, 1, 2)),
]
DEPTHWISE = [
    square((14, 15), 48, 48, 3, 1, 1, group=48),
    square((14, 15), 33, 33, 3, 2, 1, group=33, n=2),
    square((9, 21), 24, 24, 5, 1, 2, group=24),
    square((12, 13), 28, 28, 3, 2, 2, 2, group=28),
    square((3, 2), 5, 5, 5, 1, 2, group=5),
    square((9, 8), 16, 16, 3, group=16),
    square((20, 21), 20, 20, 9, 1, 4, group=20),
    square((20, 21), 37, 37, 5, 2, 2, group=37),
    ConvSpec(1, (11, 12), 32, 32, (3, 5), (1, 2), (1, 2, 2, 1), (1, 1), 32),
    ConvSpec(2, (40,), 30, 30, (5,), (2,), (1, 3), (1,), 30),
    ConvSpec(2, (40,), 30, 30, (31,), (1,), (15, 15), (1,), 30),
    ConvSpec(1, (5, 6, 7), 12, 12, (3, 2, 3), (1, 2, 1), (1, 0, 1, 1, 1, 0), (1, 1, 2), 12),
]


@pytest.mark.parametrize("level", LEVELS)
def test_convolutions(level: str) -> None:
    check(conv, [(spec, {}, None) for spec in CONVS], level)


@pytest.mark.parametrize("level", LEVELS)
def test_depthwise(level: str) -> None:
    assert all(depthwise.applies(spec) for spec in DEPTHWISE)
    check(depthwise, [(spec, {}, None) for spec in DEPTHWISE], level)


@pytest.mark.parametrize("level", ["x86-64-v3", "sapphirerapids"])
def test_sizes_known_only_at_run_time(level: str) -> None:
    sizes = {B: 2, H: 11, W: 37}
    dense = [(3, 1, 1, 1), (3, 2, 0, 1), (1, 1, 0, 1), (5, 2, 2, 4)]
    check(conv, [(square((H, W), 20, 20, k, s, p, group=g, n=B), sizes, None) for k, s, p, g in dense], level)
    separate = [(3, 1, 1), (3, 2, 0), (5, 2, 2)]
    cases: list[Case] = [(square((H, W), 20, 20, k, s, p, group=20, n=B), sizes, None) for k, s, p in separate]
    cases += [(cases[0][0], {B: 1, H: height, W: 1}, None) for height in (1, 2, 4)]
    check(depthwise, [*cases, (ConvSpec(B, (W,), 24, 24, (7,), (1,), (3, 3), (1,), 24), sizes, None)], level)


@pytest.mark.parametrize("threads", [1, 2])
def test_tasks_cover_the_output(threads: int) -> None:
    tile = RegisterTile(10, 1, 16, Dot4())
    plans = [ConvPlan(tile, 2, 5, strip, groups, 2, ahead=4) for strip, groups in ((2, 1), (14, 3), (4, 2))]
    check(conv, [(square((13, 5), 6, 70, 3, 1, 1, n=3), {}, plan) for plan in plans], "sapphirerapids", threads)
    bands = [DepthwisePlan(Dot4(), 16, rows, 3, 2) for rows in (1, 2, 3, 5)]
    check(depthwise, [(square((13, 5), 20, 20, 3, 1, 1, n=3, group=20), {}, p) for p in bands], "cascadelake", threads)


def test_later_plans_are_exact() -> None:
    target = Target.parse("cpu:alderlake")
    spec = square((7, 9), 10, 40, 3, 1, 1)
    check(conv, [(spec, {}, plan) for plan in list(conv.plans(spec, target))[1:4]], "alderlake")
    spec = square((17, 18), 24, 24, 5, 1, 2, group=24)
    check(depthwise, [(spec, {}, plan) for plan in list(depthwise.plans(spec, target))[1:]], "alderlake")


@pytest.mark.parametrize("level", ["x86-64-v2", "alderlake", "sapphirerapids"])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    ("template", "spec"),
    [
        (conv, square((9, 7), 10, 20, 3, 1, 1, n=2)),
        (conv, square((9, 7), 10, 20, 1, n=2)),
        (depthwise, square((9, 7), 20, 20, 3, 1, 1, n=2, group=20)),
        (depthwise, ConvSpec(2, (9,), 20, 20, (3,), (1,), (1, 1), (1,), 20)),
    ],
)
def test_epilogue_stores_bytes(template: Any, spec: ConvSpec, flat: bool, level: str) -> None:
    target = Target.parse(f"cpu:{level}")
    plan = next(template.plans(spec, target))
    shape = (spec.batch, *spec.out_spatial, spec.c_out)
    kernel = jit({"f": template.build(spec, plan, Halved(shape, flat))}, target)["f"]
    x, w = numbers("uint8", 2, *spec.spatial, spec.c_in), numbers("int8", 20, spec.c_in // spec.group, *spec.kernel)
    bias, residual, y = numbers("int32", 20) >> 16, numbers("uint8", *shape), np.zeros(shape, "uint8")
    border = [np.array([BORDER], "uint8")] if spec.padded else []
    given = residual.reshape(-1, 20) if flat else residual
    kernel(x, template.pack_weights(w, spec, plan), bias, *border, given, y)
    np.testing.assert_array_equal(y, Halved.exact(convolution(x, w, bias, spec), residual))


def test_padding_that_crops_is_left_to_others() -> None:
    assert not depthwise.applies(square((8, 8), 16, 16, 3, pad=-1, group=16))


def test_few_channels_go_to_the_grouped_convolution() -> None:
    assert not depthwise.applies(square((8, 8), 3, 3, 3, group=3))
    assert not depthwise.applies(square((8, 8), 8, 16, 3, group=8))
