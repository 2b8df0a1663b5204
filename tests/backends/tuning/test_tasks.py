"""Regions as texts of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optc.backends.target import Target
from optc.backends.tuning.tasks import RESIDENT, Collector, weights_stay
from optc.compiler.text import parse_graph

from .support import PRODUCT, task_of

REGIONS = {
    "product": PRODUCT,
    "mean of bytes": """graph g(%x: u8[N,5,5,32]) {
      %s: f32[] = const 0.5  %z: u8[] = const 3  %axes: i64[2] = const [1,2]
      %d = DequantizeLinear(%x, %s, %z)  %y = ReduceMean(%d, %axes) {keepdims=1}  return %y }""",
    "quantized": """graph g(%x: u8[4,32]) {
      %w: i8[32,32] = const random(1)  %b: i32[32] = const random(2)  %s: f32[32] = const random(3)
      %o: f32[] = const 0.3  %z: u8[] = const 7
      %p = optc.MatMulInteger(%x, %w, %b)  %d = DequantizeLinear(%p, %s) {axis=1}
      %y = QuantizeLinear(%d, %o, %z)  return %y }""",
    "symbolic": """graph g(%x: f32[N,H,20,8]) {
      %w: f32[16,8,3,3] = const random(1)  %y = optc.Conv(%x, %w) {strides=[2,2]}  return %y }""",
}


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_by_itself_is_the_same_task(region: str) -> None:
    task = task_of(REGIONS[region])
    again = task_of(task.text)
    assert (again.text, again.candidates) == (task.text, task.candidates)


def test_names_and_weights_do_not_matter() -> None:
    other = PRODUCT.replace("%x", "%input").replace("%w", "%weights").replace("random(1)", "random(7)")
    assert task_of(other) == task_of(PRODUCT)


def test_scales_do_not_matter_but_their_being_one_does() -> None:
    text = REGIONS["quantized"]
    assert task_of(text.replace("const 0.3", "const 0.7")) == task_of(text)
    assert task_of(text.replace("const 0.3", "const 1.0")) != task_of(text)


def test_shapes_and_what_follows_matter() -> None:
    assert task_of(PRODUCT.replace("[9,16]", "[10,16]")) != task_of(PRODUCT)
    assert task_of(PRODUCT.replace("Relu", "Exp")) != task_of(PRODUCT)


def test_equal_regions_are_counted() -> None:
    graph = parse_graph("""graph g(%x: f32[9,16], %z: f32[9,16]) {
      %w: f32[16,32] = const random(1)  %v: f32[16,32] = const random(2)
      %a = MatMul(%x, %w)  %b = MatMul(%z, %v)  return %a, %b }""")
    collector = Collector()
    Target.host().lower(graph, None, collector)
    assert list(collector.counts.values()) == [2]


def test_a_causal_mask_is_no_table() -> None:
    rows = ",".join("[" + ",".join("0.0" if j <= i else "-inf" for j in range(4)) + "]" for i in range(4))
    task = task_of(f"""graph g(%q: f32[1,2,4,8], %k: f32[1,2,4,8], %v: f32[1,2,4,8]) {{
      %m: f32[4,4] = const [{rows}]  %y: f32[1,2,4,8] = optc.Attention(%q, %k, %v, %m) {{scale=0.3}}  return %y }}""")
    assert "causal=1" in task.text
    assert "inf" not in task.text


def test_the_name_says_ops_and_result() -> None:
    assert task_of().name == "MatMul+Relu f32[9,32]"


def test_weights_of_a_small_model_stay_in_cache() -> None:
    """Which is another task than the same region in a large one, and lowers to the same kernels."""
    small = task_of()
    assert small.text.startswith(RESIDENT)
    graph = parse_graph(PRODUCT)
    collector = Collector(resident=False)
    Target.host().lower(graph, None, collector)
    (large,) = collector.counts
    assert RESIDENT + large.text == small.text
    assert large.candidates == small.candidates
    assert not weights_stay(graph, replace(Target.host(), l2=64))
