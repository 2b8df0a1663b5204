"""optc.backends.packing: whatever packing does to a weight is undone and redone by a few strided copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optc.backends import cpu
from optc.backends.build import build_artifact
from optc.backends.kernels.amx import conv as amx_conv
from optc.backends.kernels.amx import matmul as amx_matmul
from optc.backends.kernels.conv import ConvSpec
from optc.backends.kernels.dot import conv, depthwise, matmul
from optc.backends.kernels.matmul import MatmulSpec
from optc.backends.packing import MOST_AXES, Packed, fold, unfold
from optc.backends.runtime.artifact import read_artifact
from optc.backends.runtime.model import Model, load
from optc.backends.target import LEVELS
from optc.compiler.ir import Graph
from optc.compiler.text import parse_graph

RNG = np.random.default_rng(0)
VNNI, PLAIN, AMX = LEVELS["cascadelake"], LEVELS["x86-64-v3"], LEVELS["sapphirerapids"]


def spec(c_in: int, c_out: int, kernel: int, stride: int = 1, group: int = 1) -> ConvSpec:
    pads = (kernel // 2,) * 4
    return ConvSpec(1, (14, 14), c_in, c_out, (kernel, kernel), (stride, stride), pads, (1, 1), group)


def weights(conv: ConvSpec) -> np.ndarray:
    return RNG.integers(-128, 128, (conv.c_out, conv.c_in // conv.group, *conv.kernel)).astype(np.int8)


CASES = [
    (family, target, conv)
    for target, family, convs in (
        (
            AMX,
            amx_conv,
            [spec(24, 144, 1), spec(144, 24, 1), spec(40, 30, 3), spec(30, 30, 3, 2), spec(32, 40, 3, 1, 2)],
        ),
        (VNNI, conv, [spec(3, 32, 3, 2), spec(3, 10, 3), spec(7, 21, 1)]),
        (PLAIN, conv, [spec(3, 32, 3, 2), spec(5, 10, 1)]),
        (VNNI, depthwise, [spec(144, 144, 3, 1, 144), spec(40, 40, 5, 2, 40), spec(21, 21, 3, 1, 21)]),
        (PLAIN, depthwise, [spec(144, 144, 3, 1, 144), spec(10, 10, 7, 1, 10)]),
    )
    for conv in convs
]


@pytest.mark.parametrize(
    ("family", "target", "conv"),
    CASES,
    ids=[f"{f.__name__.split('.', 3)[-1]} {t.mcpu} {c.c_in}>{c.c_out}" for f, t, c in CASES],
)
def test_every_plan_of_a_convolution_unfolds_exactly(family: Any, target: Any, conv: ConvSpec) -> None:
    array = weights(conv)
    numbers = np.arange(1, array.size + 1).reshape(array.shape)
    for plan in family.plans(conv, target):
        packed = family.pack_weights(array, conv, plan)
        boxes = fold(family.pack_weights(numbers, conv, plan))
        np.testing.assert_array_equal(unfold(boxes, array, packed.shape), packed)
        assert len(boxes) <= 32, plan
        assert all(len(box.axes) <= MOST_AXES for box in boxes)


@pytest.mark.parametrize(("family", "target"), [(amx_matmul, AMX), (matmul, VNNI), (matmul, PLAIN)])
@pytest.mark.parametrize(("k", "n"), [(10, 10), (67, 33), (130, 100)])
def test_every_plan_of_a_product_unfolds_exactly(family: Any, target: Any, k: int, n: int) -> None:
    product = MatmulSpec(m=16, n=n, k=k)
    array = RNG.integers(-128, 128, (k, n)).astype(np.int8)
    for plan in family.plans(product, target):
        packed = family.pack_weights(array, product, plan)
        boxes = fold(family.pack_weights(np.arange(1, array.size + 1).reshape(array.shape), product, plan))
        np.testing.assert_array_equal(unfold(boxes, array, packed.shape), packed)


@given(st.lists(st.integers(0, 12), max_size=60))
@settings(deadline=None, max_examples=200)
def test_any_rearrangement_unfolds(numbers: list[int]) -> None:
    source = RNG.integers(-128, 128, 12).astype(np.int8)
    expected = np.concatenate([[0], source])[numbers].astype(np.int8) if numbers else np.zeros(0, np.int8)
    index = np.array(numbers, np.int32)
    np.testing.assert_array_equal(unfold(fold(index), source, index.shape), expected)


def padded(columns: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.pad(array, ((0, 0), (0, columns)))


def test_a_padded_matrix_is_one_box() -> None:
    packed = Packed(RNG.integers(1, 100, (50, 10)).astype(np.int8), padded(6))
    (box,) = packed.boxes() or []
    assert (box.to, box.origin, box.axes) == (0, 0, ((50, 16, 10), (10, 1, 1)))


def test_what_saves_little_is_stored_packed() -> None:
    assert Packed(np.ones((100, 100), np.int8), padded(3)).boxes() is None
    assert Packed(np.ones((2, 4), np.int8), padded(4)).boxes() is None  # the description takes more
    assert Packed(np.ones((100, 100), np.int8), np.transpose).boxes() is None


def test_a_packing_that_computes_is_stored_packed() -> None:
    assert Packed(np.full((50, 10), 3, np.int8), lambda array: np.pad(-array, ((0, 0), (0, 6)))).boxes() is None


# --- in an artifact ---


def narrow(x: str) -> Graph:
    """Narrow layers of each family: a convolution of 24 channels, a depthwise one, and one of 5 outputs."""
    return parse_graph(f"""graph narrow(%x: u8[{x}]) {{
      %a: i8[24, 40, 3, 3] = const random(1)  %b: i8[24, 1, 3, 3] = const random(2)
      %c: i8[5, 24, 1, 1] = const random(3)
      %scale: f32[] = const 0.0001  %one: f32[] = const 1  %zero: u8[] = const 0
      %s = optc.ConvInteger(%x, %a) {{pads=[1, 1, 1, 1]}}
      %f = DequantizeLinear(%s, %scale)  %q = QuantizeLinear(%f, %one, %zero)
      %t = optc.ConvInteger(%q, %b) {{pads=[1, 1, 1, 1], group=24}}
      %g = DequantizeLinear(%t, %scale)  %r = QuantizeLinear(%g, %one, %zero)
      %y = optc.ConvInteger(%r, %c)
      return %y }}""")


def build(out: Path, x: str = "1, 9, 9, 40") -> Model:
    graph = narrow(x)
    build_artifact(cpu.lower(graph, cpu.Target.host()), cpu.Target.host(), {"summary": ""}, out)
    return load(out)


def test_an_artifact_stores_the_models_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.integers(0, 256, (1, 9, 9, 40)).astype(np.uint8)
    small = build(tmp_path / "small.optc")
    monkeypatch.setattr(Packed, "boxes", lambda self: None)
    large = build(tmp_path / "large.optc")
    np.testing.assert_array_equal(small(x), large(x))
    sizes = [read_artifact(tmp_path / f"{name}.optc").sizes["weights"] for name in ("small", "large")]
    assert sizes[0] < 0.8 * sizes[1]
    tensors = {tuple(t["shape"]): t for t in read_artifact(tmp_path / "small.optc").manifest["weights"]["tensors"]}
    assert (24, 1, 3, 3) in tensors


def test_contexts_come_and_go_with_the_unpacked_weights_shared(tmp_path: Path) -> None:
    model = build(tmp_path / "a.optc")
    x = RNG.integers(0, 256, (1, 9, 9, 40)).astype(np.uint8)
    expected = model(x)
    others = [load(tmp_path / "a.optc") for _ in range(3)]
    assert all(np.array_equal(other(x), expected) for other in others)
    del model, others[0]
    assert all(np.array_equal(other(x), expected) for other in others)
