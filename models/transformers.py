"""BERT-base and GPT-2 with random weights, as torch exports them: every piece of attention a node of its own."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from .builder import GraphBuilder

HIDDEN, HEADS, INNER = 768, 12, 3072
HEAD_SIZE = HIDDEN // HEADS
SPREAD = 0.02
"""Standard deviation of a new transformer's weights (Devlin et al. 2019)."""


def bert_base(layers: int = 12, vocabulary: int = 30522, positions: int = 512) -> onnx.ModelProto:
    """BERT-base: three int64 inputs [N, S] to last_hidden_state [N, S, 768] and pooled [N, 768]; opset 17, erf GELU."""
    b = GraphBuilder("bert_base")
    ids, mask, types = (
        b.input(name, ("N", "S"), TensorProto.INT64) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    x = b.node("Add", _embedding(b, ids, "word", vocabulary), _embedding(b, types, "type", 2))
    x = b.node("Add", x, b.node("Gather", _table(b, "position", positions), _positions(b, ids, positions), axis=0))
    x = _layer_norm(b, x, "embeddings.norm")
    keep = b.node("Unsqueeze", b.node("Unsqueeze", mask, b.constant([1])), b.constant([2]))
    dropped = b.node("Sub", b.constant(1.0), b.node("Cast", keep, to=TensorProto.FLOAT))
    bias = b.node("Mul", dropped, b.constant(float(np.finfo(np.float32).min)), name="mask")
    for layer in range(layers):
        name = f"layer{layer}"
        q, k, v = (_heads(b, _dense(b, x, f"{name}.{part}", HIDDEN, HIDDEN)) for part in ("query", "key", "value"))
        scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]), name=f"{name}.scores")
        scores = b.node("Add", b.node("Div", scores, b.constant(float(np.sqrt(HEAD_SIZE)))), bias)
        attended = _join(b, b.node("MatMul", b.node("Softmax", scores, axis=-1, name=f"{name}.softmax"), v))
        x = _layer_norm(b, b.node("Add", _dense(b, attended, f"{name}.out", HIDDEN, HIDDEN), x), f"{name}.norm1")
        inner = _gelu_erf(b, _dense(b, x, f"{name}.inner", HIDDEN, INNER))
        x = _layer_norm(b, b.node("Add", _dense(b, inner, f"{name}.outer", INNER, HIDDEN), x), f"{name}.norm2")
    first = b.node("Gather", x, b.constant(np.array(0)), axis=1)
    pooled = b.node("Tanh", b.linear(first, "pooler", _weight(b, HIDDEN, HIDDEN), np.zeros(HIDDEN, np.float32)))
    b.output(x, "last_hidden_state", ("N", "S", HIDDEN))
    b.output(pooled, "pooled", ("N", HIDDEN))
    return b.build("BERT-base, random weights")


def gpt2(layers: int = 12, vocabulary: int = 50257, positions: int = 1024) -> onnx.ModelProto:
    """GPT-2 small without cache: input_ids int64 [N, S] to logits [N, S, 50257]; causal Trilu mask, tanh GELU, Gemm."""
    b = GraphBuilder("gpt2")
    ids = b.input("input_ids", ("N", "S"), TensorProto.INT64)
    words = _table(b, "word", vocabulary)
    where = b.node("Gather", _table(b, "position", positions), _positions(b, ids, positions), axis=0)
    x = b.node("Add", b.node("Gather", words, ids, axis=0), where)
    allowed = _causal(b, ids)
    lowest = b.constant(float(np.finfo(np.float32).min))
    for layer in range(layers):
        name = f"layer{layer}"
        qkv = _conv1d(b, _layer_norm(b, x, f"{name}.norm1"), f"{name}.qkv", HIDDEN, 3 * HIDDEN)
        q, k, v = (_heads(b, part) for part in b.split(qkv, 3, axis=2))
        scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]), name=f"{name}.scores")
        scores = b.node("Div", scores, b.constant(float(np.sqrt(HEAD_SIZE))))
        weights = b.node("Softmax", b.node("Where", allowed, scores, lowest), axis=-1, name=f"{name}.softmax")
        x = b.node("Add", _conv1d(b, _join(b, b.node("MatMul", weights, v)), f"{name}.out", HIDDEN, HIDDEN), x)
        inner = _gelu_tanh(b, _conv1d(b, _layer_norm(b, x, f"{name}.norm2"), f"{name}.inner", HIDDEN, INNER))
        x = b.node("Add", x, _conv1d(b, inner, f"{name}.outer", INNER, HIDDEN))
    x = _layer_norm(b, x, "norm")
    logits = b.node("MatMul", x, b.node("Transpose", words, perm=[1, 0]), name="logits")
    b.output(logits, "logits", ("N", "S", vocabulary))
    return b.build("GPT-2 small, random weights")


