"""The fused attention kernel against float64 numpy, and as part of compiled models against the expansion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optc.backends.cpu import PIPELINE, lower
from optc.backends.jit import jit
from optc.backends.kernels import attention
from optc.backends.kernels.attention import BHSD, BSHD, LOWEST, AttentionPlan, AttentionSpec
from optc.backends.kernels.tile import RegisterTile
from optc.backends.steps import Kernel
from optc.backends.target import Target
from optc.backends.templates.attention import has_causal_mask
from optc.passes.base import run_passes
from tvm import tirx

from tests.helpers import graph_of

B, S, T = (tirx.Var(name, "int64") for name in "BST")
ALL_BSHD = (BSHD, BSHD, BSHD, BSHD)
SMALL = AttentionSpec(2, 4, 4, 21, 37, 32, 32, 0.2)


def swapped(x: np.ndarray, layout: str) -> np.ndarray:
    """From or to [batch, heads, length, size]."""
    return x.swapaxes(1, 2) if layout == BSHD else x


def exact(spec: AttentionSpec, q: Any, k: Any, v: Any, mask: np.ndarray | None) -> np.ndarray:
    """The definition in float64."""
    q, k, v = (swapped(x, layout).astype("float64") for x, layout in zip((q, k, v), spec.layouts[:3], strict=True))
    k, v = (np.repeat(x, spec.heads // spec.key_heads, axis=1) for x in (k, v))
    scores = spec.scale * (q @ k.swapaxes(-1, -2))
    if mask is not None:
        scores = scores + mask if spec.mask_value is None else np.where(mask, scores, spec.mask_value)
    if spec.causal:
        rows, columns = np.indices(scores.shape[-2:])
        scores = np.where(columns <= rows + k.shape[2] - q.shape[2], scores, -np.inf)
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return swapped(powers / powers.sum(axis=-1, keepdims=True) @ v, spec.layouts[3])


def inputs(spec: AttentionSpec, spread: float = 1.0) -> list[np.ndarray]:
    """Random q, k, v and mask for a spec of known dims."""
    rng = np.random.default_rng(0)
    shapes = [
        (spec.batch, spec.heads, spec.queries, spec.size),
        (spec.batch, spec.key_heads, spec.keys, spec.size),
        (spec.batch, spec.key_heads, spec.keys, spec.value_size),
    ]
    arrays = [
        np.ascontiguousarray(swapped(spread * rng.standard_normal(shape, dtype="float32"), layout))
        for shape, layout in zip(shapes, spec.layouts[:3], strict=True)
    ]
    if spec.mask is not None:
        arrays.append(
            3 * rng.standard_normal(spec.mask, dtype="float32")
            if spec.mask_value is None
            else rng.random(spec.mask) > 0.4
        )
    return arrays


def run(
    spec: AttentionSpec,
    arrays: list[np.ndarray],
    plan: AttentionPlan | None = None,
    target: Target | None = None,
    threads: int = 1,
    symbolic: bool = False,
) -> np.ndarray:
    """The kernel's output; `symbolic` builds it for a batch and lengths that are known only when it runs."""
    target = target or Target.host()
    formal = spec
    if symbolic:
        full = (B, spec.heads, S, T)
        mask: Any = spec.mask and tuple(1 if d == 1 else f for d, f in zip(spec.mask, full, strict=True))
        formal = replace(spec, batch=B, queries=S, keys=T, mask=mask)
    plan = plan or next(attention.plans(formal, target))
    shape = (spec.batch, spec.heads, spec.queries, spec.value_size)
    y = np.ascontiguousarray(swapped(np.full(shape, np.inf, "float32"), spec.layouts[3]))
    jit({"f": attention.build(formal, plan)}, target, threads)["f"](*arrays, y)
    return y


def check(spec: AttentionSpec, **options: Any) -> None:
    arrays = inputs(spec)
    expected = exact(spec, *arrays, *([None] if spec.mask is None else []))
    np.testing.assert_allclose(run(spec, arrays, **options), expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 70), (13, 16), (40, 33)])
def test_lengths(queries: int, keys: int, symbolic: bool) -> None:
    check(replace(SMALL, queries=queries, keys=keys), symbolic=symbolic)


@pytest.mark.parametrize(("size", "value_size"), [(16, 16), (15, 15), (40, 40), (128, 64), (3, 50)])
def test_head_sizes(size: int, value_size: int) -> None:
    check(replace(SMALL, size=size, value_size=value_size))


@pytest.mark.parametrize(
    "layouts", [ALL_BSHD, (BHSD, BHSD, BHSD, BSHD), (BSHD, BHSD, BHSD, BHSD), (BHSD, BSHD, BHSD, BSHD)]
)
def test_layouts(layouts: tuple[str, str, str, str]) -> None:
    check(replace(SMALL, layouts=layouts, key_heads=2))


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("mask", [(2, 1, 1, 37), (1, 1, 21, 37), (2, 4, 21, 37), (1, 4, 21, 1)])
def test_masks_are_added(mask: tuple[int, int, int, int], symbolic: bool) -> None:
    check(replace(SMALL, mask=mask), symbolic=symbolic)


@pytest.mark.parametrize("mask", [(2, 1, 1, 37), (1, 1, 21, 37)])
@pytest.mark.parametrize("value", [LOWEST, -5.0])
def test_bool_masks_replace_scores(mask: tuple[int, int, int, int], value: float) -> None:
    check(replace(SMALL, mask=mask, mask_value=value))


