"""optc.tools.size_bench: where the bytes of an artifact go."""

from __future__ import annotations

from pathlib import Path

from optc.backends import cpu
from optc.backends.build import build_artifact
from optc.backends.runtime.artifact import read_artifact
from optc.backends.target import Target
from optc.compiler.text import parse_graph
from optc.tools.size_bench import Row, markdown, split

GRAPH = """graph g(%x: u8[1, 9, 9, 24]) {
  %w: i8[24, 1, 3, 3] = const random(1)  %scale: f32[24] = const 0.1
  %s = optc.ConvInteger(%x, %w) {pads=[1, 1, 1, 1], group=24}  %y = DequantizeLinear(%s, %scale) {axis=3}
  return %y }"""


def test_the_parts_make_up_the_file(tmp_path: Path) -> None:
    path, target = tmp_path / "a.optc", Target.host()
    build_artifact(cpu.lower(parse_graph(GRAPH), target), target, {}, path)
    row = split("narrow", 10**6, read_artifact(path))
    assert row.int8 == path.stat().st_size == row.weights + row.tables + row.code + row.rest
    assert row.weights == 24 * 9 < row.unpacked
    assert row.tables >= 24 * 4
    assert row.percent == row.int8 / 10**4


def test_the_page_says_what_keeps_a_model_above_the_aim() -> None:
    rows = [Row("small", 1000, 400, 250, 50, 80, 20, 0), Row("large", 10**6, 260_000, 250_000, 5000, 4000, 1000, 0)]
    page = markdown(rows, "command")
    assert "- small: weights 25.0%, tables 5.0%, code 8.0%, rest 2.0% of the float32 file." in page
    assert "- large" not in page
    assert "| large | 26.0% | 1,000 | 260 |" in page
