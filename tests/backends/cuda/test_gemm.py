"""Convolutions and products on tensor cores, emulated: integers bit for bit, floats against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optc.backends.cuda import depthwise, gemm
from optc.backends.cuda.gemm import F32, TF32, U8S8, Arithmetic, GemmPlan, GemmSpec
from optc.backends.cuda.target import CudaTarget
from optc.backends.kernels.builder import buffer, i64
from optc.backends.kernels.convspec import ConvSpec
from optc.backends.kernels.dot.bias import Biased
from tvm import tirx

from .emulation import load

TARGET = CudaTarget.of("cuda:sm_80")
SHAPES = {
    "padded": ConvSpec(2, (9, 11), 32, 40, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "rgb": ConvSpec(1, (13, 12), 3, 24, (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
    "grouped": ConvSpec(1, (8, 8), 64, 48, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), group=2),
    "dilated": ConvSpec(1, (12, 9), 16, 16, (3, 2), (2, 1), (2, 0, 1, 3), (2, 3)),
    "line": ConvSpec(2, (31,), 48, 70, (4,), (3,), (1, 2), (1,)),
    "pointwise": ConvSpec(3, (7, 9), 80, 72, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    "row": ConvSpec(1, (1,), 200, 10, (1,), (1,), (0, 0), (1,)),
    "depthwise": ConvSpec(2, (9, 10), 24, 24, (3, 3), (2, 1), (1, 1, 1, 1), (1, 1), group=24),
}
EVERY_PLAN = "padded"
Case = tuple[GemmSpec, Any]


def spec_of(conv: ConvSpec, arithmetic: Arithmetic) -> GemmSpec:
    return GemmSpec(conv, arithmetic, (conv.batch, *conv.out_spatial, conv.c_out))


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for name, conv in SHAPES.items():
        for arithmetic in (U8S8, F32, TF32):
            spec = spec_of(conv, arithmetic)
            if conv.depthwise:
                choices: list[Any] = list(depthwise.plans(spec, TARGET)) if arithmetic is not TF32 else []
            else:
                choices = list(gemm.plans(spec, TARGET))
            choices = choices if name == EVERY_PLAN and arithmetic is not TF32 else choices[:1]
            found |= {f"{arithmetic.name.lower()}_{name}_{i}": (spec, plan) for i, plan in enumerate(choices)}
    return found


CASES = cases()


def kernel(spec: GemmSpec, plan: Any) -> Any:
    family: Any = gemm if isinstance(plan, GemmPlan) else depthwise
    if spec.arithmetic is not U8S8:
        return family.build(spec, plan)
    pad = buffer("pad", (1,), "uint8")
    return family.build(spec, plan, Biased(spec.conv.c_out, None, [pad]), tirx.BufferLoad(pad, [i64(0)]))


@pytest.fixture(scope="module")
def run() -> Callable[..., None]:
    return load({name: kernel(*case) for name, case in CASES.items()}, TARGET)


def inputs(spec: GemmSpec) -> tuple[np.ndarray, np.ndarray]:
    conv, rng = spec.conv, np.random.default_rng(1)
    shapes = (conv.batch, *conv.spatial, conv.c_in), (conv.c_out, conv.c_in // conv.group, *conv.kernel)
    if spec.arithmetic is U8S8:
        return rng.integers(0, 256, shapes[0], np.uint8), rng.integers(-128, 128, shapes[1]).astype(np.int8)
    return rng.standard_normal(shapes[0], dtype="float32"), rng.standard_normal(shapes[1], dtype="float32")


def reference(spec: GemmSpec, x: np.ndarray, w: np.ndarray, border: int) -> np.ndarray:
    """Tap by tap, in int64 or float64."""
    conv, wide = spec.conv, np.int64 if spec.arithmetic is U8S8 else np.float64
    rank = len(conv.kernel)
    around = [(0, 0), *zip(conv.pads[:rank], conv.pads[rank:], strict=True), (0, 0)]
    padded = np.pad(x.astype(wide), around, constant_values=border)
    y = np.zeros(spec.shape, wide)
    depth, columns = conv.c_in // conv.group, conv.c_out // conv.group
    for tap in np.ndindex(*conv.kernel):
        at = zip(tap, conv.dilations, conv.strides, conv.out_spatial, strict=True)
        cut = [slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, s, o in at]
        part = padded[(slice(None), *cut)]
        for g in range(conv.group):
            weights = w[(slice(g * columns, (g + 1) * columns), slice(None), *tap)].astype(wide)
            y[..., g * columns : (g + 1) * columns] += part[..., g * depth : (g + 1) * depth] @ weights.T
    return y


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("u8s8")])
@pytest.mark.parametrize("seed", ["1", "2"])
def test_integers_are_exact(name: str, seed: str, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The border is a byte given at run time; threads run in another order for each seed."""
    monkeypatch.setenv("OPTC_EMULATOR_SEED", seed)
    spec, plan = CASES[name]
    family: Any = gemm if isinstance(plan, GemmPlan) else depthwise
    x, w = inputs(spec)
    bias = np.random.default_rng(2).integers(-(2**31), 2**31, spec.conv.c_out).astype(np.int32)
    y = np.full(spec.shape, 77, np.int32)
    run(name, x, family.pack_weights(w, spec, plan), bias, np.array([131], np.uint8), y)
    expected = (reference(spec, x, w, 131) + bias).astype(np.int32)  # modulo 2^32
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("u8s8")])
def test_floats(name: str, run: Callable[..., None]) -> None:
    """Exact products to a few units in the last place of the range; tf32 keeps eleven bits of each factor."""
    spec, plan = CASES[name]
    family: Any = gemm if isinstance(plan, GemmPlan) else depthwise
    x, w = inputs(spec)
    y = np.full(spec.shape, np.nan, np.float32)
    run(name, x, family.pack_weights(w, spec, plan), y)
    expected = reference(spec, x, w, 0)
    tolerance = 1e-3 if spec.arithmetic is TF32 else 2e-6
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_no_plan_asks_for_more_than_a_block_has() -> None:
    for plan in gemm.plans(spec_of(SHAPES["padded"], U8S8), TARGET):
        assert plan.threads <= 1024
        assert plan.stages * (plan.rows + plan.columns) * gemm.ROW_BYTES <= 48 << 10
