"""Attention of bfloat16 on tiles against float64: layouts, masks, causality, shared key heads, lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels.amx import attention
from optc.backends.kernels.attention import BHSD, BSHD, AttentionSpec
from optc.backends.target import Target
from tvm import tirx

from ..bf16.support import needs_amx, numbers, wide
from .support import fenced

pytestmark = needs_amx
B, Q, K = (tirx.Var(name, "int64") for name in "BQK")


def reference(spec: AttentionSpec, q: Any, k: Any, v: Any, mask: Any) -> np.ndarray:
    """In float64, [batch, heads, queries, value_size]; operands with heads before rows."""
    group = spec.heads // spec.key_heads
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) * spec.scale
    if mask is not None and spec.mask_value is not None:
        scores = np.where(mask, scores, spec.mask_value)
    elif mask is not None:
        scores = scores + mask
    if spec.causal:
        rows, columns = scores.shape[-2:]
        scores = np.where(np.tri(rows, columns, columns - rows, dtype=bool), scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True) @ v)


def check(spec: AttentionSpec, sizes: dict[Any, int] | None = None, threads: int = 1) -> None:
    plan = next(attention.plans(spec, Target.host()))
    kernel = jit({"f": attention.build(spec, plan)}, threads=threads)["f"]
    n, rows, keys = ((sizes or {}).get(d, d) for d in (spec.batch, spec.queries, spec.keys))
    shapes = [(spec.heads, rows, spec.size), (spec.key_heads, keys, spec.size), (spec.key_heads, keys, spec.value_size)]
    plain = [numbers(n, *shape, seed=i) for i, shape in enumerate(shapes)]
    given = [
        fenced(x.swapaxes(1, 2)) if layout == BSHD else fenced(x)
        for x, layout in zip(plain, spec.layouts, strict=False)
    ]
    mask = None
    if spec.mask is not None:
        shape = [(sizes or {}).get(d, d) for d in spec.mask]
        drawn = np.random.default_rng(5).standard_normal(shape)
        mask = drawn.astype("float32") if spec.mask_value is None else drawn < 1.0
    out = (n, spec.heads, rows, spec.value_size)
    y = fenced(np.zeros((out[0], out[2], out[1], out[3]) if spec.layouts[3] == BSHD else out, "float32"))
    kernel(*given, *([] if mask is None else [fenced(mask)]), y)
    q, k, v = map(wide, plain)
    exact = reference(spec, q, k, v, mask)
    found = y.swapaxes(1, 2) if spec.layouts[3] == BSHD else y
    # Each weight is rounded to 8 bits once: the result is off by 2^-9 of the weighted values at most.
    np.testing.assert_allclose(found, exact, rtol=0, atol=2.0**-8 * np.abs(v).max())


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 33), (16, 16), (20, 47), (128, 128), (65, 200)])
def test_lengths(queries: int, keys: int) -> None:
    check(AttentionSpec(2, 3, 3, queries, keys, 32, 64, 0.2))


@pytest.mark.parametrize("layouts", [(BSHD, BSHD, BSHD, BSHD), (BHSD, BSHD, BHSD, BSHD)])
def test_layouts(layouts: tuple[str, str, str, str]) -> None:
    check(AttentionSpec(2, 4, 4, 40, 40, 64, 32, 0.125, layouts))


@pytest.mark.parametrize("mask_value", [None, -1e9])
@pytest.mark.parametrize("dims", [(2, 1, 1, 50), (1, 4, 40, 50), (2, 1, 40, 1)])
def test_masks(dims: tuple[int, int, int, int], mask_value: float | None) -> None:
    check(AttentionSpec(2, 4, 4, 40, 50, 32, 32, 0.2, mask=dims, mask_value=mask_value))


def test_causal_with_shared_key_heads() -> None:
    check(AttentionSpec(2, 4, 2, 40, 70, 64, 64, 0.125, causal=True))


def test_symbolic_dims_and_threads() -> None:
    spec = AttentionSpec(B, 4, 4, Q, K, 32, 32, 0.2, (BSHD,) * 4, mask=(B, 1, 1, K))
    for sizes in ({B: 1, Q: 5, K: 5}, {B: 3, Q: 33, K: 64}):
        check(spec, sizes, threads=2)
