"""Products with packed weights against float64 numpy over the decoded weights: formats, shapes, levels, plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels.builder import buffer
from optc.backends.kernels.packed import product
from optc.backends.kernels.packed.product import FEW_ROWS, PackedPlan, PackedSpec
from optc.backends.kernels.tile import RegisterTile
from optc.backends.target import Target
from optc.compiler.types import DType
from tvm import tirx

M, B = (tirx.Var(name, "int64") for name in "MB")
LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")


def weights(spec: PackedSpec) -> tuple[list[np.ndarray | None], np.ndarray]:
    """Codes, scales, codebook and zero points at random, and the float64 weights they stand for."""
    rng, half = np.random.default_rng(0), 1 << (spec.bits - 1)
    codes = rng.integers(-half, half, (spec.k, spec.n)).astype(np.int8)
    scales = rng.uniform(0.1, 1.0, (spec.blocks, spec.n))
    scales = scales.astype(np.float32 if spec.scale == "float32" else DType.BF16.numpy)
    codebook = zeros = None
    if spec.codebook:
        codes = (codes.astype(np.int16) + half).astype(np.uint8)
        codebook = np.sort(rng.standard_normal(2 * half)).astype(np.float32)
    if spec.zero is not None:
        zeros = rng.integers(-half, half, (spec.blocks, spec.n)).astype(spec.zero)
    rows = np.arange(spec.k) // spec.block
    values = (codes if codebook is None else codebook[codes]).astype(np.float64)
    if zeros is not None:
        values -= zeros.astype(np.float64)[rows]
    return [codes, scales, codebook, zeros], values * scales.astype(np.float64)[rows]


def check(
    cases: Sequence[tuple[PackedSpec, Sequence[int]]],
    target: Target | None = None,
    plan: PackedPlan | None = None,
    threads: int = 1,
) -> None:
    """Runs specs, each on a of so many rows; the bound is relative to the sums of magnitudes."""
    target = target or Target.host()
    plans = [plan or next(product.plans(spec, target)) for spec, _ in cases]
    kernels = {f"f{i}": product.build(spec, plans[i]) for i, (spec, _) in enumerate(cases)}
    compiled = jit(kernels, target, threads)
    for i, (spec, rows) in enumerate(cases):
        arrays, exact = weights(spec)
        a = np.random.default_rng(1).standard_normal((*rows, spec.k), dtype="float32")
        y = np.full((*rows, spec.n), np.nan, "float32")
        compiled[f"f{i}"](a, *product.pack(spec, plans[i], *arrays), y)
        wanted, magnitude = a.astype(np.float64) @ exact, np.abs(a).astype(np.float64) @ np.abs(exact)
        assert (np.abs(y - wanted) <= 1e-6 * magnitude + 1e-30).all()


FORMATS = {
    "int8": PackedSpec((), 70, 150, 8, 150),
    "int8 blocks": PackedSpec((), 70, 150, 8, 32, scale="bfloat16"),
    "int4": PackedSpec((), 70, 150, 4, 32, scale="bfloat16"),
    "int4 small blocks": PackedSpec((), 70, 150, 4, 16),
    "int4 zeros": PackedSpec((), 70, 150, 4, 32, zero="int8"),
    "int4 float zeros": PackedSpec((), 70, 150, 4, 150, zero="float32"),
    "linear2": PackedSpec((), 70, 150, 2, 64),
    "linear3": PackedSpec((), 70, 150, 3, 64),
    "linear7": PackedSpec((), 70, 150, 7, 150),
    "codebook3": PackedSpec((), 70, 150, 3, 32, codebook=True),
    "codebook4": PackedSpec((), 70, 150, 4, 32, codebook=True, scale="bfloat16"),
    "codebook6": PackedSpec((), 70, 150, 6, 64, codebook=True),
    "codebook8": PackedSpec((), 70, 150, 8, 150, codebook=True),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_at_every_level(name: str, level: str) -> None:
    check([(replace(FORMATS[name], rows=(m,)), (m,)) for m in (1, 19)], Target.parse(f"cpu:{level}"))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 33), (64, 64), (200, 31), (1000, 96)])
def test_edges(n: int, k: int) -> None:
    sizes = (1, 2, FEW_ROWS, FEW_ROWS + 1)
    check([(PackedSpec((m,), n, k, 4, 32, scale="bfloat16"), (m,)) for m in sizes])


def test_rows_known_only_at_run_time() -> None:
    check([(PackedSpec((M,), 70, 96, 4, 32), (m,)) for m in (0, 1, 3, 7, FEW_ROWS, FEW_ROWS + 1, 140)])


def test_batches_are_more_rows() -> None:
    check([(PackedSpec((B, 3, M), 40, 64, 8, 64), (2, 3, 5))])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("groups", "blocks"), [(1, 1), (3, 1), (1, 3), (2, 2)])
def test_tasks_cover_the_output(groups: int, blocks: int, threads: int) -> None:
    plan = PackedPlan(RegisterTile(5, 2, Target.host().lanes), groups, blocks, parallel=True, tabled=True)
    cases = [(PackedSpec((size,), 170, 64, 4, 32), (m,)) for m in (2, 22, 43) for size in (m, M)]
    check(cases, plan=plan, threads=threads)


def test_later_plans_are_correct() -> None:
    spec = PackedSpec((29,), 70, 64, 4, 32)
    for plan in product.plans(spec, Target.host()):
        assert plan.tile.fits(Target.host())
        check([(spec, (29,))], plan=plan)


class ReluOfBias:
    """max(value + bias, 0), with logical or flat indices."""

    dtype = "float32"

    def __init__(self, shape: tuple[int, ...], flat: bool) -> None:
        self.flat = flat
        self.buffers = [buffer("bias", (int(np.prod(shape[:-1])), shape[-1]) if flat else shape)]

    def __call__(self, value: Any, indices: Sequence[Any], lanes: int) -> Any:
        last = indices[-1] if lanes == 1 else tirx.Ramp(indices[-1], tirx.IntImm("int64", 1), lanes)
        total = value + tirx.BufferLoad(self.buffers[0], [*indices[:-1], last])
        zero = tirx.FloatImm("float32", 0.0)
        return tirx.max(total, zero if lanes == 1 else tirx.Broadcast(zero, lanes))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("rows", [(2, 2), (4, 9)])
def test_the_epilogue_is_computed_in_registers(rows: tuple[int, int], flat: bool) -> None:
    spec = PackedSpec(rows, 45, 64, 4, 32)
    plan = next(product.plans(spec, Target.host()))
    arrays, exact = weights(spec)
    rng = np.random.default_rng(2)
    a, bias = rng.standard_normal((*rows, 64), dtype="float32"), rng.standard_normal((*rows, 45), dtype="float32")
    y = np.empty((*rows, 45), "float32")
    kernel = jit({"f": product.build(spec, plan, ReluOfBias((*rows, 45), flat))})["f"]
    kernel(a, *product.pack(spec, plan, *arrays), bias.reshape(-1, 45) if flat else bias, y)
    np.testing.assert_allclose(y, np.maximum(a.astype("float64") @ exact + bias, 0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("m", [3, 20])
def test_nothing_is_read_or_written_beyond_the_ends(m: int) -> None:
    spec = PackedSpec((m,), 5, 20, 4, 20)
    plan = next(product.plans(spec, Target.host()))
    arrays, exact = weights(spec)
    a, y = np.full(m * 20 + 64, np.nan, "float32"), np.full(m * 5 + 64, 7.0, "float32")
    a[32:-32] = 1
    kernel = jit({"f": product.build(spec, plan)})["f"]
    kernel(a[32:-32].reshape(m, 20), *product.pack(spec, plan, *arrays), y[32:-32].reshape(m, 5))
    assert (y[:32] == 7).all()
    assert (y[-32:] == 7).all()
    np.testing.assert_allclose(y[32:-32].reshape(m, 5), np.ones((m, 20)) @ exact, rtol=1e-5, atol=1e-5)


def test_blocks_that_fill_no_words_have_no_kernel() -> None:
    assert product.takes(3, 32, 100)
    assert product.takes(3, 100, 100)
    assert not product.takes(3, 16, 100)
    spec = PackedSpec((1,), 8, 100, 3, 16)
    with pytest.raises(ValueError, match="do not fill words"):
        product.build(spec, next(product.plans(spec, Target.host())))
