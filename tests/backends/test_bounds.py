"""What is known of the range of a value."""

from __future__ import annotations

import pytest
from helpers import graph_of
from optc.backends.kernels.bounds import ANYWHERE, bounds

HEAD = "graph main(%x: u8[4], %f: f32[4]) { %s: f32[] = const 0.5 %z: u8[] = const 3 %d = DequantizeLinear(%x, %s, %z)"
RANGES = {
    "%y = Relu(%d)": (0.0, 126.0),
    "%y = Add(%d, %d)": (-3.0, 252.0),
    "%y = Sub(%d, %d)": (-127.5, 127.5),
    "%y = Mul(%d, %d)": (-189.0, 15876.0),
    "%c: f32[] = const 6 %o: f32[] = const 0 %y = Clip(%d, %o, %c)": (0.0, 6.0),
    "%y = Sigmoid(%d)": (0.0, 1.0),
    "%y = Sigmoid(%f)": ANYWHERE,
    "%y = Add(%d, %f)": ANYWHERE,
    "%y = Exp(%d)": ANYWHERE,
}


@pytest.mark.parametrize("body", RANGES)
def test_range(body: str) -> None:
    graph = graph_of(f"{HEAD} {body} return %y }}")
    assert bounds(graph.outputs[0]) == RANGES[body]
