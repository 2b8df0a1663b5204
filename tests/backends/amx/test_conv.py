"""AMX convolutions against numpy, exactly: 1-D to 3-D, strides, pads, dilations, groups, symbolic sizes, threads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels.amx import conv
from optc.backends.kernels.amx.conv import ConvPlan
from optc.backends.kernels.amx.tiles import Block
from optc.backends.kernels.conv import ConvSpec
from optc.backends.target import Target
from optc.compiler.errors import UnsupportedError
from tvm import tirx

from .support import AddFull, fenced, integers, needs_amx

pytestmark = needs_amx
B, H, W = (tirx.Var(name, "int64") for name in "BHW")
PAD = 77


def reference(x: np.ndarray, w: np.ndarray, bias: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """The convolution in int64, tap by tap, modulo 2^32."""
    rank = len(spec.kernel)
    pads = [(0, 0), *zip(spec.pads[:rank], spec.pads[rank:], strict=True), (0, 0)]
    padded = np.pad(x.astype("int64"), pads, constant_values=PAD)
    out = [(padded.shape[1 + i] - spec.reach[i]) // spec.strides[i] + 1 for i in range(rank)]
    y = np.zeros((x.shape[0], *out, spec.c_out), "int64")
    c_in, c_out = spec.c_in // spec.group, spec.c_out // spec.group
    for tap in np.ndindex(*spec.kernel):
        starts = [t * d for t, d in zip(tap, spec.dilations, strict=True)]
        cut = [slice(s, s + (o - 1) * k + 1, k) for s, o, k in zip(starts, out, spec.strides, strict=True)]
        part = padded[(slice(None), *cut)]
        for g in range(spec.group):
            weights = w[(slice(g * c_out, (g + 1) * c_out), slice(None), *tap)].astype("int64")
            y[..., g * c_out : (g + 1) * c_out] += part[..., g * c_in : (g + 1) * c_in] @ weights.T
    return (y + bias).astype("int32")


def run(kernel: Any, spec: ConvSpec, plan: Any, sizes: dict[Any, int] | None = None) -> None:
    shape = [(sizes or {}).get(d, d) for d in (spec.batch, *spec.spatial)]
    x = fenced(integers("uint8", *shape, spec.c_in))
    w = integers("int8", spec.c_out, spec.c_in // spec.group, *spec.kernel)
    bias = fenced(integers("int32", spec.c_out))
    pad = [np.array([PAD], "uint8")] if any(spec.pads) else []
    exact = reference(x, w, bias, spec)
    y = fenced(np.zeros_like(exact))
    kernel(x, conv.pack_weights(w, spec, plan), bias, *pad, y)
    np.testing.assert_array_equal(y, exact)


def check(spec: ConvSpec, plan: Any = None, threads: int = 1) -> None:
    plan = plan or next(conv.plans(spec, Target.host()))
    run(jit({"f": conv.build(spec, plan)}, threads=threads)["f"], spec, plan)


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
    "3x3": square((14, 14), 64, 64, 3, pad=1),
    "3x3 rows of 7": square((7, 7), 20, 30, 3, pad=1, n=2),
    "3x3 stride 2": square((15, 14), 48, 40, 3, 2, 1),
    "3x3 stride 2, no padding": square((15, 13), 16, 16, 3, 2),
    "5x5": square((9, 11), 24, 33, 5, 1, 2),
    "7x7 of RGB": square((33, 30), 3, 16, 7, 2, 3),
    "3x3 of RGB": square((20, 18), 3, 32, 3, 2, 1),
    "1x1": square((9, 10), 24, 40, 1, n=2),
    "1x1 stride 2": square((9, 10), 24, 40, 1, 2),
    "1x1 stride 2, 80 channels": square((7, 6), 80, 10, 1, 2),
    "1x1 padded": square((6, 5), 96, 24, 1, 1, 1),
    "stride beyond the kernel": square((16, 17), 32, 16, 2, 3),
    "no padding": square((12, 13), 8, 12, 3),
    "dilated": square((15, 16), 32, 12, 3, 1, 2, 2),
    "dilated and strided": square((15, 16), 8, 12, 3, 2, 2, 2),
    "grouped": square((10, 11), 48, 60, 3, 1, 1, group=3, n=2),
    "grouped and strided": square((10, 11), 64, 32, 3, 2, 1, group=2),
    "image smaller than the kernel": square((2, 3), 5, 7, 5, 1, 2),
    "one pixel": square((3, 3), 65, 17, 3),
    "one column": ConvSpec(1, (20, 1), 6, 9, (3, 1), (1, 1), (1, 0, 1, 0), (1, 1)),
    "uneven pads": ConvSpec(2, (8, 9), 6, 9, (4, 2), (2, 1), (1, 0, 2, 1), (1, 1)),
    "1-D": ConvSpec(2, (101,), 20, 30, (5,), (2,), (1, 3), (1,)),
    "3-D": ConvSpec(1, (5, 6, 7), 8, 12, (3, 2, 3), (1, 2, 1), (1, 0, 1, 1, 1, 0), (1, 1, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_exact(case: str) -> None:
    check(CASES[case])


@pytest.mark.parametrize(
    "spec",
    [
        square((H, W), 24, 40, 3, 1, 1, n=B),
        square((H, W), 32, 20, 3, 2, 1, n=B),
        square((H, W), 30, 24, 1, 2, n=B),
        square((H, W), 20, 24, 1, n=B),
        square((H, W), 3, 16, 7, 2, 3, n=B),
    ],
)
def test_symbolic_sizes(spec: ConvSpec) -> None:
    plan = next(conv.plans(spec, Target.host()))
    kernel = jit({"f": conv.build(spec, plan)})["f"]
    for sizes in ({B: 1, H: 7, W: 7}, {B: 2, H: 20, W: 33}, {B: 3, H: 1, W: 2}):
        run(kernel, spec, plan, sizes)


def test_symbolic_sequence() -> None:
    spec = ConvSpec(B, (W,), 24, 40, (5,), (2,), (2, 2), (1,))
    plan = next(conv.plans(spec, Target.host()))
    kernel = jit({"f": conv.build(spec, plan)})["f"]
    for width in (1, 2, 50, 333):
        run(kernel, spec, plan, {B: 2, W: width})


PLANS = {
    "strips": ConvPlan(Block(2, 2), rows=3, width=None, parts=1, workers=1),
    "segments": ConvPlan(Block(1, 4), rows=1, width=8, parts=1, workers=2),
    "parts": ConvPlan(Block(2, 1), rows=20, width=None, parts=3, workers=2),
    "strips and parts": ConvPlan(Block(1, 3), rows=4, width=None, parts=2, workers=2),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "spec", [square((13, 19), 24, 72, 3, 1, 1, n=2), square((13, 19), 24, 72, 3, 2, 1, n=2)], ids=["s1", "s2"]
)
def test_plans(spec: ConvSpec, plan: str) -> None:
    check(spec, PLANS[plan], threads=2)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_epilogue(flat: bool, kernel: int) -> None:
    spec = square((H, W), 16, 24, kernel, 1, kernel // 2, n=B)
    epilogue = AddFull((B, H, W, 24), flat)
    plan = next(conv.plans(spec, Target.host()))
    function = jit({"f": conv.build(spec, plan, epilogue)})["f"]
    x, w, bias = integers("uint8", 2, 9, 7, 16), integers("int8", 24, 16, kernel, kernel), integers("int32", 24) >> 8
    full, y = integers("uint8", 2, 9, 7, 24), np.zeros((2, 9, 7, 24), "float32")
    pad = [np.array([PAD], "uint8")] if kernel > 1 else []
    function(x, conv.pack_weights(w, spec, plan), bias, *pad, full.reshape(-1, 24) if flat else full, y)
    exact = reference(x, w, bias, spec).astype("float32") + full.astype("float32")
    np.testing.assert_array_equal(y, exact)


def test_what_has_no_plan() -> None:
    spec = square((8, 8), 32, 32, 3, 1, 1)
    assert conv.applies(spec, Target.host())
    assert not conv.applies(spec, Target.parse("cpu:x86-64-v4"))
    for other in (replace(spec, group=4), replace(spec, pads=(-1, 0, 0, 0))):
        assert not conv.applies(other, Target.host())
        with pytest.raises(UnsupportedError, match="no AMX kernel"):
            next(conv.plans(other, Target.host()))
