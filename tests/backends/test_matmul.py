"""The matmul template against float64 numpy: shapes, edges, transposes, batches, symbolic dims, plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import matmul
from optc.backends.kernels.builder import buffer
from optc.backends.kernels.matmul import MatmulPlan, MatmulSpec
from optc.backends.kernels.tile import RegisterTile
from optc.backends.target import Target
from tvm import tirx

M, N, K = (tirx.Var(name, "int64") for name in "MNK")


def check(
    spec: MatmulSpec,
    sizes: dict[Any, int] | None = None,
    plan: MatmulPlan | None = None,
    target: Target | None = None,
    threads: int = 1,
) -> None:
    """Runs the kernel on random data and compares; the bound is relative to the sums of magnitudes."""
    target = target or Target.host()
    plan = plan or next(iter(matmul.plans(spec, target)))
    rng = np.random.default_rng(0)

    def random(*dims: Any) -> np.ndarray:
        return rng.standard_normal([(sizes or {}).get(d, d) for d in dims], dtype="float32")

    a = random(*spec.batch_a, *((spec.k, spec.m) if spec.trans_a else (spec.m, spec.k)))
    b = random(*spec.batch_b, *((spec.n, spec.k) if spec.trans_b else (spec.k, spec.n)))
    wide_a = (a.swapaxes(-1, -2) if spec.trans_a else a).astype("float64")
    wide_b = (b.swapaxes(-1, -2) if spec.trans_b else b).astype("float64")
    exact, magnitude = wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)
    y = np.full(exact.shape, np.nan, "float32")
    given = matmul.pack_weights(b, spec, plan) if spec.constant_b else b
    jit({"f": matmul.build(spec, plan)}, target, threads)["f"](a, given, y)
    assert (np.abs(y - exact) <= 1e-6 * magnitude + 1e-30).all()


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 1000, 64), (14, 33, 7), (37, 77, 53), (200, 8, 24)])
@pytest.mark.parametrize("trans_b", [False, True])
def test_constant_b(m: int, n: int, k: int, trans_b: bool) -> None:
    check(MatmulSpec(m, n, k, trans_b=trans_b))


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("n", [64, 45])
def test_varying_b(trans_a: bool, trans_b: bool, n: int) -> None:
    check(MatmulSpec(19, n, 23, (3,), (3,), trans_a, trans_b, constant_b=False))


@pytest.mark.parametrize(
    ("batch_a", "batch_b"), [((2, 3), ()), ((2, 1), (2, 4)), ((3,), (2, 3)), ((), (4,)), ((1,), (5,))]
)
def test_batches_broadcast(batch_a: Sequence[int], batch_b: Sequence[int]) -> None:
    check(MatmulSpec(9, 20, 11, tuple(batch_a), tuple(batch_b), constant_b=False))


@pytest.mark.parametrize("m", [0, 5, 140])
def test_rows_known_only_at_run_time(m: int) -> None:
    check(MatmulSpec(M, 48, 20), {M: m})


@pytest.mark.parametrize("n", [1, 32, 77])
@pytest.mark.parametrize("trans_b", [False, True])
def test_all_dims_known_only_at_run_time(n: int, trans_b: bool) -> None:
    check(MatmulSpec(M, N, K, (2,), (2,), trans_b=trans_b, constant_b=False), {M: 17, N: n, K: 13})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
def test_tasks_cover_the_output(groups: int, threads: int) -> None:
    plan = MatmulPlan(RegisterTile(5, 2, 16), row_block=10, groups=groups, parallel=True, ahead=4)
    check(MatmulSpec(43, 170, 9), plan=plan, threads=threads)


def test_what_is_fetched_ahead_changes_nothing() -> None:
    plan = MatmulPlan(RegisterTile(5, 2, 16), 10, 1, True, ahead=4, a_ahead=16, touch=True, spread=2)
    check(MatmulSpec(43, 70, 37), plan=plan)


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_other_vector_widths(level: str) -> None:
    check(MatmulSpec(30, 45, 16), target=Target.parse(f"cpu:{level}"))


def test_later_plans_are_correct() -> None:
    spec = MatmulSpec(29, 70, 12)
    for plan in list(matmul.plans(spec, Target.host()))[1:4]:
        check(spec, plan=plan)


class BiasAndResidual:
    """y = value + bias[c] + residual, for flat and for logical indices."""

    def __init__(self, shape: tuple[int, ...], flat: bool) -> None:
        self.flat, self.dtype = flat, "float32"
        rows = int(np.prod(shape[:-1]))
        self.buffers = [buffer("bias", shape[-1:]), buffer("residual", (rows, shape[-1]) if flat else shape)]

    def __call__(self, value: Any, indices: Sequence[Any], lanes: int) -> Any:
        last = indices[-1] if lanes == 1 else tirx.Ramp(indices[-1], tirx.IntImm("int64", 1), lanes)
        bias = tirx.BufferLoad(self.buffers[0], [last])
        return value + bias + tirx.BufferLoad(self.buffers[1], [*indices[:-1], last])


@pytest.mark.parametrize("flat", [False, True])
def test_epilogue_sees_values_and_indices(flat: bool) -> None:
    spec = MatmulSpec(7, 45, 6, batch_a=(2, 3))
    plan = next(iter(matmul.plans(spec, Target.host())))
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 7, 6), dtype="float32"), rng.standard_normal((6, 45), dtype="float32")
    bias, residual = rng.standard_normal(45, dtype="float32"), rng.standard_normal((2, 3, 7, 45), dtype="float32")
    y = np.empty_like(residual)
    epilogue = BiasAndResidual((2, 3, 7, 45), flat)
    kernel = jit({"f": matmul.build(spec, plan, epilogue)})["f"]
    kernel(a, matmul.pack_weights(b, spec, plan), bias, residual, y)
    np.testing.assert_allclose(y, a.astype("float64") @ b + bias + residual, rtol=1e-5, atol=1e-5)


def test_nothing_is_written_beyond_the_output() -> None:
    spec = MatmulSpec(3, 5, 4)
    plan = next(iter(matmul.plans(spec, Target.host())))
    padded = np.full(3 * 5 + 64, 7.0, "float32")
    b = np.ones((4, 5), "float32")
    jit({"f": matmul.build(spec, plan)})["f"](
        np.ones((3, 4), "float32"), matmul.pack_weights(b, spec, plan), padded[32:47].reshape(3, 5)
    )
    assert (padded[:32] == 7).all()
    assert (padded[47:] == 7).all()
    assert (padded[32:47] == 4).all()


def test_plans_put_whole_tiles_in_a_block() -> None:
    for plan in matmul.plans(MatmulSpec(1000, 768, 768), Target.host()):
        assert plan.row_block % plan.tile.rows == 0
        assert plan.tile.fits(Target.host())
