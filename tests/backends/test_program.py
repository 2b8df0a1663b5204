"""Programs whose dims data decides, and the checks of dims taken to be equal, against ONNX Runtime."""

from __future__ import annotations

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


def f32(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


POSITIVE = "zero = Constant<value = float {0.0}>() m = Greater(x, zero)"

GRAPHS = {
    "compress, pointwise": (
        "(float[N] x) => (float[M] y)",
        POSITIVE + "c = Compress<axis = 0>(x, m) e = Exp(c) s = Add(e, c) y = Tanh(s)",
        [{"x": f32(n, seed=n)} for n in (9, 1, 30)],
    ),
    "nonzero, gather": (
        "(float[N, K] x) => (float[M] y, int64[2, M] where)",
        POSITIVE + "where = NonZero(m) t = Transpose(where) y0 = GatherND(x, t) y = Mul(y0, y0)",
        [{"x": f32(n, 4, seed=n)} for n in (3, 1)],
    ),
    "rows by data, matmul, softmax": (
        "(float[N, 8] x, float[N] k, float[8, 5] w) => (float[M, 5] y, float[5] total)",
        "zero = Constant<value = float {0.0}>() m = Greater(k, zero) r = Compress<axis = 0>(x, m) p = MatMul(r, w)"
        " y = Softmax<axis = -1>(p) a = Constant<value = int64[1] {0}>() total = ReduceSum<keepdims = 0>(y, a)",
        [{"x": f32(n, 8, seed=n), "k": f32(n, seed=n + 1), "w": f32(8, 5)} for n in (6, 20)],
    ),
    "columns by data, matmul over them": (
        "(float[4, N] x, float[N] k, float[N, 3] w) => (float[4, 3] y)",
        "zero = Constant<value = float {0.0}>() m = Greater(k, zero) r = Compress<axis = 1>(x, m)"
        " v = Compress<axis = 0>(w, m) y = MatMul(r, v)",
        [{"x": f32(4, n, seed=n), "k": f32(n, seed=n + 1), "w": f32(n, 3)} for n in (6, 20)],
    ),
    "images by data, conv, pool": (
        "(float[N, 3, 8, 8] x, float[N] k, float[4, 3, 3, 3] w) => (float[M, 4, 1, 1] y)",
        "zero = Constant<value = float {0.0}>() m = Greater(k, zero) r = Compress<axis = 0>(x, m)"
        " c = Conv<pads = [1, 1, 1, 1]>(r, w) a = Relu(c) y = GlobalAveragePool(a)",
        [{"x": f32(n, 3, 8, 8, seed=n), "k": f32(n, seed=n + 1), "w": f32(4, 3, 3, 3)} for n in (4, 9)],
    ),
    "length by data, conv": (
        "(float[1, 2, N] x, int64[1] start, int64[1] end, float[4, 2, 3] w) => (float[1, 4, M] y)",
        "two = Constant<value = int64[1] {2}>() s = Slice(x, start, end, two) c = Conv<pads = [1, 1]>(s, w)"
        " y = Sigmoid(c)",
        [
            {"x": f32(1, 2, n), "start": i64(a), "end": i64(b), "w": f32(4, 2, 3)}
            for n, a, b in ((20, 0, 10), (30, 5, 99), (12, -8, -1))
        ],
    ),
    "reshape to a computed shape, then to rows": (
        "(float[N, 6] x, int64[3] shape) => (float[A, B, C] y, float[M, 2] z)",
        "r = Reshape(x, shape) y = Relu(r) two = Constant<value = int64[2] {-1, 2}>() f = Reshape(y, two) z = Neg(f)",
        [{"x": f32(4, 6), "shape": i64(2, 3, 4)}, {"x": f32(5, 6), "shape": i64(3, -1, 2)}],
    ),
    "range, expand, add": (
        "(int64 n, float[K] x) => (float[M, K] y)",
        "zero = Constant<value = int64 {0}>() one = Constant<value = int64 {1}>() r = Range(zero, n, one)"
        " f = Cast<to = 1>(r) a = Constant<value = int64[1] {1}>() u = Unsqueeze(f, a) y = Add(u, x)",
        [{"n": np.array(n, np.int64), "x": f32(3)} for n in (4, 1)],
    ),
    "unique, concat, reduce": (
        "(int64[N] x) => (int64[M] y, int64[1] top)",
        "u = Unique(x) c = Concat<axis = 0>(u, x) d = Add(c, c) y = Abs(d) top = ReduceMax<keepdims = 1>(y)",
        [{"x": i64(3, 1, 3, 2)}, {"x": i64(5, 5, 5)}],
    ),
    "nothing is left": (
        "(float[N] x) => (float[M] y, float total)",
        POSITIVE + "c = Compress<axis = 0>(x, m) y = Exp(c) total = ReduceSum<keepdims = 0>(y)",
        [{"x": -np.ones(4, np.float32)}, {"x": np.ones(2, np.float32)}],
    ),
    "two lengths that are equal": (
        "(float[N] x) => (float[M] y)",
        POSITIVE + "c = Compress<axis = 0>(x, m) o = Not(m) n = Not(o) d = Compress<axis = 0>(x, n) y = Mul(c, d)",
        [{"x": f32(9)}],
    ),
    "top by data, sorted": (
        "(float[N] x, int64[1] k) => (float[K] y, int64[K] at)",
        "v, at = TopK(x, k) y = Neg(v)",
        [{"x": f32(9), "k": i64(3)}, {"x": f32(5), "k": i64(5)}],
    ),
    "an input, a view and one value twice": (
        "(float[N, 2] x) => (float[N, 2] same, float[M] flat, float[N, 2] y, float[N, 2] again)",
        "same = Identity(x) s = Constant<value = int64[1] {-1}>() flat = Reshape(x, s) y = Relu(x) again = Identity(y)",
        [{"x": f32(3, 2)}, {"x": f32(1, 2)}],
    ),
    "ragged transpose": (
        "(float[N, 4, 2] x, float[N] k) => (float[2, 4, M] y)",
        "zero = Constant<value = float {0.0}>() m = Greater(k, zero) r = Compress<axis = 0>(x, m) t = Transpose(r)"
        " y = Softmax<axis = 1>(t)",
        [{"x": f32(n, 4, 2), "k": f32(n, seed=3)} for n in (7, 12)],
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_dims_that_data_decides(name: str) -> None:
    ports, body, feeds = GRAPHS[name]
    proto, model = compiled(f"g {ports} {{ {body} }}")
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    for feed in feeds:
        found = model.run(feed)
        for output, expected in zip(names, session.run(None, feed), strict=True):
            assert found[output].dtype == expected.dtype
            assert found[output].shape == expected.shape
            np.testing.assert_allclose(found[output], expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ports", "body", "shapes"),
    [
        ("(float[N] x, float[M] z) => (float[N] y)", "y = Add(x, z)", ((4,), (9,))),
        ("(float[A, N] x, float[A, M] z) => (float[A, N] y)", "e = Exp(x) y = Mul(e, z)", ((2, 9), (2, 4))),
        ("(float[3, N] x, float[M, 2] z) => (float[3, 2] y)", "y = MatMul(x, z)", ((3, 9), (4, 2))),
        ("(float[B, 3, 4] x, float[C, 4, 2] z) => (float[B, 3, 2] y)", "y = MatMul(x, z)", ((4, 3, 4), (2, 4, 2))),
        ("(float[3, N] x, float[2, M] z) => (float[3, 2] y)", "y = Gemm<transB = 1>(x, z)", ((3, 4), (2, 9))),
        ("(float[N, 2] x, float[M, 2] z) => (float[N, 4] y)", "y = Concat<axis = 1>(x, z)", ((4, 2), (9, 2))),
        ("(float[N] x, float[M] z) => (float[N] y)", "r = Relu(x) y = Where(c, r, z) c = Greater(x, r)", ((4,), (9,))),
    ],
)
def test_dims_taken_to_be_equal_are_compared(ports: str, body: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    _, model = compiled(f"g {ports} {{ {body} }}")
    with pytest.raises(OptcError, match="needs equal dims"):
        model.run({"x": f32(*shapes[0]), "z": f32(*shapes[1])})


def test_lengths_by_data_that_differ_are_refused() -> None:
    body = POSITIVE + " c = Compress<axis = 0>(x, m) n = Not(m) d = Compress<axis = 0>(x, n) y = Add(c, d)"
    _, model = compiled(f"g (float[N] x) => (float[M] y) {{ {body} }}")
    x = np.array([1, -2, 3, -4], np.float32)
    np.testing.assert_array_equal(model.run({"x": x})["y"], [-1, -1])
    with pytest.raises(OptcError, match="needs equal dims"):
        model.run({"x": np.array([1, 2, 3, -4], np.float32)})


def test_a_reshape_that_does_not_fit_is_refused() -> None:
    """Shape inference finds [M, 3] of z: only running shows whether x has as many elements."""
    body = "s = Shape(z) r = Reshape(x, s) y = Neg(r)"
    _, model = compiled(f"g (float[N] x, float[M, 3] z) => (float[M, 3] y) {{ {body} }}")
    assert model.run({"x": f32(6), "z": f32(2, 3)})["y"].shape == (2, 3)
    with pytest.raises(OptcError, match="elements"):
        model.run({"x": f32(6), "z": f32(4, 3)})
