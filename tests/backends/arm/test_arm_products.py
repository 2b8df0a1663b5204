"""Integer products on ARM against numpy, exactly: the widening multiplies, sdot and usdot, behind the same kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optc.backends.isa.dot import arithmetic
from optc.backends.kernels.conv import ConvSpec
from optc.backends.kernels.dot import conv, depthwise, matmul
from optc.backends.kernels.matmul import MatmulSpec
from optc.backends.target import Target
from optc.tools.emulator import Emulator
from optc.tools.emulator.kernels import emulate
from tvm import tirx

from ..dot.exact import BORDER, Halved, convolution, numbers, sizes_of

Emulate = Callable[[str], Emulator]
B, M, H, W = (tirx.Var(name, "int64") for name in "BMHW")
TARGETS = ["arm", "arm:cortex-a76", "arm:neoverse-v1"]
Sizes = dict[Any, int]

MATMULS: list[tuple[MatmulSpec, Sizes]] = [
    *((MatmulSpec(*shape), {}) for shape in [(1, 1, 1), (5, 17, 13), (1, 100, 7), (33, 48, 66), (64, 96, 128)]),
    (MatmulSpec(M, 50, 27, batch_a=(B,), trans_b=True), {B: 3, M: 29}),
]
DENSE: list[tuple[ConvSpec, Sizes]] = [
    (ConvSpec(1, (7, 7), 16, 64, (3, 3), (1, 1), (1,) * 4, (1, 1)), {}),
    (ConvSpec(1, (17, 15), 3, 16, (7, 7), (2, 2), (3,) * 4, (1, 1)), {}),
    (ConvSpec(2, (9, 10), 24, 40, (1, 1), (1, 1), (0,) * 4, (1, 1)), {}),
    (ConvSpec(2, (10, 11), 24, 36, (3, 3), (1, 1), (1,) * 4, (1, 1), 3), {}),
    (ConvSpec(B, (H, W), 20, 20, (3, 3), (2, 2), (0,) * 4, (1, 1)), {B: 2, H: 11, W: 17}),
    (ConvSpec(1, (5, 6, 7), 8, 12, (3, 2, 3), (1, 2, 1), (1, 0, 1, 1, 1, 0), (1, 1, 2)), {}),
]
SEPARATE: list[tuple[ConvSpec, Sizes]] = [
    (ConvSpec(1, (14, 15), 48, 48, (3, 3), (1, 1), (1,) * 4, (1, 1), 48), {}),
    (ConvSpec(2, (14, 15), 33, 33, (3, 3), (2, 2), (1,) * 4, (1, 1), 33), {}),
    (ConvSpec(1, (9, 12), 6, 6, (9, 9), (1, 1), (4,) * 4, (1, 1), 6), {}),
    (ConvSpec(2, (40,), 30, 30, (5,), (2,), (1, 3), (1,), 30), {}),
    (ConvSpec(B, (H, W), 20, 20, (5, 5), (2, 2), (2,) * 4, (1, 1), 20), {B: 2, H: 11, W: 17}),
]


def lacking(target: Target, weights: np.ndarray, axis: int) -> list[np.ndarray]:
    """What the sums of an arithmetic that shifts leave out."""
    rest = tuple(i for i in range(weights.ndim) if i != axis)
    shift = arithmetic(target).shift
    return [(shift * weights.sum(rest, np.int64)).astype(np.int32)] if shift else []


@pytest.mark.parametrize("name", TARGETS)
def test_matrix_products(name: str, emulator: Emulate) -> None:
    target = Target.parse(name)
    plans = [next(matmul.plans(spec, target)) for spec, _ in MATMULS]
    built = {f"f{i}": matmul.build(spec, plans[i]) for i, (spec, _) in enumerate(MATMULS)}
    kernels = emulate(built, emulator(name))
    for i, (spec, sizes) in enumerate(MATMULS):
        lead = [sizes.get(d, d) for d in (*spec.batch_a, spec.m)]
        a, bias = numbers("uint8", *lead, spec.k), numbers("int32", spec.n)
        b = numbers("int8", *((spec.n, spec.k) if spec.trans_b else (spec.k, spec.n)))
        y = np.full((*lead, spec.n), 77, "int32")
        wide = b.T if spec.trans_b else b
        kernels[f"f{i}"](a, matmul.pack_weights(b, spec, plans[i]), bias, *lacking(target, wide, 1), y)
        exact = (a.astype("int64") @ wide.astype("int64") + bias).astype("int32")
        np.testing.assert_array_equal(y, exact, err_msg=f"{spec} {plans[i]}")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("template", "cases"), [(conv, DENSE), (depthwise, SEPARATE)])
def test_convolutions(template: Any, cases: list[tuple[ConvSpec, Sizes]], name: str, emulator: Emulate) -> None:
    target = Target.parse(name)
    plans = [next(template.plans(spec, target)) for spec, _ in cases]
    built = {f"f{i}": template.build(spec, plans[i]) for i, (spec, _) in enumerate(cases)}
    kernels = emulate(built, emulator(name))
    for i, (spec, sizes) in enumerate(cases):
        known = sizes_of(spec, sizes)
        x, bias = numbers("uint8", known.batch, *known.spatial, spec.c_in), numbers("int32", spec.c_out)
        w = numbers("int8", spec.c_out, spec.c_in // spec.group, *spec.kernel)
        exact = convolution(x, w, bias, known)
        y = np.full(exact.shape, 77, "int32")
        border = [np.array([BORDER], "uint8")] if spec.padded else []
        packed = template.pack_weights(w, spec, plans[i])
        kernels[f"f{i}"](x, packed, bias, *lacking(target, w, 0), *border, y)
        np.testing.assert_array_equal(y, exact, err_msg=f"{spec} {plans[i]}")


@pytest.mark.parametrize("name", TARGETS)
def test_largest_products_do_not_saturate_and_bytes_are_stored(name: str, emulator: Emulate) -> None:
    spec, target = MatmulSpec(3, 20, 64), Target.parse(name)
    plan = next(matmul.plans(spec, target))
    a, b = np.full((3, 64), 255, "uint8"), np.full((64, 20), -128, "int8")
    b[:, ::2] = 127
    residual, y = numbers("uint8", 3, 20), np.zeros((3, 20), "uint8")
    kernel = emulate({"f": matmul.build(spec, plan, Halved((3, 20), True))}, emulator(name))["f"]
    kernel(a, matmul.pack_weights(b, spec, plan), np.zeros(20, "int32"), *lacking(target, b, 1), residual, y)
    np.testing.assert_array_equal(y, Halved.exact(a.astype("int64") @ b.astype("int64"), residual))


@pytest.mark.parametrize(
    ("name", "depth", "shift"), [("arm", 1, 0), ("arm:armv7", 1, 0), ("arm:cortex-a76", 4, 128), ("arm:+i8mm", 4, 0)]
)
def test_each_core_takes_its_fastest_exact_product(name: str, depth: int, shift: int) -> None:
    kind = arithmetic(Target.parse(name))
    assert (kind.depth, kind.shift) == (depth, shift)
