"""Arithmetic on one byte becomes a table of 256."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import graph_of, random_inputs, run_reference
from optc.passes.base import PassContext, run_passes
from optc.passes.fusion.tables import ByteTables

GRIDS = """%s: f32[] = const 0.05 %z: u8[] = const 100 %t: f32[] = const 0.00390625 %o: u8[] = const 0"""


def ops_after(text: str) -> list[str]:
    """The ops left, the results being the same."""
    graph = graph_of(text)
    inputs = random_inputs(graph)
    expected = run_reference(graph, inputs)
    run_passes(graph, (ByteTables(),), PassContext(check_changed=True))
    for name, array in run_reference(graph, inputs).items():
        np.testing.assert_array_equal(array, expected[name])
    return [n.op for n in graph.nodes]


def test_a_function_of_bytes_is_a_table() -> None:
    assert ops_after(f"""graph main(%x: u8[N,4]) {{ {GRIDS} %d = DequantizeLinear(%x, %s, %z) %g = Sigmoid(%d)
      %y = QuantizeLinear(%g, %t, %o) return %y }}""") == ["optc.Lookup"]


def test_several_quantized_steps_are_one_table() -> None:
    """x sigmoid(x) as other tools quantize it."""
    assert ops_after(f"""graph main(%x: u8[N,4]) {{ {GRIDS} %d = DequantizeLinear(%x, %s, %z) %g = Sigmoid(%d)
      %q = QuantizeLinear(%g, %t, %o) %e = DequantizeLinear(%q, %t, %o) %f = DequantizeLinear(%x, %s, %z)
      %m = Mul(%f, %e) %y = QuantizeLinear(%m, %s, %z) return %y }}""") == ["optc.Lookup"]


def test_a_step_read_by_others_is_a_table_of_its_own() -> None:
    assert ops_after(f"""graph main(%x: u8[N,4]) {{ {GRIDS} %d = DequantizeLinear(%x, %s, %z) %g = Sigmoid(%d)
      %q = QuantizeLinear(%g, %t, %o) %e = DequantizeLinear(%q, %t, %o) %h = Exp(%e)
      %y = QuantizeLinear(%h, %s, %z) return %y, %q }}""") == ["optc.Lookup", "optc.Lookup"]


@pytest.mark.parametrize(
    "body",
    [
        "%g = Relu(%d) %y = QuantizeLinear(%g, %t, %o) return %y",
        "%g = Sigmoid(%d) return %g",
        "%g = Sigmoid(%d) %m = Mul(%g, %w) %y = QuantizeLinear(%m, %t, %o) return %y",
        "%e = DequantizeLinear(%v, %s, %z) %g = Pow(%d, %e) %y = QuantizeLinear(%g, %t, %o) return %y",
        "%c: f32[4] = const [1,2,3,4] %g = Pow(%d, %c) %y = QuantizeLinear(%g, %t, %o) return %y",
    ],
    ids=["cheap", "floats", "another operand", "two tensors of bytes", "a constant per channel"],
)
def test_other_arithmetic_stays(assert_keeps: Callable[..., None], body: str) -> None:
    text = f"graph main(%x: u8[N,4], %v: u8[N,4], %w: f32[N,4]) {{ {GRIDS} %d = DequantizeLinear(%x, %s, %z) {body} }}"
    assert_keeps((ByteTables(),), text)
