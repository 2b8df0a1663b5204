"""If, Loop and Scan from end to end, against ONNX Runtime."""

from __future__ import annotations

import resource

import numpy as np
import onnx
import onnxruntime as ort
import optc
import pytest
from optc.backends.runtime.model import Model
from optc.compiler.errors import OptcError

Feed = dict[str, np.ndarray]


def compiled(text: str) -> tuple[onnx.ModelProto, Model]:
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 20]>\n{text}')
    return proto, optc.compile(proto, threads=1, cache=False)


def check(text: str, *feeds: Feed) -> None:
    """Runs each feed on both, one after another in one loaded model."""
    proto, model = compiled(text)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    for feed in feeds:
        found = model.run(feed)
        for name, expected in zip(names, session.run(None, feed), strict=True):
            assert found[name].dtype == expected.dtype
            assert found[name].shape == expected.shape
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def f32(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers[0] if len(numbers) == 1 else numbers, np.int64)


# --- Loop --------------------------------------------------------------------------------------------------------


def test_loop_states_that_swap() -> None:
    check(
        """g (int64 n, float[2] a, float[2] b) => (float[2] x, float[2] y, float[T,2] s) {
          go = Constant<value = bool {1}>()
          x, y, s = Loop(n, go, a, b) <body = body (int64 i, bool c, float[2] p, float[2] q)
              => (bool c2, float[2] q2, float[2] r, float[2] product) {
            c2 = Identity(c)  q2 = Identity(q)  r = Add(p, q)  product = Mul(p, q)
          }>
        }""",
        *({"n": i64(n), "a": f32(2), "b": f32(2, seed=1)} for n in (0, 1, 2, 7)),
    )


def test_loop_three_states_in_a_ring() -> None:
    check(
        """g (int64 n, float[A] a, float[B] b, float[C] c) => (float[X] x, float[Y] y, float[Z] z) {
          x, y, z = Loop(n, , a, b, c) <body = body (int64 i, bool k, float[P] p, float[Q] q, float[R] r)
              => (bool k2, float[Q2] q2, float[R2] r2, float[P2] p2) {
            k2 = Identity(k)  q2 = Identity(q)  r2 = Relu(r)  p2 = Identity(p)
          }>
        }""",
        *({"n": i64(n), "a": f32(2), "b": f32(3), "c": f32(4)} for n in (0, 1, 2, 3, 4)),
    )


def test_loop_state_that_grows() -> None:
    check(
        """g (int64 n, float[K] a) => (float[M] x, float[1] squared) {
          x = Loop(n, , a) <body = body (int64 i, bool c, float[P] p) => (bool c2, float[Q] q) {
            c2 = Identity(c)  q = Concat<axis = 0>(p, a)
          }>
          total = ReduceSum<keepdims = 1>(x)
          squared = Mul(total, total)
        }""",
        *({"n": i64(n), "a": f32(3)} for n in (0, 1, 6, 2)),
    )


def test_loop_ended_by_its_condition_gathers_as_many_pieces() -> None:
    check(
        """g (float limit, float x) => (float y, float[T] path, float doubled) {
          n = Constant<value = int64 {1000}>()
          go = Less(x, limit)
          y, path = Loop(n, go, x) <body = body (int64 i, bool c, float p) => (bool c2, float q, float piece) {
            two = Constant<value = float {2.0}>()
            q = Mul(p, two)  c2 = Less(q, limit)  piece = Add(p, q)
          }>
          doubled = Add(y, y)
        }""",
        *({"limit": np.array(v, np.float32), "x": np.array(1.5, np.float32)} for v in (1, 5, 500, 2)),
    )


def test_loop_pieces_whose_shape_is_known_only_inside() -> None:
    check(
        """g (int64 n, float[N] x) => (float[T, M] stacked, float[T2, M2] again) {
          go = Constant<value = bool {1}>()
          stacked = Loop(n, go) <body = body (int64 i, bool c) => (bool c2, float[K] piece) {
            c2 = Identity(c)
            zero = Constant<value = float {0.0}>()
            mask = Greater(x, zero)
            kept = Compress<axis = 0>(x, mask)
            f = Cast<to = 1>(i)
            piece = Mul(kept, f)
          }>
          again = Neg(stacked)
        }""",
        *({"n": i64(n), "x": f32(5, seed=n)} for n in (3, 1, 5)),
    )


