"""Simplification rules: what each makes of a graph, and what it must leave alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

IDENTITIES = {
    "identity": "%y = Identity(%x)",
    "dropout": "%y = Dropout(%x)",
    "cast": "%y = Cast(%x) {to=f32}",
    "transpose": "%y = Transpose(%x) {perm=[0,1,2]}",
    "reshape": "%s = const [0,4,6] %y = Reshape(%x, %s)",
    "slice": "%b = const [0] %e = const [9999] %a = const [1] %y = Slice(%x, %b, %e, %a)",
    "pad": "%p = const [0,0,0,0,0,0] %y = Pad(%x, %p)",
    "tile": "%r = const [1,1,1] %y = Tile(%x, %r)",
    "concat": "%y = Concat(%x) {axis=1}",
    "add 0": "%c: f32[4,1] = const 0 %y = Add(%c, %x)",
    "sub 0": "%c: f32[] = const 0 %y = Sub(%x, %c)",
    "mul 1": "%c: f32[1,4,6] = const 1 %y = Mul(%x, %c)",
    "div 1": "%c: f32[1] = const 1 %y = Div(%x, %c)",
    "pow 1": "%c: f32[] = const 1 %y = Pow(%x, %c)",
    "max of one": "%y = Max(%x)",
    "max with -inf": "%c: f32[] = const -inf %y = Max(%c, %x)",
    "clip without bounds": "%y = Clip(%x)",
    "where": "%c: bool[] = const true %z: f32[] = const 3 %y = Where(%c, %x, %z)",
    "pool of one": "%y = MaxPool(%x) {kernel_shape=[1]}",
    "expand": "%s = const [1,4,6] %y = Expand(%x, %s)",
}


@pytest.mark.parametrize("body", IDENTITIES.values(), ids=list(IDENTITIES))
def test_no_op(assert_rewrites: Callable[..., object], body: str) -> None:
    before = f"graph main(%x: f32[N,4,6]) {{ {body} %z1 = Relu(%y) return %z1 }}"
    assert_rewrites("no-op", before, "graph main(%x: f32[N,4,6]) { %y = Relu(%x) return %y }")


NOT_IDENTITIES = {
    "add 0 that widens": "%c: f32[4,6] = const 0 %y = Add(%c, %x)",
    "sub from 0": "%c: f32[] = const 0 %y = Sub(%c, %x)",
    "slice backwards": """%b = const [-1] %e = const [-9999] %a = const [0] %s = const [-1]
      %y = Slice(%x, %b, %e, %a, %s)""",
    "expand of a one": "%s = const [3,6] %y = Expand(%x, %s)",
    "transpose": "%y = Transpose(%x) {perm=[1,0]}",
    "pool with strides": "%u = const [0] %w = Unsqueeze(%x, %u) %y = MaxPool(%w) {kernel_shape=[1], strides=[2]}",
    "clip": "%c: f32[] = const 0 %y = Clip(%x, %c)",
    "mul nearly 1": "%c: f32[] = const 1.0001 %y = Mul(%x, %c)",
}


@pytest.mark.parametrize("body", NOT_IDENTITIES.values(), ids=list(NOT_IDENTITIES))
def test_no_op_near_misses(assert_keeps: Callable[..., None], body: str) -> None:
    assert_keeps("no-op", f"graph main(%x: f32[1,6]) {{ {body} return %y }}")


REWRITES = {
    "concat-empty": (
        "graph main(%x: f32[N,4], %e: f32[N,0], %z: f32[N,2]) { %y = Concat(%x, %e, %z) {axis=1} return %y }",
        "graph main(%x: f32[N,4], %e: f32[N,0], %z: f32[N,2]) { %y = Concat(%x, %z) {axis=1} return %y }",
    ),
    "split-concat": (
        """graph main(%x: f32[N,4]) { %a, %b = Split(%x) {axis=1, num_outputs=2} %y = Concat(%a, %b) {axis=-1}
          return %y }""",
        "graph main(%x: f32[N,4]) { return %x as \"y\" }",
    ),
    "double-inverse": (
        "graph main(%x: f32[N]) { %a = Neg(%x) %b = Neg(%a) %c = Relu(%b) %y = Relu(%c) return %y }",
        "graph main(%x: f32[N]) { %y = Relu(%x) return %y }",
    ),
    "view-of-view": (
        """graph main(%x: f32[N,4,6]) {
          %s = const [0,-1] %a = Reshape(%x, %s) %u = const [1] %y = Unsqueeze(%a, %u) return %y }""",
        "graph main(%x: f32[N,4,6]) { %s = const [0,1,24] %y = Reshape(%x, %s) return %y }",
    ),
    "static-reshape": (
        """graph main(%x: f32[N,S,8]) { %a: i64[2] = Shape(%x) {start=0, end=2} %h = const [2,4]
          %s = Concat(%a, %h) {axis=0} %y = Reshape(%x, %s) return %y }""",
        "graph main(%x: f32[N,S,8]) { %s = const [0,0,2,4] %y = Reshape(%x, %s) return %y }",
    ),
    "transpose-of-transpose": (
        "graph main(%x: f32[A,B,4]) { %a = Transpose(%x) {perm=[1,2,0]} %y = Transpose(%a) {perm=[1,0,2]} return %y }",
        "graph main(%x: f32[A,B,4]) { %y = Transpose(%x) {perm=[2,1,0]} return %y }",
    ),
    "transpose-as-reshape": (
        "graph main(%x: f32[N,1,4]) { %y = Transpose(%x) {perm=[0,2,1]} return %y }",
        "graph main(%x: f32[N,1,4]) { %s = const [0,4,1] %y = Reshape(%x, %s) return %y }",
    ),
    "cast-of-cast": (
        "graph main(%x: i32[N]) { %a = Cast(%x) {to=i64} %y = Cast(%a) {to=f32} return %y }",
        "graph main(%x: i32[N]) { %y = Cast(%x) {to=f32} return %y }",
    ),
    "slice-of-slice": (
        """graph main(%x: f32[N,6,S]) { %b = const [1] %e = const [5] %l = const [9999] %a = const [1] %c = const [-1]
          %s = Slice(%x, %b, %e, %a) %y = Slice(%s, %b, %l, %c) return %y }""",
        """graph main(%x: f32[N,6,S]) { %b = const [1,1] %e = const [5,9999] %a = const [1,2] %t = const [1,1]
          %y = Slice(%x, %b, %e, %a, %t) return %y }""",
    ),
    "reduce-keeping-dims": (
        """graph main(%x: f32[N,S,4]) { %a = const [-1] %r = ReduceMax(%x, %a) {keepdims=0} %y = Unsqueeze(%r, %a)
          return %y }""",
        "graph main(%x: f32[N,S,4]) { %a = const [-1] %y = ReduceMax(%x, %a) {keepdims=1} return %y }",
    ),
    "shape-element": (
        """graph main(%x: f32[N,S]) { %s = Shape(%x) %i: i64[] = const 1 %g = Gather(%s, %i) %a = const [0]
          %y = Unsqueeze(%g, %a) return %y }""",
        "graph main(%x: f32[N,S]) { %y = Shape(%x) {start=1, end=2} return %y }",
    ),
    "gather-of-shape": (
        "graph main(%x: f32[A,B,C]) { %s = Shape(%x) %i = const [1,2] %y = Gather(%s, %i) return %y }",
        "graph main(%x: f32[A,B,C]) { %y = Shape(%x) {start=1, end=3} return %y }",
    ),
    "shape-of-input": (
        "graph main(%x: f32[N,S]) { %a = Relu(%x) %y = Shape(%a) {start=1, end=2} return %a, %y }",
        "graph main(%x: f32[N,S]) { %a = Relu(%x) %y = Shape(%x) {start=1, end=2} return %a, %y }",
    ),
    "constant-chain": (
        """graph main(%x: f32[N,2]) { %a: f32[2] = const [1,2] %b: f32[] = const 3
          %c = Add(%a, %x) %y = Add(%c, %b) return %y }""",
        "graph main(%x: f32[N,2]) { %a: f32[2] = const [4,5] %y = Add(%x, %a) return %y }",
    ),
    "divide-exactly": (
        "graph main(%x: f32[N]) { %c: f32[] = const 8 %y = Div(%x, %c) return %y }",
        "graph main(%x: f32[N]) { %c: f32[] = const 0.125 %y = Mul(%x, %c) return %y }",
    ),
    "divide-by-constant": (
        """graph main(%x: f32[N]) { %c: f32[2] = const [5,-10] %a: f32[] = const 1 %y = Div(%a, %c)
          %z = Div(%x, %a) return %z }""",
        """graph main(%x: f32[N]) { %c: f32[2] = const [5,-10] %a: f32[] = const 1 %y = Div(%a, %c)
          %z = Mul(%x, %a) return %z }""",
    ),
    "max-as-relu": (
        "graph main(%x: f32[N]) { %c: f32[] = const 0 %y = Max(%c, %x) return %y }",
        "graph main(%x: f32[N]) { %y = Relu(%x) return %y }",
    ),
    "merge-clips": (
        """graph main(%x: f32[N]) { %a: f32[] = const -0.5 %b: f32[] = const 0.25 %c: f32[] = const 0.5
          %m = Min(%x, %c) %n = Max(%m, %a) %r = Relu(%n) %y = Clip(%r, _, %b) return %y }""",
        "graph main(%x: f32[N]) { %a: f32[] = const 0 %b: f32[] = const 0.25 %y = Clip(%x, %a, %b) return %y }",
    ),
    "sink-transpose-unary": (
        "graph main(%x: f32[A,B]) { %t = Transpose(%x) {perm=[1,0]} %y = Relu(%t) return %y }",
        "graph main(%x: f32[A,B]) { %t = Relu(%x) %y = Transpose(%t) {perm=[1,0]} return %y }",
    ),
    "sink-transpose-binary": (
        """graph main(%x: f32[A,4,B]) { %c: f32[4] = const [1,2,3,4] %t = Transpose(%x) {perm=[0,2,1]}
          %y = Sub(%c, %t) return %y }""",
        """graph main(%x: f32[A,4,B]) { %c: f32[1,4,1] = const [[[1],[2],[3],[4]]] %t = Sub(%c, %x)
          %y = Transpose(%t) {perm=[0,2,1]} return %y }""",
    ),
    "sink-transpose-reduction": (
        """graph main(%x: f32[A,B,4]) { %t = Transpose(%x) {perm=[2,0,1]} %a = const [1]
          %y = ReduceSum(%t, %a) {keepdims=0} return %y }""",
        """graph main(%x: f32[A,B,4]) { %a = const [0] %t = ReduceSum(%x, %a) {keepdims=0}
          %y = Transpose(%t) {perm=[1,0]} return %y }""",
    ),
    "sink-transpose-softmax": (
        "graph main(%x: f32[A,B,4]) { %t = Transpose(%x) {perm=[2,0,1]} %y = Softmax(%t) {axis=1} return %y }",
        "graph main(%x: f32[A,B,4]) { %t = Softmax(%x) {axis=0} %y = Transpose(%t) {perm=[2,0,1]} return %y }",
    ),
    "sink-transpose-concat": (
        """graph main(%x: f32[A,B], %z: f32[A,C]) { %t = Transpose(%x) {perm=[1,0]} %u = Transpose(%z) {perm=[1,0]}
          %y = Concat(%t, %u) {axis=0} return %y }""",
        """graph main(%x: f32[A,B], %z: f32[A,C]) { %t = Concat(%x, %z) {axis=1}
          %y = Transpose(%t) {perm=[1,0]} return %y }""",
    ),
    "sink-transpose-split": (
        """graph main(%x: f32[A,4]) { %t = Transpose(%x) {perm=[1,0]} %y, %z = Split(%t) {axis=0, num_outputs=2}
          return %y, %z }""",
        """graph main(%x: f32[A,4]) { %a, %b = Split(%x) {axis=1, num_outputs=2} %y = Transpose(%a) {perm=[1,0]}
          %z = Transpose(%b) {perm=[1,0]} return %y, %z }""",
    ),
    "sink-transpose-slice": (
        """graph main(%x: f32[A,4]) { %t = Transpose(%x) {perm=[1,0]} %b = const [1] %e = const [3] %a = const [0]
          %y = Slice(%t, %b, %e, %a) return %y }""",
        """graph main(%x: f32[A,4]) { %b = const [1] %e = const [3] %a = const [1]
          %t = Slice(%x, %b, %e, %a) %y = Transpose(%t) {perm=[1,0]} return %y }""",
    ),
    "sink-transpose-gather": (
        """graph main(%x: f32[A,B,3,4]) { %t = Transpose(%x) {perm=[2,0,3,1]} %i: i64[] = const 1
          %y = Gather(%t, %i) return %y }""",
        """graph main(%x: f32[A,B,3,4]) { %i: i64[] = const 1 %t = Gather(%x, %i) {axis=2}
          %y = Transpose(%t) {perm=[0,2,1]} return %y }""",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", REWRITES)
def test_rewrite(assert_rewrites: Callable[..., object], rule: str) -> None:
    assert_rewrites(rule, *REWRITES[rule])


KEPT = {
    "concat-empty": ("graph main(%x: f32[N,4], %z: f32[N,M]) { %y = Concat(%x, %z) {axis=1} return %y }", "no operand"),
    "split-concat": (
        """graph main(%x: f32[N,6]) { %a, %b, %c = Split(%x) {axis=1, num_outputs=3}
          %y = Concat(%a, %c, %b) {axis=1} return %y }""",
        "not concatenated in order",
    ),
    "view-of-view": (
        """graph main(%x: f32[A,B], %s: i64[3]) { %u = const [0] %a = Unsqueeze(%x, %u) %y = Reshape(%a, %s)
          return %y }""",
        "only at run time",
    ),
    "static-reshape": ("graph main(%x: f32[N,8], %s: i64[3]) { %y = Reshape(%x, %s) return %y }", "only at run time"),
    "transpose-of-transpose": ("""graph main(%x: f32[A,B]) { %y = Transpose(%x) {perm=[1,0]}
      return %y }""", "no output of"),
    "transpose-as-reshape": ("graph main(%x: f32[A,2]) { %y = Transpose(%x) {perm=[1,0]} return %y }", "larger than 1"),
    "cast-of-cast": (
        "graph main(%x: f32[N]) { %a = Cast(%x) {to=i32} %y = Cast(%a) {to=f32} return %y }",
        "i32 does not hold all of f32",
    ),
    "slice-of-slice": (
        """graph main(%x: f32[N,6]) { %b = const [1] %e = const [5] %a = const [1] %c = const [-1]
          %s = Slice(%x, %b, %e, %a) %y = Slice(%s, %b, %e, %c) return %y }""",
        "both cut the same axis",
    ),
    "reduce-keeping-dims": (
        """graph main(%x: f32[N,S,4]) { %a = const [-1] %b = const [0] %r = ReduceMax(%x, %a) {keepdims=0}
          %y = Unsqueeze(%r, %b) return %y }""",
        "do not come back as 1",
    ),
    "shape-element": (
        """graph main(%x: f32[N,S], %i: i64[]) { %s = Shape(%x) %g = Gather(%s, %i) %a = const [0]
          %y = Unsqueeze(%g, %a) return %y }""",
        "not the constant",
    ),
    "gather-of-shape": (
        "graph main(%x: f32[A,B,C]) { %s = Shape(%x) %i = const [2,0] %y = Gather(%s, %i) return %y }",
        "in a row",
    ),
    "shape-of-input": ("graph main(%x: f32[N,S]) { %y = Shape(%x) {start=1, end=2} return %y }", "no graph input"),
    "constant-chain": (
        """graph main(%x: f32[N,2]) { %a: f32[3,1] = const 1 %b: f32[1,2] = const 3
          %c = Add(%x, %b) %u = const [1] %d = Unsqueeze(%c, %u) %y = Add(%d, %a) return %y }""",
        "no output of Add",
    ),
    "divide-exactly": ("graph main(%x: f32[N]) { %c: f32[] = const 3 %y = Div(%x, %c) return %y }", "power of two"),
    "divide-by-constant": ("""graph main(%x: f32[N]) { %c: f32[] = const 0 %y = Div(%x, %c)
      return %y }""", "normal number"),
    "max-as-relu": ("graph main(%x: i32[N]) { %c: i32[] = const 0 %y = Max(%c, %x) return %y }", "not a float"),
    "merge-clips": (
        "graph main(%x: f32[N], %c: f32[]) { %a = Relu(%x) %y = Clip(%a, _, %c) return %y }",
        "is not constant",
    ),
    "sink-transpose-unary": (
        "graph main(%x: f32[A,B]) { %t = Transpose(%x) {perm=[1,0]} %y = Relu(%t) return %y, %t }",
        "is an output of the graph",
    ),
    "sink-transpose-binary": (
        """graph main(%x: f32[A,B,C], %z: f32[A,B,C]) { %t = Transpose(%x) {perm=[1,0,2]}
          %u = Transpose(%z) {perm=[0,2,1]}
          %y = Add(%t, %u) return %y }""",
        "permutations differ",
    ),
    "sink-transpose-reduction": (
        "graph main(%x: f32[A,B]) { %t = Transpose(%x) {perm=[1,0]} %y = ReduceSum(%t) return %y }",
        "axes are unknown",
    ),
    "sink-transpose-concat": (
        """graph main(%x: f32[A,B], %z: f32[C,A]) { %t = Transpose(%x) {perm=[1,0]}
          %y = Concat(%t, %z) {axis=0} return %y }""",
        "not transposed likewise",
    ),
    "sink-transpose-gather": (
        "graph main(%x: f32[A,B]) { %t = Transpose(%x) {perm=[1,0]} %i = const [0,1] %y = Gather(%t, %i) return %y }",
        "no single number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", KEPT)
def test_near_miss(assert_keeps: Callable[..., None], rule: str) -> None:
    text, reason = KEPT[rule]
    assert_keeps(rule, text, reason)


def test_transposes_meet_and_cancel(assert_rewrites: Callable[..., object]) -> None:
    from optc.passes.simplify.transposes import SINK_RULES

    before = """graph main(%x: f32[N,4,H,W]) {
      %b: f32[4] = const [1,2,3,4]
      %t = Transpose(%x) {perm=[0,2,3,1]} %a = Add(%t, %b) %r = Relu(%a) %y = Transpose(%r) {perm=[0,3,1,2]} return %y
    }"""
    after = """graph main(%x: f32[N,4,H,W]) {
      %b: f32[1,4,1,1] = const [[[[1]],[[2]],[[3]],[[4]]]] %a = Add(%x, %b) %y = Relu(%a) return %y
    }"""
    assert_rewrites(" ".join((*SINK_RULES, "no-op")), before, after)
