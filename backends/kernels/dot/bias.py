"""The bias of a product, as the first step of its epilogue.

Integer sums modulo 2^32 are the same in any order, so that the bias may as well come last: there the columns beyond the
last panel's end are already cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ..builder import Epilogue, Expr, buffer, i64, result_pitch


class Biased:
    """An epilogue that adds a bias [columns] of the sums' `dtype` and hands them to `inner`, if there is one.

    `between` are buffers that the kernel takes after the bias and before those of `inner`. With `shifted` sums (see
    Arithmetic.shift) what they lack is a second vector, after the bias.
    """

    def __init__(
        self,
        columns: int,
        inner: Epilogue | None,
        between: Sequence[Any] = (),
        dtype: str = "int32",
        shifted: bool = False,
    ) -> None:
        self._inner, self._added = inner, [buffer("bias", (columns,), dtype)]
        if shifted:
            self._added.append(buffer("lacking", (columns,), dtype))
        self.buffers: Sequence[Any] = [*self._added, *between, *(inner.buffers if inner else ())]
        self.flat = inner is None or inner.flat
        self.pitch = result_pitch(inner, columns)
        self.dtype = dtype if inner is None else inner.dtype

    def __call__(self, value: Expr, indices: Sequence[Expr], lanes: int) -> Expr:
        at = i64(indices[-1])
        for vector in self._added:
            value = value + tirx.BufferLoad(vector, [at if lanes == 1 else tirx.Ramp(at, i64(1), lanes)])
        return value if self._inner is None else self._inner(value, indices, lanes)