def test_nested_loops_reading_values_around_them() -> None:
    check(
        """g (int64 n, int64 m, float[D] x) => (float[D] y, float[S, T, D] all) {
          base = Relu(x)
          y, all = Loop(n, , x) <body = outer (int64 i, bool c, float[D] p) => (bool c2, float[D] r, float[U, D] in) {
            c2 = Identity(c)
            factor = Cast<to = 1>(i)
            scaled = Mul(base, factor)
            r, in = Loop(m, , p) <body = body (int64 j, bool d, float[D] q) => (bool d2, float[D] s, float[D] t) {
              d2 = Identity(d)
              s = Add(q, scaled)  t = Sub(s, base)
            }>
          }>
        }""",
        *({"n": i64(n), "m": i64(m), "x": f32(d)} for n, m, d in ((2, 3, 4), (1, 1, 2), (4, 2, 7))),
    )


def test_values_read_by_a_loop_live_until_it_ends() -> None:
    check(
        """g (int64 n, float[64] x) => (float[64] y) {
          first = Exp(x)
          y = Loop(n, , x) <body = body (int64 i, bool c, float[64] p) => (bool c2, float[64] q) {
            c2 = Identity(c)
            zero = Constant<value = int64 {0}>()
            a = Softmax(p)  b = CumSum(a, zero)  d = Softmax(b)  q = Add(d, first)
          }>
        }""",
        {"n": i64(5), "x": f32(64)},
    )


def test_loop_state_returned_through_a_view() -> None:
    check(
        """g (int64 n, float[2, 3] x) => (float[2, 3] y, float[2, 3] z) {
          shape = Constant<value = int64[2] {2, 3}>()
          flat = Constant<value = int64[1] {6}>()
          y, z = Loop(n, , x, x) <body = body (int64 i, bool c, float[2, 3] p, float[2, 3] q)
              => (bool c2, float[2, 3] q2, float[2, 3] p2) {
            c2 = Identity(c)
            a = Reshape(q, flat)  q2 = Reshape(a, shape)
            b = Add(p, p)  p2 = Identity(b)
          }>
        }""",
        *({"n": i64(n), "x": f32(2, 3)} for n in (0, 1, 2, 3)),
    )


def test_memory_of_a_loop_does_not_grow() -> None:
    """A state and a temporary of 80 KB on the heap over 4000 turns: 640 MB if they were kept."""
    _, model = compiled(
        """g (int64 n, float[N] x) => (float[M] y) {
          y = Loop(n, , x) <body = body (int64 i, bool c, float[P] p) => (bool c2, float[Q] q) {
            c2 = Identity(c)
            zero = Constant<value = float {0.0}>()
            mask = GreaterOrEqual(p, zero)
            kept = Compress<axis = 0>(p, mask)
            q = Abs(kept)
          }>
        }"""
    )
    x = np.ones(20_000, np.float32)
    model.run({"n": i64(10), "x": x})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.run({"n": i64(4000), "x": x})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KB


# --- Scan --------------------------------------------------------------------------------------------------------

SCAN = """g (float[B] s, float[{x}] x, float[{w}] w) => (float[B] t, float[{y}] y, float[{z}] z) {{
  t, y, z = Scan(s, x, w) <num_scan_inputs = 2, {attrs}, body = body (float[B] p, float[B] a, float[B] b)
      => (float[B] q, float[B] u, float[B] v) {{
    m = Mul(p, a)  q = Add(m, b)  u = Sub(q, a)  v = Identity(q)
  }}>
}}"""


@pytest.mark.parametrize(
    ("x", "w", "y", "z", "attrs"),
    [
        ("T, B", "T, B", "T, B", "T, B", "scan_input_axes = [0, 0]"),
        ("B, T", "T, B", "T, B", "B, T", "scan_input_axes = [1, 0], scan_output_axes = [0, 1]"),
        ("B, T", "B, T", "B, T", "T, B", "scan_input_axes = [-1, 1], scan_output_axes = [-1, 0]"),
        ("T, B", "T, B", "T, B", "T, B", "scan_input_directions = [1, 0], scan_output_directions = [0, 1]"),
    ],
)
def test_scan_axes_and_directions(x: str, w: str, y: str, z: str, attrs: str) -> None:
    def shape(dims: str, t: int) -> tuple[int, ...]:
        return tuple({"T": t, "B": 3}[d] for d in dims.split(", "))

    feeds = [{"s": f32(3), "x": f32(*shape(x, t)), "w": f32(*shape(w, t), seed=1)} for t in (1, 5)]
    check(SCAN.format(x=x, w=w, y=y, z=z, attrs=attrs), *feeds)


