"""Tables of bytes: every index, whole vectors and rests, symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import table
from optc.backends.kernels.table import TableSpec
from optc.backends.target import Target
from tvm import tirx


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("size", [3, 256, 1000, 1 << 17])
def test_every_byte_is_looked_up(size: int, number: int) -> None:
    rng = np.random.default_rng(0)
    x = np.resize(np.arange(256, dtype="uint8"), size)
    entries = rng.integers(0, 256, 256).astype("uint8")
    n = tirx.Var("n", "int64")
    for dim in (size, n):
        spec = TableSpec((dim,))
        y = np.full(size, 77, "uint8")
        plan = list(table.plans(spec, Target.host()))[number]
        jit({"f": table.build(spec, plan)}, threads=2)["f"](x, entries, y)
        np.testing.assert_array_equal(y, entries[x])
