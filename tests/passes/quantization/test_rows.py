"""Layers as products of matrices on rows of their inputs."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.passes.quantization.rows import Product, Rows

ALL = 10**6
CONVS = {
    "plain": ("f32[2,3,9,8]", "f32[4,3,3,2]", "{pads=[1, 0, 2, 1], strides=[2, 1], dilations=[2, 1]}"),
    "grouped": ("f32[1,4,5,5]", "f32[6,2,3,3]", "{group=2}"),
    "depthwise": ("f32[1,4,5,5]", "f32[4,1,3,3]", '{group=4, auto_pad="SAME_UPPER", strides=[2, 2]}'),
    "one axis": ("f32[1,4,9]", "f32[6,4,3]", "{pads=[1, 1]}"),
}


def product_of(source: str) -> tuple[np.ndarray, np.ndarray]:
    """(what the layer's rows give, [rows, channels], what the graph gives)."""
    graph = graph_of(source)
    (node,) = graph.nodes
    inputs = random_inputs(graph)
    product = Product.of(node)
    assert product is not None
    matrix = product.matrix(node, np.asarray(node.operand(1).data))
    got = product.times(product.rows(inputs["x"], ALL), matrix)
    return got.transpose(1, 0, 2).reshape(got.shape[1], -1), run_reference(graph, inputs)["y"]


@pytest.mark.parametrize("case", CONVS)
def test_patches_are_what_a_convolution_multiplies(case: str) -> None:
    x, w, attrs = CONVS[case]
    source = f"graph g(%x: {x}) {{\n  %w: {w} = const random(1)\n  %y = Conv(%x, %w) {attrs}\n  return %y\n}}"
    got, expected = product_of(source)
    np.testing.assert_allclose(got, np.moveaxis(expected, 1, -1).reshape(got.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attrs", ["", " {transB=1}"])
def test_rows_of_products(attrs: str) -> None:
    w = "f32[5,6]" if attrs else "f32[6,5]"
    source = f"graph g(%x: f32[7,6]) {{\n  %w: {w} = const random(1)\n  %y = Gemm(%x, %w){attrs}\n  return %y\n}}"
    got, expected = product_of(source)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_transposed_convolution_without_overlap_writes_patches() -> None:
    source = """graph g(%x: f32[1,4,3,3]) {
      %w: f32[4,3,2,2] = const random(1)
      %y = ConvTranspose(%x, %w) {strides=[2, 2], group=2}
      return %y
    }"""
    got, expected = product_of(source)
    patches = expected.reshape(6, 3, 2, 3, 2).transpose(1, 3, 0, 2, 4)
    np.testing.assert_allclose(got, patches.reshape(got.shape), rtol=1e-5, atol=1e-5)
    assert Product.of(next(iter(graph_of(source.replace("strides=[2, 2]", "strides=[1, 1]")).nodes))) is None


def test_as_many_rows_as_wanted_from_all_over() -> None:
    node = next(
        iter(
            graph_of("""graph g(%x: f32[1,1,20,20]) {
      %w: f32[1,1,1,1] = const random(1)
      %y = Conv(%x, %w)
      return %y
    }""").nodes
        )
    )
    product = Product.of(node)
    assert product is not None
    rows = Rows(product, 30)
    for start in (0, 400):
        rows.update(np.arange(start, start + 400, dtype=np.float32).reshape(1, 1, 20, 20))
    assert rows.array.shape == (60, 1, 1)
    columns = rows.array[:30].reshape(-1) % 20
    assert len(set(rows.array.reshape(-1))) == 60
    assert len(set(columns)) > 15
