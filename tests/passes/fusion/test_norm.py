"""Norms from pieces."""

from __future__ import annotations

from collections.abc import Callable

import pytest

RULES = "layer-norm rms-norm norm-scale norm-bias"
CONSTANTS = """%two: f32[] = const 2 %e: f32[] = const 1e-5 %last = const [-1] %half: f32[] = const 0.5
  %g: f32[6] = const [1,2,3,4,5,6] %b: f32[6] = const [6,5,4,3,2,1]"""
AFTER = """graph main(%x: f32[N,S,6]) { %g: f32[6] = const [1,2,3,4,5,6] %b: f32[6] = const [6,5,4,3,2,1]
  %y = LayerNormalization(%x, %g, %b) {axis=-1, epsilon=9.999999747378752e-06} return %y }"""
LAYER_NORMS = {
    "paddle and torch": """%m = ReduceMean(%x, %last) %d = Sub(%x, %m) %q = Pow(%d, %two) %v = ReduceMean(%q, %last)
      %w = Add(%v, %e) %r = Sqrt(%w) %n = Div(%d, %r) %s = Mul(%n, %g) %y = Add(%s, %b)""",
    "products and reciprocal": """%m = ReduceMean(%x, %last) %d = Sub(%x, %m) %q = Mul(%d, %d)
      %v = ReduceMean(%q, %last) %w = Add(%e, %v) %r = Sqrt(%w) %i = Reciprocal(%r) %n = Mul(%d, %i) %s = Mul(%g, %n)
      %y = Add(%b, %s)""",
    "root as a power": """%m = ReduceMean(%x, %last) %d = Sub(%x, %m) %q = Pow(%d, %two) %v = ReduceMean(%q, %last)
      %w = Add(%v, %e) %r = Pow(%w, %half) %n = Div(%d, %r) %s = Mul(%n, %g) %y = Add(%s, %b)""",
}


@pytest.mark.parametrize("body", LAYER_NORMS.values(), ids=list(LAYER_NORMS))
def test_layer_norm(assert_rewrites: Callable[..., object], body: str) -> None:
    assert_rewrites(RULES, f"graph main(%x: f32[N,S,6]) {{ {CONSTANTS} {body} return %y }}", AFTER)


def test_rms_norm(assert_rewrites: Callable[..., object]) -> None:
    before = f"""graph main(%x: f32[N,S,6]) {{ {CONSTANTS} %q = Pow(%x, %two) %v = ReduceMean(%q, %last)
      %w = Add(%v, %e) %r = Sqrt(%w) %i = Reciprocal(%r) %n = Mul(%x, %i) %y = Mul(%g, %n) return %y }}"""
    after = """graph main(%x: f32[N,S,6]) { %g: f32[6] = const [1,2,3,4,5,6]
      %y = RMSNormalization(%x, %g) {axis=-1, epsilon=9.999999747378752e-06} return %y }"""
    assert_rewrites(RULES, before, after)


def test_means_over_different_dims_are_no_norm(assert_keeps: Callable[..., None]) -> None:
    body = LAYER_NORMS["paddle and torch"].replace("ReduceMean(%q, %last)", "ReduceMean(%q, %first)")
    text = f"graph main(%x: f32[N,S,6]) {{ {CONSTANTS} %first = const [0] {body} return %y }}"
    assert_keeps("layer-norm", text, "same last dims")


def test_a_dynamic_normalized_dim_is_left(assert_keeps: Callable[..., None]) -> None:
    body = LAYER_NORMS["paddle and torch"].split("%s =")[0]
    text = f"graph main(%x: f32[N,S,C]) {{ {CONSTANTS} {body} return %n }}"
    assert_keeps("layer-norm", text, "dynamic")


def test_a_factor_per_row_is_no_weight(assert_keeps: Callable[..., None]) -> None:
    assert_keeps(
        "norm-scale",
        """graph main(%x: f32[N,2,6]) { %g: f32[6] = const 1 %c: f32[2,1] = const [[1],[2]]
      %n = LayerNormalization(%x, %g) %y = Mul(%n, %c) return %y }""",
        "not of the normalized dims",
    )


def test_a_bias_behind_a_norm_that_has_one_stays(assert_keeps: Callable[..., None]) -> None:
    assert_keeps(
        "norm-bias",
        """graph main(%x: f32[N,6]) { %g: f32[6] = const 1
      %n = LayerNormalization(%x, %g, %g) %y = Add(%n, %g) return %y }""",
        "more than 2 operands",
    )
