"""AMX products against numpy, exactly: shapes, edges, batches, symbolic rows, blocks, epilogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels.amx import matmul
from optc.backends.kernels.amx.matmul import MatmulPlan
from optc.backends.kernels.amx.tiles import Block
from optc.backends.kernels.matmul import MatmulSpec
from optc.backends.target import Target
from optc.compiler.errors import UnsupportedError
from tvm import tirx

from .support import AddFull, fenced, integers, needs_amx

pytestmark = needs_amx
M, BATCH = (tirx.Var(name, "int64") for name in ("m", "batch"))


def run(kernel: Any, spec: MatmulSpec, plan: MatmulPlan, sizes: dict[Any, int] | None = None) -> None:
    """Compares the kernel with int64 sums taken modulo 2^32."""
    shape = [(sizes or {}).get(d, d) for d in (*spec.batch_a, spec.m)]
    a = fenced(integers("uint8", *shape, spec.k))
    b = integers("int8", *((spec.n, spec.k) if spec.trans_b else (spec.k, spec.n)))
    bias = fenced(integers("int32", spec.n))
    y = fenced(np.zeros((*shape, spec.n), "int32"))
    kernel(a, matmul.pack_weights(b, spec, plan), bias, y)
    exact = a.astype("int64") @ (b.T if spec.trans_b else b).astype("int64") + bias
    np.testing.assert_array_equal(y, exact.astype("int32"))


def check(
    spec: MatmulSpec, sizes: dict[Any, int] | None = None, plan: MatmulPlan | None = None, threads: int = 1
) -> None:
    plan = plan or next(matmul.plans(spec, Target.host()))
    run(jit({"f": matmul.build(spec, plan)}, threads=threads)["f"], spec, plan, sizes)


@pytest.mark.parametrize("k", [3, 27, 48, 64, 65, 96, 147, 576])
def test_every_edge(k: int) -> None:
    cases = {}
    for n in (1, 10, 16, 24, 33, 64):
        for m in (1, 7, 16, 17, 49, 196):
            spec = MatmulSpec(m, n, k)
            cases[f"f{m}_{n}"] = (spec, next(matmul.plans(spec, Target.host())))
    kernels = jit({name: matmul.build(spec, plan) for name, (spec, plan) in cases.items()})
    for name, (spec, plan) in cases.items():
        run(kernels[name], spec, plan)


@pytest.mark.parametrize("k", [20, 27, 130])
@pytest.mark.parametrize("n", [24, 80])
def test_symbolic_rows(n: int, k: int) -> None:
    spec = MatmulSpec(M, n, k, trans_b=True)
    plan = next(matmul.plans(spec, Target.host()))
    kernel = jit({"f": matmul.build(spec, plan)})["f"]
    for m in (1, 15, 16, 33, 300):
        run(kernel, spec, plan, {M: m})


def test_other_blocks() -> None:
    spec = MatmulSpec(50, 90, 200)
    for block in (Block(1, 1), Block(1, 6), Block(3, 1), Block(6, 1), Block(1, 4), Block(2, 2)):
        assert block.fits
        check(spec, plan=MatmulPlan(block, chunk=2, parts=1, workers=1))


@pytest.mark.parametrize("k", [40, 3])
def test_threads(k: int) -> None:
    for chunk, parts in ((1, 1), (1, 3), (4, 2)):
        spec = MatmulSpec(100, 150, k)
        check(spec, plan=MatmulPlan(Block(2, 2), chunk, parts, workers=2), threads=2)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("k", [30, 64])
def test_batch_and_epilogue(flat: bool, k: int) -> None:
    spec = MatmulSpec(M, 40, k, batch_a=(BATCH, 2))
    epilogue = AddFull((BATCH, 2, M, 40), flat)
    plan = next(matmul.plans(spec, Target.host()))
    kernel = jit({"f": matmul.build(spec, plan, epilogue)})["f"]
    for m in (5, 19):
        a, b, bias = integers("uint8", 3, 2, m, k), integers("int8", k, 40), integers("int32", 40) >> 8
        full, y = integers("uint8", 3, 2, m, 40), np.zeros((3, 2, m, 40), "float32")
        given = full.reshape(-1, 40) if flat else full
        kernel(fenced(a), matmul.pack_weights(b, spec, plan), bias, fenced(given), y)
        exact = (a.astype("int64") @ b.astype("int64") + bias).astype("float32") + full.astype("float32")
        np.testing.assert_array_equal(y, exact)


def test_what_has_no_plan() -> None:
    host = Target.host()
    for spec in (
        MatmulSpec(4, 4, 4, constant_b=False),
        MatmulSpec(4, 4, 4, trans_a=True),
        MatmulSpec(4, 4, 4, (2,), (2,)),
    ):
        assert not matmul.applies(spec, host)
        with pytest.raises(UnsupportedError, match="no AMX kernel"):
            next(matmul.plans(spec, host))
    assert not matmul.applies(MatmulSpec(4, 4, 4), Target.parse("cpu:x86-64-v4"))
