"""Integer matrix products against numpy, exactly: shapes, tails of k, levels, symbolic dims, threads, plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optc.backends.isa.dot import Dot2, Dot4, arithmetic
from optc.backends.jit import jit
from optc.backends.kernels.dot import matmul
from optc.backends.kernels.matmul import MatmulPlan, MatmulSpec
from optc.backends.kernels.tile import RegisterTile
from optc.backends.target import Target
from tvm import tirx

from .exact import LEVELS, Halved, numbers

B, M = (tirx.Var(name, "int64") for name in "BM")


def check(specs: list[tuple[MatmulSpec, dict[Any, int]]], level: str, plan: Any = None, threads: int = 1) -> None:
    """Compiles a kernel a spec and runs each at its sizes."""
    target = Target.parse(f"cpu:{level}")
    chosen = [plan or next(matmul.plans(spec, target)) for spec, _ in specs]
    built = {f"f{i}": matmul.build(spec, p) for i, ((spec, _), p) in enumerate(zip(specs, chosen, strict=True))}
    kernels = jit(built, target, threads)
    for i, ((spec, sizes), used) in enumerate(zip(specs, chosen, strict=True)):
        lead = [sizes.get(d, d) for d in (*spec.batch_a, spec.m)]
        a, bias = numbers("uint8", *lead, spec.k), numbers("int32", spec.n)
        b = numbers("int8", *((spec.n, spec.k) if spec.trans_b else (spec.k, spec.n)))
        y = np.full((*lead, spec.n), 77, "int32")
        kernels[f"f{i}"](a, matmul.pack_weights(b, spec, used), bias, y)
        wide = b.T if spec.trans_b else b
        exact = (a.astype("int64") @ wide.astype("int64") + bias).astype("int32")
        np.testing.assert_array_equal(y, exact, err_msg=f"{spec} {used}")


SHAPES = [(1, 1, 1), (5, 17, 13), (1, 100, 7), (3, 40, 1), (33, 48, 66), (64, 96, 128), (2, 130, 31), (16, 7, 4)]


@pytest.mark.parametrize("level", LEVELS)
def test_shapes_and_tails_of_k(level: str) -> None:
    check([(MatmulSpec(*shape), {}) for shape in SHAPES], level)


@pytest.mark.parametrize("level", LEVELS)
def test_rows_known_only_at_run_time(level: str) -> None:
    spec = MatmulSpec(M, 50, 27, batch_a=(B,), trans_b=True)
    check([(spec, {B: 2, M: 1}), (spec, {B: 1, M: 13}), (spec, {B: 3, M: 29})], level)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("kind", "level"), [(Dot4(), "cascadelake"), (Dot2(), "x86-64-v4")])
def test_tasks_cover_the_output(kind: Any, level: str, groups: int, threads: int) -> None:
    plan = MatmulPlan(RegisterTile(5, 2, 16, kind), row_block=10, groups=groups, parallel=True, ahead=4)
    check([(MatmulSpec(37, 150, 30), {})], level, plan, threads)


def test_later_plans_are_exact() -> None:
    spec = MatmulSpec(20, 70, 19)
    for plan in list(matmul.plans(spec, Target.host()))[1:4]:
        check([(spec, {})], "sapphirerapids", plan)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("flat", [True, False])
def test_epilogue_stores_bytes(level: str, flat: bool) -> None:
    target, spec = Target.parse(f"cpu:{level}"), MatmulSpec(M, 50, 27, batch_a=(3,))
    plan = next(matmul.plans(spec, target))
    kernel = jit({"f": matmul.build(spec, plan, Halved((3, M, 50), flat))}, target)["f"]
    a, b, bias, residual = (
        numbers("uint8", 3, 7, 27), numbers("int8", 27, 50), numbers("int32", 50) >> 16, numbers("uint8", 3, 7, 50)
    )  # fmt: skip
    y = np.zeros((3, 7, 50), "uint8")
    kernel(a, matmul.pack_weights(b, spec, plan), bias, residual.reshape(21, 50) if flat else residual, y)
    sums = a.astype("int64") @ b.astype("int64") + bias
    np.testing.assert_array_equal(y, Halved.exact(sums, residual))


@pytest.mark.parametrize(
    ("level", "depth"),
    [("x86-64-v2", 2), ("x86-64-v3", 2), ("alderlake", 4), ("x86-64-v4", 2), ("cascadelake", 4), ("sapphirerapids", 4)],
)
def test_each_level_takes_its_fastest_exact_product(level: str, depth: int) -> None:
    assert arithmetic(Target.parse(f"cpu:{level}")).depth == depth


@pytest.mark.parametrize("level", LEVELS)
def test_largest_products_do_not_saturate(level: str) -> None:
    spec, target = MatmulSpec(3, 20, 64), Target.parse(f"cpu:{level}")
    plan = next(matmul.plans(spec, target))
    a, b = np.full((3, 64), 255, "uint8"), np.full((64, 20), -128, "int8")
    y = np.zeros((3, 20), "int32")
    kernel = jit({"f": matmul.build(spec, plan)}, target)["f"]
    kernel(a, matmul.pack_weights(b, spec, plan), np.zeros(20, "int32"), y)
    assert (y == -128 * 255 * 64).all()