def _weight(b: GraphBuilder, *shape: int) -> np.ndarray:
    return b.he(*shape, fan_in=1, gain=SPREAD * SPREAD)


def _table(b: GraphBuilder, name: str, rows: int) -> str:
    return b.constant(_weight(b, rows, HIDDEN), f"embeddings.{name}")


def _embedding(b: GraphBuilder, ids: str, name: str, rows: int) -> str:
    return b.node("Gather", _table(b, name, rows), ids, axis=0, name=f"embeddings.{name}.gather")


def _layer_norm(b: GraphBuilder, x: str, name: str) -> str:
    gamma, beta = 1 + 0.1 * b.he(HIDDEN, fan_in=2), 0.1 * b.he(HIDDEN, fan_in=2)
    scale, bias = b.constant(gamma, f"{name}.weight"), b.constant(beta, f"{name}.bias")
    return b.node("LayerNormalization", x, scale, bias, name=name, axis=-1, epsilon=1e-12)


def _dense(b: GraphBuilder, x: str, name: str, cin: int, cout: int) -> str:
    """MatMul, then Add of the bias in front, which is how torch exports a Linear on three dims."""
    weight, bias = b.constant(_weight(b, cin, cout), f"{name}.weight"), b.constant(_weight(b, cout), f"{name}.bias")
    return b.node("Add", bias, b.node("MatMul", x, weight, name=f"{name}.matmul"), name=f"{name}.add")


def _conv1d(b: GraphBuilder, x: str, name: str, cin: int, cout: int) -> str:
    """GPT-2's Conv1D: a Gemm between two Reshapes."""
    flat = b.node("Reshape", x, b.constant([-1, cin]))
    weight, bias = b.constant(_weight(b, cin, cout), f"{name}.weight"), b.constant(_weight(b, cout), f"{name}.bias")
    y = b.node("Gemm", flat, weight, bias, name=name)
    return b.node("Reshape", y, b.node("Concat", *_leading(b, x), b.constant([cout]), axis=0))


def _leading(b: GraphBuilder, x: str) -> tuple[str, str]:
    """The first two dims of `x` as int64 vectors of length one, each from a Shape of its own, as exported."""
    batch, sequence = (
        b.node("Unsqueeze", b.node("Gather", b.node("Shape", x), b.constant(np.array(i)), axis=0), b.constant([0]))
        for i in (0, 1)
    )
    return batch, sequence


def _heads(b: GraphBuilder, x: str) -> str:
    """[N, S, 768] to [N, 12, S, 64]."""
    shape = b.node("Concat", *_leading(b, x), b.constant([HEADS]), b.constant([HEAD_SIZE]), axis=0)
    return b.node("Transpose", b.node("Reshape", x, shape), perm=[0, 2, 1, 3])


def _join(b: GraphBuilder, x: str) -> str:
    """[N, 12, S, 64] to [N, S, 768]."""
    x = b.node("Transpose", x, perm=[0, 2, 1, 3])
    return b.node("Reshape", x, b.node("Concat", *_leading(b, x), b.constant([HIDDEN]), axis=0))


def _positions(b: GraphBuilder, ids: str, limit: int) -> str:
    """[1, S]: a constant row of positions cut to the sequence's length."""
    row = b.constant(np.arange(limit, dtype=np.int64)[None], "position_ids")
    return b.node("Slice", row, b.constant([0]), _leading(b, ids)[1], b.constant([1]))


def _causal(b: GraphBuilder, ids: str) -> str:
    """bool [1, 1, S, S], true where a position may look."""
    length = _leading(b, ids)[1]
    shape = b.node("Concat", b.constant([1]), b.constant([1]), length, length, axis=0)
    ones = b.node("ConstantOfShape", shape, value=onnx.numpy_helper.from_array(np.ones(1, np.int64)))
    return b.node("Cast", b.node("Trilu", ones, upper=0), to=TensorProto.BOOL)


def _gelu_erf(b: GraphBuilder, x: str) -> str:
    """x (1 + erf(x / sqrt 2)) / 2."""
    inner = b.node("Erf", b.node("Div", x, b.constant(float(np.sqrt(2)))))
    return b.node("Mul", b.node("Mul", x, b.node("Add", inner, b.constant(1.0))), b.constant(0.5))


def _gelu_tanh(b: GraphBuilder, x: str) -> str:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016)."""
    cubic = b.node("Mul", b.node("Pow", x, b.constant(3.0)), b.constant(0.044715))
    inner = b.node("Mul", b.node("Add", x, cubic), b.constant(float(np.sqrt(2 / np.pi))))
    return b.node("Mul", b.node("Mul", x, b.constant(0.5)), b.node("Add", b.node("Tanh", inner), b.constant(1.0)))
