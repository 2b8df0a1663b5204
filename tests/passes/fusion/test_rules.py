"""Fusions: what each makes of a graph, and what it must leave alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

CONV = "%w: f32[4,3,1,1] = const random(1)"
REWRITES = {
    "linear-batch-norm": (
        """graph main(%x: f32[N,2]) { %w: f32[2,2] = const [[1,2],[3,4]] %b: f32[2] = const [1,1]
          %g: f32[2] = const [2,4] %t: f32[2] = const [1,2] %m: f32[2] = const [3,5] %v: f32[2] = const [4,16]
          %a = Gemm(%x, %w, %b) %y = BatchNormalization(%a, %g, %t, %m, %v) {epsilon=0.0} return %y }""",
        """graph main(%x: f32[N,2]) { %w: f32[2,2] = const [[1,2],[3,4]] %b: f32[2] = const [-1,-2]
          %y = Gemm(%x, %w, %b) return %y }""",
    ),
    "linear-affine": (
        """graph main(%x: f32[N,2,H,W]) { %w: f32[2,2,1,1] = const [[[[1]],[[2]]],[[[3]],[[4]]]]
          %b: f32[2] = const [1,-1]
          %s: f32[2,1,1] = const [[[2]],[[3]]] %t: f32[1,2,1,1] = const [[[[5]],[[6]]]]
          %a = Conv(%x, %w, %b) %m = Mul(%s, %a) %y = Sub(%m, %t) return %y }""",
        """graph main(%x: f32[N,2,H,W]) { %w: f32[2,2,1,1] = const [[[[2]],[[4]]],[[[9]],[[12]]]]
          %b: f32[2] = const [-3,-9]
          %y = Conv(%x, %w, %b) return %y }""",
    ),
    "scaled-input": (
        """graph main(%x: f32[N,2]) { %c: f32[2] = const [2,3] %w: f32[2,2] = const [[1,2],[3,4]]
          %s = Mul(%x, %c) %y = MatMul(%s, %w) return %y }""",
        "graph main(%x: f32[N,2]) { %w: f32[2,2] = const [[2,4],[9,12]] %y = MatMul(%x, %w) return %y }",
    ),
    "shifted-input": (
        """graph main(%x: f32[N,4,H,W]) { %c: f32[4,1,1] = const [[[1]],[[2]],[[3]],[[4]]] %b: f32[2] = const [1,-1]
          %w: f32[2,2,1,1] = const [[[[1]],[[2]]],[[[3]],[[4]]]]
          %s = Add(%x, %c) %y = Conv(%s, %w, %b) {group=2} return %y }""",
        """graph main(%x: f32[N,4,H,W]) { %b: f32[2] = const [6,24]
          %w: f32[2,2,1,1] = const [[[[1]],[[2]]],[[[3]],[[4]]]] %y = Conv(%x, %w, %b) {group=2} return %y }""",
    ),
    "batch-norm-affine": (
        """graph main(%x: f32[N,2,L]) { %g: f32[2] = const [2,4] %t: f32[2] = const [1,2] %m: f32[2] = const [3,5]
          %v: f32[2] = const [4,16] %y = BatchNormalization(%x, %g, %t, %m, %v) {epsilon=0.0} return %y }""",
        """graph main(%x: f32[N,2,L]) { %s: f32[2,1] = const 1 %t: f32[2,1] = const [[-2],[-3]]
          %a = Mul(%x, %s) %y = Add(%a, %t) return %y }""",
    ),
    "pad-into-window": (
        f"""graph main(%x: f32[N,3,8,8]) {{ {CONV} %p = const [0,0,1,2,0,0,3,0] %a = Pad(%x, %p)
          %y = Conv(%a, %w) {{pads=[1,1,1,1]}} return %y }}""",
        f"graph main(%x: f32[N,3,8,8]) {{ {CONV} %y = Conv(%x, %w) {{pads=[2,3,4,1]}} return %y }}",
    ),
    "matmul-bias": (
        "graph main(%x: f32[N,3], %w: f32[3,4], %b: f32[4]) { %a = MatMul(%x, %w) %y = Add(%b, %a) return %y }",
        "graph main(%x: f32[N,3], %w: f32[3,4], %b: f32[4]) { %y = Gemm(%x, %w, %b) return %y }",
    ),
    "gemm-sum": (
        """graph main(%x: f32[N,3], %w: f32[4,3], %b: f32[N,4]) { %a = Gemm(%x, %w) {transB=1, alpha=0.5}
          %y = Add(%a, %b) return %y }""",
        """graph main(%x: f32[N,3], %w: f32[4,3], %b: f32[N,4]) { %y = Gemm(%x, %w, %b) {transB=1, alpha=0.5}
          return %y }""",
    ),
    "gemm-transpose": (
        """graph main(%x: f32[3,N], %w: f32[4,3]) { %t = Transpose(%x) {perm=[1,0]} %u = Transpose(%w) {perm=[1,0]}
          %y = Gemm(%t, %u) return %y }""",
        "graph main(%x: f32[3,N], %w: f32[4,3]) { %y = Gemm(%x, %w) {transA=1, transB=1} return %y }",
    ),
    "matmul-transpose": (
        """graph main(%x: f32[B,N,3], %w: f32[B,4,3]) { %t = Transpose(%w) {perm=[0,2,1]} %y = MatMul(%x, %t)
          return %y }""",
        "graph main(%x: f32[B,N,3], %w: f32[B,4,3]) { %y = optc.MatMul(%x, %w) {transB=1} return %y }",
    ),
    "matmul-scale": (
        "graph main(%x: f32[N,3], %w: f32[3,4]) { %c: f32[] = const 4 %a = MatMul(%x, %w) %y = Div(%a, %c) return %y }",
        "graph main(%x: f32[N,3], %w: f32[3,4]) { %y = optc.MatMul(%x, %w) {alpha=0.25} return %y }",
    ),
    "gemm-of-rows": (
        """graph main(%x: f32[B,S,3]) { %w: f32[2,3] = const [[1,2,3],[4,5,6]] %b: f32[2] = const [1,2]
          %r = const [-1,3] %f = Reshape(%x, %r) %g = Gemm(%f, %w, %b) {transB=1} %d = Shape(%x) {start=0, end=2}
          %n = const [2]
          %s = Concat(%d, %n) {axis=0} %y = Reshape(%g, %s) return %y }""",
        """graph main(%x: f32[B,S,3]) { %w: f32[3,2] = const [[1,4],[2,5],[3,6]] %b: f32[2] = const [1,2]
          %a = MatMul(%x, %w) %y = Add(%a, %b) return %y }""",
    ),
    "one-hot-product": (
        """graph main(%x: i32[N,S]) { %u = const [2] %i = Unsqueeze(%x, %u) %k: i32[1,1,3] = const [[[0,1,2]]]
          %w: f32[3,2] = const [[1,2],[3,4],[5,6]] %e = Equal(%i, %k) %h = Cast(%e) {to=f32} %y = MatMul(%h, %w)
          return %y }""",
        """graph main(%x: i32[N,S]) { %u = const [2] %l = const [-1] %a: i32[] = const -1 %b: i32[] = const 3
          %w: f32[4,2] = const [[1,2],[3,4],[5,6],[0,0]] %i = Unsqueeze(%x, %u) %s = Squeeze(%i, %l)
          %c = Clip(%s, %a, %b) %y = Gather(%w, %c) {axis=0} return %y }""",
    ),
    "pointwise-of-table": (
        """graph main(%x: i64[N,S]) { %w: f32[4,2] = const [[1,-2],[3,4],[5,6],[0,0]] %c: f32[1,1,2] = const [[[1,2]]]
          %zero: i64[] = const 0 %three: i64[] = const 3 %i = Clip(%x, %zero, %three)
          %g = Gather(%w, %i) %a = Add(%c, %g) %y = Relu(%a) return %y }""",
        """graph main(%x: i64[N,S]) { %w: f32[4,2] = const [[1,-2],[3,4],[5,6],[0,0]] %c: f32[2] = const [1,2]
          %zero: i64[] = const 0 %three: i64[] = const 3 %i = Clip(%x, %zero, %three)
          %a = Add(%w, %c) %g = Gather(%a, %i) {axis=0} %y = Relu(%g) return %y }""",
    ),
    "softmax": (
        """graph main(%x: f32[N,5]) { %a = const [-1] %m = ReduceMax(%x, %a) %s = Sub(%x, %m) %e = Exp(%s)
          %t = ReduceSum(%e, %a) %y = Div(%e, %t) return %y }""",
        "graph main(%x: f32[N,5]) { %y = Softmax(%x) {axis=-1} return %y }",
    ),
    "hard-swish": (
        """graph main(%x: f32[N]) { %h = HardSigmoid(%x) {alpha=0.16666667, beta=0.5} %y = Mul(%h, %x) return %y }""",
        "graph main(%x: f32[N]) { %y = HardSwish(%x) return %y }",
    ),
    "swish": (
        """graph main(%x: f32[N]) { %a: f32[] = const 1.5 %s = Mul(%a, %x) %h = Sigmoid(%s) %y = Mul(%x, %h)
          return %y }""",
        "graph main(%x: f32[N]) { %y = Swish(%x) {alpha=1.5} return %y }",
    ),
    "mish": (
        "graph main(%x: f32[N]) { %s = Softplus(%x) %t = Tanh(%s) %y = Mul(%x, %t) return %y }",
        "graph main(%x: f32[N]) { %y = Mish(%x) return %y }",
    ),
    "leaky-relu": (
        "graph main(%x: f32[N]) { %a: f32[] = const 0.25 %s = Mul(%x, %a) %y = Max(%x, %s) return %y }",
        "graph main(%x: f32[N]) { %y = LeakyRelu(%x) {alpha=0.25} return %y }",
    ),
    "global-pool": (
        "graph main(%x: f32[N,3,H,W]) { %a = const [-1,-2] %y = ReduceMean(%x, %a) return %y }",
        "graph main(%x: f32[N,3,H,W]) { %y = GlobalAveragePool(%x) return %y }",
    ),
    "double-qdq": (
        """graph main(%x: u8[N]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %d = DequantizeLinear(%x, %s, %z)
          %q = QuantizeLinear(%d, %s, %z) %y = DequantizeLinear(%q, %s, %z) return %y }""",
        """graph main(%x: u8[N]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %y = DequantizeLinear(%x, %s, %z)
          return %y }""",
    ),
    "sink-dequantize": (
        """graph main(%x: u8[A,B]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %d = DequantizeLinear(%x, %s, %z)
          %y = Transpose(%d) {perm=[1,0]} return %y }""",
        """graph main(%x: u8[A,B]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %t = Transpose(%x) {perm=[1,0]}
          %y = DequantizeLinear(%t, %s, %z) return %y }""",
    ),
    "hoist-quantize": (
        """graph main(%x: f32[A,B]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %t = Transpose(%x) {perm=[1,0]}
          %y = QuantizeLinear(%t, %s, %z) return %y }""",
        """graph main(%x: f32[A,B]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %q = QuantizeLinear(%x, %s, %z)
          %y = Transpose(%q) {perm=[1,0]} return %y }""",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", REWRITES)
def test_rewrite(assert_rewrites: Callable[..., object], rule: str) -> None:
    assert_rewrites(rule, *REWRITES[rule])


KEPT = {
    "linear-batch-norm": (
        """graph main(%x: f32[N,2]) { %w: f32[2,2] = const [[1,2],[3,4]] %g: f32[2] = const 1
          %a = MatMul(%x, %w) %y = BatchNormalization(%a, %g, %g, %g, %g) return %y, %a }""",
        "is an output of the graph",
    ),
    "linear-affine": (
        """graph main(%x: f32[N,3,2,2]) { %w: f32[4,3,1,1] = const random(1) %c: f32[1,1,2,1] = const [[[[1],[2]]]]
          %a = Conv(%x, %w) %y = Mul(%a, %c) return %y }""",
        "not one number a channel",
    ),
    "scaled-input": (
        """graph main(%x: f32[2,2]) { %c: f32[2,1] = const [[2],[3]] %w: f32[2,2] = const [[1,2],[3,4]]
          %s = Mul(%x, %c) %y = MatMul(%s, %w) return %y }""",
        "not one number an input channel",
    ),
    "shifted-input": (
        f"""graph main(%x: f32[N,3,8,8]) {{ {CONV} %c: f32[] = const 2 %a = Add(%x, %c)
          %y = Conv(%a, %w) {{pads=[1,1,1,1]}} return %y }}""",
        "zeros, which are not shifted",
    ),
    "batch-norm-affine": (
        """graph main(%x: f32[N,2], %m: f32[2]) { %g: f32[2] = const [2,4]
          %y = BatchNormalization(%x, %g, %g, %m, %g) return %y }""",
        "is not a constant",
    ),
    "pad-into-window": (
        f"""graph main(%x: f32[N,3,8,8]) {{ {CONV} %p = const [0,0,1,2,0,0,3,0] %v: f32[] = const 1 %a = Pad(%x, %p, %v)
          %y = Conv(%a, %w) return %y }}""",
        "not zero",
    ),
    "matmul-bias": (
        "graph main(%x: f32[1,3], %w: f32[3,4], %b: f32[5,4]) { %a = MatMul(%x, %w) %y = Add(%b, %a) return %y }",
        "may be larger than the product",
    ),
    "gemm-sum": (
        "graph main(%x: f32[N,3], %w: f32[3,4], %b: f32[4]) { %a = Gemm(%x, %w, %b) %y = Add(%a, %b) return %y }",
        "more than 2 operands",
    ),
    "matmul-transpose": (
        """graph main(%x: f32[B,N,3], %w: f32[3,B,4]) { %t = Transpose(%w) {perm=[1,0,2]} %y = MatMul(%x, %t)
          return %y }""",
        "last two dims",
    ),
    "matmul-scale": (
        """graph main(%x: f32[N,3], %w: f32[3,4]) { %c: f32[4] = const 4 %a = MatMul(%x, %w) %y = Mul(%a, %c)
          return %y }""",
        "not the constant of one element",
    ),
    "gemm-of-rows": (
        """graph main(%x: f32[6,S,3]) { %w: f32[3,2] = const 1 %r = const [-1,3] %s = const [3,-1,2]
          %f = Reshape(%x, %r) %g = Gemm(%f, %w) %y = Reshape(%g, %s) return %y }""",
        "not brought back as they were",
    ),
    "one-hot-product": (
        """graph main(%i: i32[N,S,1]) { %k: i32[3] = const [0,2,1] %w: f32[3,2] = const 1 %e = Equal(%i, %k)
          %h = Cast(%e) {to=f32} %y = MatMul(%h, %w) return %y }""",
        "not 0, 1, 2",
    ),
    "pointwise-of-table": (
        """graph main(%i: i64[N,S]) { %w: f32[4,2] = const 1 %c: f32[3,1] = const [[1],[2],[3]] %g = Gather(%w, %i)
          %y = Add(%g, %c) return %y }""",
        "not one number a column",
    ),
    "softmax": (
        """graph main(%x: f32[N,5]) { %a = const [-1] %b = const [0,1] %m = ReduceMax(%x, %a) %s = Sub(%x, %m)
          %e = Exp(%s)
          %t = ReduceSum(%e, %b) %y = Div(%e, %t) return %y }""",
        "one and the same axis",
    ),
    "hard-swish": (
        "graph main(%x: f32[N]) { %h = HardSigmoid(%x) {alpha=0.2, beta=0.5} %y = Mul(%h, %x) return %y }",
        "has alpha=0.2",
    ),
    "swish": ("graph main(%x: f32[N], %z: f32[N]) { %h = Sigmoid(%z) %y = Mul(%x, %h) return %y }", "x is both"),
    "mish": ("graph main(%x: f32[N]) { %s = Softplus(%x) %t = Tanh(%s) %y = Mul(%s, %t) return %y }", "x is both"),
    "leaky-relu": (
        "graph main(%x: f32[N]) { %a: f32[] = const 2 %s = Mul(%x, %a) %y = Max(%x, %s) return %y }",
        "slope is not in [0, 1]",
    ),
    "global-pool": (
        "graph main(%x: f32[N,3,H,W]) { %a = const [-1] %y = ReduceMean(%x, %a) return %y }",
        "not over all spatial dims",
    ),
    "double-qdq": (
        """graph main(%x: u8[N]) { %s: f32[] = const 0.5 %t: f32[] = const 0.25 %z: u8[] = const 3
          %d = DequantizeLinear(%x, %s, %z) %y = QuantizeLinear(%d, %t, %z) return %y }""",
        "s is both",
    ),
    "sink-dequantize": (
        """graph main(%x: u8[2,3]) { %s: f32[2] = const [0.5,1] %z: u8[2] = const [3,4]
          %d = DequantizeLinear(%x, %s, %z) {axis=0} %y = Transpose(%d) {perm=[1,0]} return %y }""",
        "per channel",
    ),
    "hoist-quantize": (
        """graph main(%x: f32[9,4], %i: i64[2]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %t = Gather(%x, %i) {axis=0}
          %y = QuantizeLinear(%t, %s, %z) return %y }""",
        "may read little",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", KEPT)
def test_near_miss(assert_keeps: Callable[..., None], rule: str) -> None:
    text, reason = KEPT[rule]
    assert_keeps(rule, text, reason)


@pytest.mark.parametrize(("pads", "value"), [("", "_"), (", pads=[1,1]", "%v")])
def test_padding_into_pools(assert_rewrites: Callable[..., object], pads: str, value: str) -> None:
    """An average takes zeros if the pool itself pads nothing, a maximum takes minus infinity."""
    op, lowest = ("AveragePool", "0") if not pads else ("MaxPool", "-inf")
    total = "[1,0], count_include_pad=1" if not pads else "[2,1]"
    assert_rewrites(
        "pad-into-window",
        f"""graph main(%x: f32[N,3,8]) {{ %p = const [0,0,1,0,0,0] %v: f32[] = const {lowest} %a = Pad(%x, %p, {value})
          %y = {op}(%a) {{kernel_shape=[3]{pads}}} return %y }}""",
        f"graph main(%x: f32[N,3,8]) {{ %y = {op}(%x) {{kernel_shape=[3], pads={total}}} return %y }}",
    )


GELU = {
    "x(1+erf)/2": "%a = Div(%x, %r) %b = Erf(%a) %c = Add(%b, %one) %d = Mul(%x, %c) %y = Mul(%d, %half)",
    "x((1+erf)/2)": "%a = Div(%x, %r) %b = Erf(%a) %c = Add(%one, %b) %d = Mul(%c, %half) %y = Mul(%x, %d)",
    "(x/2)(1+erf)": "%h = Mul(%half, %x) %a = Mul(%x, %q) %b = Erf(%a) %c = Add(%b, %one) %y = Mul(%h, %c)",
}
NUMBERS = "%r: f32[] = const 1.4142135 %q: f32[] = const 0.70710677 %one: f32[] = const 1 %half: f32[] = const 0.5"


@pytest.mark.parametrize("body", GELU.values(), ids=list(GELU))
def test_gelu_erf(assert_rewrites: Callable[..., object], body: str) -> None:
    before = f"graph main(%x: f32[N,4]) {{ {NUMBERS} {body} return %y }}"
    assert_rewrites("gelu-erf", before, "graph main(%x: f32[N,4]) { %y = Gelu(%x) return %y }")


def test_gelu_erf_needs_the_right_numbers(assert_keeps: Callable[..., None]) -> None:
    body = GELU["x(1+erf)/2"].replace("%half)", "%q)")
    assert_keeps("gelu-erf", f"graph main(%x: f32[N,4]) {{ {NUMBERS} {body} return %y }}", "not the constant 0.5")


TANH_NUMBERS = """%k: f32[] = const 0.044715 %s: f32[] = const 0.7978846 %one: f32[] = const 1 %half: f32[] = const 0.5
  %three: f32[] = const 3"""
CUBES = {
    "pow": "%p = Pow(%x, %three) %c = Mul(%p, %k) %i = Add(%x, %c) %j = Mul(%i, %s)",
    "products": "%x2 = Mul(%x, %x) %x3 = Mul(%x, %x2) %c = Mul(%k, %x3) %i = Add(%x, %c) %j = Mul(%s, %i)",
    "factored": "%x2 = Mul(%x, %x) %c = Mul(%x2, %k) %i = Add(%c, %one) %t = Mul(%x, %s) %j = Mul(%t, %i)",
}


@pytest.mark.parametrize("cube", CUBES.values(), ids=list(CUBES))
def test_gelu_tanh(assert_rewrites: Callable[..., object], cube: str) -> None:
    before = f"""graph main(%x: f32[N,4]) {{ {TANH_NUMBERS} {cube} %th = Tanh(%j) %g = Add(%th, %one)
      %h = Mul(%x, %half) %y = Mul(%h, %g) return %y }}"""
    assert_rewrites("gelu-tanh", before, 'graph main(%x: f32[N,4]) { %y = Gelu(%x) {approximate="tanh"} return %y }')


HARD = {
    "x*clip/6": "%a = Add(%x, %three) %c = Clip(%a, %zero, %six) %m = Mul(%x, %c) %y = Div(%m, %six)",
    "x*(clip/6)": "%a = Add(%three, %x) %c = Clip(%a, %zero, %six) %m = Div(%c, %six) %y = Mul(%x, %m)",
    "(x/6)*relu6": "%a = Add(%x, %three) %r = Relu(%a) %c = Min(%r, %six) %m = Div(%x, %six) %y = Mul(%m, %c)",
}


@pytest.mark.parametrize("body", HARD.values(), ids=list(HARD))
def test_hard_swish_from_pieces(assert_rewrites: Callable[..., object], body: str) -> None:
    numbers = "%three: f32[] = const 3 %zero: f32[] = const 0 %six: f32[] = const 6"
    before = f"graph main(%x: f32[N,4]) {{ {numbers} {body} return %y }}"
    rules = "hard-sigmoid hard-swish-split hard-swish"
    assert_rewrites(rules, before, "graph main(%x: f32[N,4]) { %y = HardSwish(%x) return %y }")


def test_hard_sigmoid_needs_six(assert_keeps: Callable[..., None]) -> None:
    numbers = "%three: f32[] = const 3 %zero: f32[] = const 0 %six: f32[] = const 5"
    body = "%a = Add(%x, %three) %c = Clip(%a, %zero, %six) %y = Div(%c, %six)"
    assert_keeps("hard-sigmoid", f"graph main(%x: f32[N,4]) {{ {numbers} {body} return %y }}", "not the constant 6")


@pytest.mark.parametrize(
    ("mode", "split", "perm"),
    [("DCR", "2,2,3,4,5", "0,3,4,1,5,2"), ("CRD", "3,2,2,4,5", "0,1,4,2,5,3")],
)
def test_depth_to_space(assert_rewrites: Callable[..., object], mode: str, split: str, perm: str) -> None:
    before = f"""graph main(%x: f32[2,12,4,5]) {{ %s = const [2,{split}] %a = Reshape(%x, %s)
      %t = Transpose(%a) {{perm=[{perm}]}} %j = const [2,3,8,10] %y = Reshape(%t, %j) return %y }}"""
    after = f'graph main(%x: f32[2,12,4,5]) {{ %y = DepthToSpace(%x) {{blocksize=2, mode="{mode}"}} return %y }}'
    assert_rewrites("depth-to-space", before, after)


def test_a_channel_shuffle_is_no_depth_to_space(assert_keeps: Callable[..., None]) -> None:
    assert_keeps(
        "depth-to-space",
        """graph main(%x: f32[2,12,4,5]) { %s = const [2,3,4,4,5] %a = Reshape(%x, %s)
      %t = Transpose(%a) {perm=[0,2,1,3,4]} %j = const [2,12,4,5] %y = Reshape(%t, %j) return %y }""",
        "permutation",
    )
