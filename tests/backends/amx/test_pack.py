"""Vectors of int32 made bytes: every value in every place; and quantized results of whole vectors of columns."""

from __future__ import annotations

import numpy as np
from helpers import graph_of
from optc.backends.cpu import load_registries
from optc.backends.isa.pack import PACKED_LANES, to_bytes
from optc.backends.jit import jit
from optc.backends.kernels.amx import matmul
from optc.backends.kernels.amx.matmul import MatmulPlan
from optc.backends.kernels.amx.tiles import Block
from optc.backends.kernels.builder import KernelBuilder, buffer
from optc.backends.kernels.dims import DimVars
from optc.backends.kernels.epilogue import NodeEpilogue
from optc.backends.kernels.matmul import MatmulSpec

from .support import integers, needs_amx

pytestmark = needs_amx


def test_order_and_range() -> None:
    kb = KernelBuilder()
    x, y = buffer("x", (4, PACKED_LANES), "int32"), buffer("y", (4, PACKED_LANES), "uint8")
    with kb.loop(4) as row:
        value = kb.load(kb.flat(x), row * PACKED_LANES, PACKED_LANES)
        kb.store(kb.flat(y), row * PACKED_LANES, to_bytes(value), PACKED_LANES)
    numbers = np.arange(256, dtype="int32").reshape(4, PACKED_LANES)
    out = np.zeros(numbers.shape, "uint8")
    jit({"f": kb.finish([x, y])})["f"](numbers, out)
    np.testing.assert_array_equal(out, numbers)


def test_quantized_columns() -> None:
    """192 columns: whole vectors; 80: whole vectors and a narrower panel."""
    load_registries()
    for n in (192, 80):
        graph = graph_of(f"""graph g(%x: i32[37,{n}], %scale: f32[{n}]) {{
          %s: f32[] = const 0.07  %z: u8[] = const 12
          %d = DequantizeLinear(%x, %scale) {{axis=1}}  %y = QuantizeLinear(%d, %s, %z)
          return %y }}""")
        epilogue = NodeEpilogue(list(graph.nodes), graph.inputs[0], None, DimVars())
        spec, plan = MatmulSpec(37, n, 96), MatmulPlan(Block(1, 4), 2, 1, workers=1)
        a, b, bias = integers("uint8", 37, 96), integers("int8", 96, n), integers("int32", n) >> 16
        scale = np.random.default_rng(0).uniform(1e-5, 3e-4, n).astype("float32")
        y = np.zeros((37, n), "uint8")
        jit({"f": matmul.build(spec, plan, epilogue)})["f"](a, matmul.pack_weights(b, spec, plan), bias, scale, y)
        sums = a.astype("int32") @ b.astype("int32") + bias
        steps = sums.astype("float32") * scale * (np.float32(1) / np.float32(0.07))
        np.testing.assert_array_equal(y, (np.clip(np.rint(steps), -12, 243) + 12).astype("uint8"))