@pytest.mark.parametrize(("queries", "keys"), [(30, 30), (10, 75), (75, 10)])
@pytest.mark.parametrize("symbolic", [False, True])
def test_causal_hides_later_keys(queries: int, keys: int, symbolic: bool) -> None:
    """Rows that see no key become NaN, as softmax over minus infinities does."""
    check(replace(SMALL, queries=queries, keys=keys, causal=True), symbolic=symbolic)


def test_causal_and_mask_together() -> None:
    check(replace(SMALL, queries=37, mask=(2, 1, 1, 37), causal=True))


@pytest.mark.parametrize("causal", [False, True])
def test_keys_pass_in_blocks(causal: bool) -> None:
    plan = AttentionPlan(RegisterTile(5, 2, 16), block=64, splits=2, tasks=3, packed=False)
    check(replace(SMALL, queries=83, keys=203, causal=causal), plan=plan)


def test_later_blocks_may_hold_much_larger_scores() -> None:
    spec = replace(SMALL, keys=200)
    q, k, v = inputs(spec)
    k *= np.linspace(0.0, 60.0, 200, dtype="float32")[:, None]
    plan = AttentionPlan(RegisterTile(5, 2, 16), block=64, splits=1, tasks=1, packed=True)
    np.testing.assert_allclose(run(spec, [q, k, v], plan), exact(spec, q, k, v, None), rtol=0, atol=3e-4)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = inputs(SMALL, spread=100.0)
    y = run(SMALL, [q, k, v])
    np.testing.assert_allclose(y, exact(SMALL, q, k, v, None), rtol=1e-2, atol=1e-2)


def test_a_row_masked_by_the_lowest_number_is_uniform() -> None:
    spec = replace(SMALL, mask=(1, 1, 1, 37), mask_value=LOWEST)
    q, k, v, _ = inputs(spec)
    y = run(spec, [q, k, v, np.zeros((1, 1, 1, 37), bool)])
    np.testing.assert_allclose(y, np.broadcast_to(v.mean(axis=2, keepdims=True), y.shape), atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_tasks_cover_all_heads_and_rows(threads: int) -> None:
    plan = AttentionPlan(RegisterTile(4, 2, 16), block=64, splits=3, tasks=5, packed=True)
    check(replace(SMALL, queries=50, layouts=ALL_BSHD), plan=plan, threads=threads)


@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_other_vector_widths(level: str) -> None:
    check(replace(SMALL, layouts=ALL_BSHD, mask=(2, 1, 21, 37)), target=Target.parse(f"cpu:{level}"))


def test_plans_fill_the_cores() -> None:
    target = replace(Target.host(), num_cores=8)
    one_head = next(attention.plans(AttentionSpec(1, 1, 1, 1000, 1000, 64, 64, 1.0), target))
    many = next(attention.plans(AttentionSpec(8, 12, 12, 128, 128, 64, 64, 1.0), target))
    assert one_head.splits >= 7
    assert many.splits == 1
    assert many.tasks >= 8


@pytest.mark.parametrize(
    ("mask", "value", "causal"),
    [
        (np.tri(6, 9, 3, dtype=bool), LOWEST, True),
        (np.tri(6, 9, 3, dtype=bool), -5.0, False),
        (np.tri(6, 9, 2, dtype=bool), LOWEST, False),
        (np.where(np.tri(6, 9, 3), 0, LOWEST).astype("float32"), LOWEST, True),
        (np.ones((1, 9), bool), LOWEST, False),
    ],
)
def test_constant_masks_that_are_causal(mask: np.ndarray, value: float, causal: bool) -> None:
    kind = "bool" if mask.dtype == bool else "f32"
    graph = graph_of(
        f"""graph main(%q: f32[1,2,6,16], %k: f32[1,2,9,16], %v: f32[1,2,9,16], %m: {kind}[{mask.shape[0]},9]) {{
      %y = optc.Attention(%q, %k, %v, %m) {{scale=0.25, mask_value={value!r}}} return %y }}"""
    )
    graph.replace_uses(graph.inputs[3], graph.constant(mask))
    (node,) = graph.nodes
    assert has_causal_mask(node) == causal


REGULAR = "graph main(%q: f32[N,S,4,32], %k: f32[N,T,2,32], %v: f32[N,T,2,32], %m: bool[1,1,S,T])"
ATTRS = 'scale=0.25, mask_value=-5.0, q_layout="BSHD", k_layout="BSHD", v_layout="BSHD", y_layout="BSHD"'


def kernels_of(text: str) -> list[str]:
    """What made each kernel of a graph compiled for this host."""
    graph = graph_of(text)
    run_passes(graph, PIPELINE)
    return [step.provenance.split()[0] for step in lower(graph, Target.host()).steps if isinstance(step, Kernel)]


def test_a_regular_attention_is_one_kernel() -> None:
    text = f"{REGULAR} {{ %y = optc.Attention(%q, %k, %v, %m) {{{ATTRS}}} return %y }}"
    assert kernels_of(text) == ["attention"]


def test_an_attention_of_unknown_heads_is_expanded() -> None:
    heads = REGULAR.replace(",4,32", ",H,32").replace(",2,32", ",H,32")
    text = f"{heads} {{ %y = optc.Attention(%q, %k, %v, %m) {{{ATTRS}}} return %y }}"
    assert "attention" not in kernels_of(text)