def test_scan_pieces_sized_by_data() -> None:
    check(
        """g (float[T, N] x, float[N] k) => (float[T, M] y) {
          zero = Constant<value = float {0.0}>()
          mask = Greater(k, zero)
          y = Scan(x) <num_scan_inputs = 1, scan_output_directions = [1], body = body (float[N] a) => (float[M] b) {
            b = Compress<axis = 0>(a, mask)
          }>
        }""",
        *({"x": f32(t, 6, seed=t), "k": f32(6, seed=t)} for t in (1, 4)),
    )


# --- If ----------------------------------------------------------------------------------------------------------


def test_if_returns_what_is_not_made_in_it() -> None:
    check(
        """g (bool c, float[N] x) => (float[N] y, float[2] k, float[N] z) {
          r = Relu(x)
          y, k, z = If(c) <then_branch = t () => (float[N] a, float[2] b, float[N] d) {
            a = Identity(x)  b = Constant<value = float[2] {1.0, 2.0}>()  d = Neg(r)
          }, else_branch = e () => (float[N] a2, float[2] b2, float[N] d2) {
            a2 = Identity(r)  b2 = Constant<value = float[2] {3.0, 4.0}>()  d2 = Identity(r)
          }>
        }""",
        *({"c": np.array(c), "x": f32(3)} for c in (True, False)),
    )


def test_if_results_of_shapes_that_data_decides() -> None:
    check(
        """g (bool c, float[N] x) => (float[M] y, int64[1] size) {
          zero = Constant<value = float {0.0}>()
          y0 = If(c) <then_branch = t () => (float[A] a) {
            mask = Greater(x, zero)  a = Compress<axis = 0>(x, mask)
          }, else_branch = e () => (float[B] b) {
            mask2 = Less(x, zero)  d = Compress<axis = 0>(x, mask2)  b = Concat<axis = 0>(d, x)
          }>
          y = Mul(y0, y0)
          size = Shape(y)
        }""",
        *({"c": np.array(c), "x": f32(n, seed=n)} for c in (True, False) for n in (9, 4)),
    )


def test_if_in_a_loop_in_an_if() -> None:
    check(
        """g (bool c, int64 n, float[N] x) => (float[N] y) {
          y = If(c) <then_branch = t () => (float[N] a) {
            a = Loop(n, , x) <body = body (int64 i, bool k, float[N] p) => (bool k2, float[N] q) {
              k2 = Identity(k)
              two = Constant<value = int64 {2}>()
              odd = Mod(i, two)
              is_odd = Cast<to = 9>(odd)
              q = If(is_odd) <then_branch = tt () => (float[N] o) { o = Mul(p, x) },
                              else_branch = ee () => (float[N] e) { e = Add(p, x) }>
            }>
          }, else_branch = e () => (float[N] b) { b = Neg(x) }>
        }""",
        *({"c": np.array(c), "n": i64(3), "x": f32(4)} for c in (True, False)),
    )


def test_branches_of_different_rank_share_their_tail() -> None:
    """x has rank 3 where its first dim is not 1."""
    check(
        """g (float[N, 3, 2] x) => (float[1] y, float[M, 2] z) {
          shape = Shape<end = 1>(x)
          one = Constant<value = int64[1] {1}>()
          first = Constant<value = int64[1] {0}>()
          is_one = Equal(shape, one)
          c = Squeeze(is_one, first)
          v = If(c) <then_branch = t () => (a) { a = Squeeze(x, first) }, else_branch = e () => (b) { b = Relu(x) }>
          doubled = Add(v, v)
          y0 = ReduceMax<keepdims = 0>(doubled)
          y = Unsqueeze(y0, first)
          rows = Constant<value = int64[2] {-1, 2}>()
          z = Reshape(doubled, rows)
        }""",
        *({"x": f32(n, 3, 2)} for n in (1, 2, 1)),
    )


def test_a_branch_that_fits_no_shape_fails_when_it_runs() -> None:
    text = """g (bool c, float[2, 3] x) => (float[2, 2] y) {
      y = If(c) <then_branch = t () => (float[2, 2] a) { xt = Transpose(x)  a = MatMul(x, xt) },
                 else_branch = e () => (float[2, 2] b) { b = MatMul(x, x) }>
    }"""
    _, model = compiled(text)
    x = f32(2, 3)
    np.testing.assert_allclose(model.run({"c": np.array(True), "x": x})["y"], x @ x.T, rtol=1e-5)
    with pytest.raises(OptcError, match="else_branch cannot run"):
        model.run({"c": np.array(False), "x": x})
    np.testing.assert_allclose(model.run({"c": np.array(True), "x": x})["y"], x @ x.T, rtol=1e-5)
