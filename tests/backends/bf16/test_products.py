"""Products of bfloat16 on tiles and by dot products, against float64: shapes, edges, symbolic dims, epilogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels.amx import conv_bf16 as amx_conv
from optc.backends.kernels.amx import matmul_bf16 as amx_matmul
from optc.backends.kernels.bf16 import conv as dot_conv
from optc.backends.kernels.bf16 import matmul as dot_matmul
from optc.backends.kernels.conv import ConvSpec
from optc.backends.kernels.matmul import MatmulSpec
from optc.backends.target import Target
from tvm import tirx

from ..amx.support import fenced
from .support import check_sums, convolved, needs_amx, needs_bf16, numbers, wide

M = tirx.Var("m", "int64")
MATMULS = [pytest.param(amx_matmul, marks=needs_amx), pytest.param(dot_matmul, marks=needs_bf16)]
CONVS = [pytest.param(amx_conv, marks=needs_amx), pytest.param(dot_conv, marks=needs_bf16)]


def run_matmul(family: Any, kernel: Any, spec: MatmulSpec, plan: Any, m: int) -> None:
    a = fenced(numbers(m, spec.k))
    b = numbers(*((spec.n, spec.k) if spec.trans_b else (spec.k, spec.n)), seed=1)
    bias = fenced(np.random.default_rng(2).standard_normal(spec.n).astype("float32"))
    y = fenced(np.zeros((m, spec.n), "float32"))
    kernel(a, family.pack_weights(b, spec, plan), bias, y)
    columns = wide(b.T if spec.trans_b else b)
    magnitude = np.abs(wide(a)) @ np.abs(columns) + np.abs(bias)
    check_sums(y, wide(a) @ columns + bias, magnitude, int(spec.k))


@pytest.mark.parametrize("family", MATMULS)
@pytest.mark.parametrize("k", [1, 3, 15, 27, 32, 33, 96, 147, 576])
def test_matmul_at_every_edge(family: Any, k: int) -> None:
    cases = {}
    for n in (1, 10, 16, 33, 64):
        for m in (1, 7, 16, 17, 49):
            spec = MatmulSpec(m, n, k, trans_b=n % 2 == 0)
            cases[f"f{m}_{n}"] = (spec, next(family.plans(spec, Target.host())))
    kernels = jit({name: family.build(spec, plan) for name, (spec, plan) in cases.items()})
    for name, (spec, plan) in cases.items():
        run_matmul(family, kernels[name], spec, plan, spec.m)


@pytest.mark.parametrize("family", MATMULS)
@pytest.mark.parametrize("k", [27, 130])
def test_matmul_of_symbolic_rows(family: Any, k: int) -> None:
    spec = MatmulSpec(M, 40, k)
    plan = next(family.plans(spec, Target.host()))
    kernel = jit({"f": family.build(spec, plan)})["f"]
    for m in (1, 15, 16, 33, 300):
        run_matmul(family, kernel, spec, plan, m)


CASES = {
    "1x1": ConvSpec(2, (7, 9), 24, 20, (1, 1), (1, 1), (0,) * 4, (1, 1)),
    "3x3": ConvSpec(1, (9, 14), 32, 40, (3, 3), (1, 1), (1,) * 4, (1, 1)),
    "odd": ConvSpec(2, (11, 13), 3, 24, (3, 3), (2, 2), (1,) * 4, (1, 1)),
    "odd, no border": ConvSpec(1, (12, 15), 5, 16, (3, 3), (2, 2), (0,) * 4, (1, 1)),
    "7x7": ConvSpec(1, (30, 30), 3, 64, (7, 7), (2, 2), (3,) * 4, (1, 1)),
    "strided 1x1": ConvSpec(1, (14, 14), 33, 16, (1, 1), (2, 2), (0,) * 4, (1, 1)),
    "dilated": ConvSpec(1, (12, 12), 16, 16, (3, 3), (1, 1), (2,) * 4, (2, 2)),
    "groups": ConvSpec(1, (8, 8), 64, 48, (3, 3), (1, 1), (1,) * 4, (1, 1), group=4),
    "1-d": ConvSpec(2, (50,), 17, 12, (5,), (1,), (2, 2), (1,)),
    "3-d": ConvSpec(1, (5, 6, 7), 9, 8, (3, 3, 3), (1, 2, 1), (1,) * 6, (1, 1, 1)),
}


@pytest.mark.parametrize("family", CONVS)
@pytest.mark.parametrize("name", CASES)
def test_conv(family: Any, name: str) -> None:
    spec = CASES[name]
    plan = next(family.plans(spec, Target.host()))
    kernel = jit({"f": family.build(spec, plan)})["f"]
    x = fenced(numbers(spec.batch, *spec.spatial, spec.c_in))
    w = numbers(spec.c_out, spec.c_in // spec.group, *spec.kernel, seed=1)
    bias = np.random.default_rng(2).standard_normal(spec.c_out).astype("float32")
    y = fenced(np.zeros((spec.batch, *spec.out_spatial, spec.c_out), "float32"))
    kernel(x, family.pack_weights(w, spec, plan), bias, y)
    magnitude = convolved(np.abs(wide(x)), np.abs(wide(w)), spec) + np.abs(bias)
    products = spec.c_in // spec.group * int(np.prod(spec.kernel))
    check_sums(y, convolved(wide(x), wide(w), spec) + bias, magnitude, products)
