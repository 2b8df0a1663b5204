"""Made-up samples run, stay within tables, and are the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of
from optc.compiler.errors import CalibrationError
from optc.passes.quantization.execute import Runner
from optc.passes.quantization.samples import checked
from optc.passes.quantization.synthetic import Synthetic

IMAGE = """graph g(%x: f32[N, 3, H, W]) {
  %w: f32[8, 3, 3, 3] = const random(1)
  %y = Conv(%x, %w) {pads=[1,1,1,1]}
  return %y
}"""

BERT = """graph g(%input_ids: i64[batch, seq], %token_type_ids: i32[batch, seq], %attention_mask: i64[batch, seq]) {
  %words: f32[100, 8] = const random(1)
  %kinds: f32[2, 8] = const random(2)
  %a = Gather(%words, %input_ids)
  %t = Cast(%token_type_ids) {to=i64}
  %b = Gather(%kinds, %t)
  %h = Add(%a, %b)
  %m = Cast(%attention_mask) {to=f32}
  %axes = const [2]
  %u = Unsqueeze(%m, %axes)
  %y = Mul(%h, %u)
  return %y
}"""


def test_images_are_normal_and_clipped() -> None:
    (first, second) = Synthetic(graph_of(IMAGE), count=2)
    assert first["x"].shape == (1, 3, 224, 224)
    assert np.abs(first["x"]).max() == 3
    assert abs(first["x"].std() - 1) < 0.05
    assert (first["x"] != second["x"]).any()


def test_ids_lie_within_their_tables_and_masks_are_ones() -> None:
    graph = graph_of(BERT)
    for sample in Synthetic(graph):
        assert sample["input_ids"].max() > 16
        assert sample["input_ids"].max() < 100
        assert sample["token_type_ids"].max() == 1
        assert sample["token_type_ids"].dtype == np.int32
        assert (sample["attention_mask"] == 1).all()
        Runner(graph).run(sample)


def test_they_are_the_same_each_time_and_fit() -> None:
    graph = graph_of(BERT)
    data = Synthetic(graph)
    assert len(data) == len(list(checked(data, graph.inputs))) == 8
    assert data.synthetic
    for a, b in zip(data, Synthetic(graph), strict=True):
        np.testing.assert_array_equal(a["input_ids"], b["input_ids"])
    other = next(iter(Synthetic(graph, seed=1)))
    assert (other["input_ids"] != next(iter(data))["input_ids"]).any()


def test_free_dims_are_sizes_that_run() -> None:
    """Only 48 by 48 suits both products."""
    graph = graph_of("""graph g(%x: f32[N, 1, H, W]) {
  %w: f32[2304, 2] = const random(1)
  %shape = const [-1, 2304]
  %r = Reshape(%x, %shape) {allowzero=0}
  %k: f32[48, 2] = const random(2)
  %m = MatMul(%x, %k)
  %y = MatMul(%r, %w)
  return %y, %m
}""")
    assert next(iter(Synthetic(graph)))["x"].shape == (1, 1, 48, 48)


def test_other_dtypes() -> None:
    graph = graph_of("""graph g(%a: u8[1, 4, 4, 3], %flag: bool[2], %n: i64[], %h: f16[2]) {
  %y = Identity(%a)
  return %y, %flag, %n, %h
}""")
    (sample,) = Synthetic(graph, count=1)
    assert sample["a"].max() > 100
    assert sample["flag"].all()
    assert sample["n"] in (0, 1)
    assert sample["h"].dtype == np.float16


def test_no_size_that_runs_is_an_error() -> None:
    graph = graph_of("""graph g(%x: f32[1, S]) {
  %w: f32[77, 2] = const random(1)
  %y = MatMul(%x, %w)
  return %y
}""")
    with pytest.raises(CalibrationError, match="no sizes found") as error:
        Synthetic(graph)
    assert "data" in str(error.value.hint)
