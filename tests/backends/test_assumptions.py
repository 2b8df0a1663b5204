"""Which dims a program must compare before it runs."""

from __future__ import annotations

import pytest
from helpers import graph_of
from optc.backends.assumptions import assumptions

PAIRS = {
    "%x: f32[N,4], %s: f32[M,4]) { %y = Add(%x, %s)": ["N=M"],
    "%x: f32[N,4], %s: f32[N,4]) { %y = Add(%x, %s)": [],
    "%x: u8[N,4], %s: f32[]) { %y = DequantizeLinear(%x, %s)": [],
    "%x: u8[4,N], %s: f32[M]) { %y = DequantizeLinear(%x, %s) {axis=1}": ["N=M"],
    "%x: u8[4,N], %s: f32[4]) { %y = DequantizeLinear(%x, %s) {axis=0}": [],
    "%x: u8[4,N], %s: f32[2,N]) { %y = DequantizeLinear(%x, %s) {axis=0, block_size=2}": [],
}


@pytest.mark.parametrize("text", PAIRS)
def test_pairs(text: str) -> None:
    (node,) = graph_of(f"graph main({text} return %y }}").nodes
    assert [f"{a}={b}" for a, b in assumptions(node)] == PAIRS[text]
