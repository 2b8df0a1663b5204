"""What integer kernels are compared with: numpy in int64, wrapped to int32; and one small epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optc.backends.kernels.builder import Expr, buffer, i64, splat
from optc.backends.kernels.conv import ConvSpec
from tvm import tirx

LEVELS = ["x86-64-v2", "x86-64-v3", "alderlake", "x86-64-v4", "cascadelake", "sapphirerapids"]
BORDER = 137


def numbers(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Random integers over the whole range of a type."""
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def convolution(x: np.ndarray, w: np.ndarray, bias: np.ndarray, spec: ConvSpec) -> np.ndarray:
    """The convolution tap by tap, the image padded with BORDER."""
    rank = len(spec.kernel)
    pads = [(0, 0), *zip(spec.pads[:rank], spec.pads[rank:], strict=True), (0, 0)]
    padded = np.pad(x, pads, constant_values=BORDER).astype("int64")
    out = [(padded.shape[1 + i] - spec.reach[i]) // spec.strides[i] + 1 for i in range(rank)]
    y = np.zeros((x.shape[0], *out, spec.c_out), "int64")
    c_in, c_out = spec.c_in // spec.group, spec.c_out // spec.group
    for tap in np.ndindex(*spec.kernel):
        starts = [t * d for t, d in zip(tap, spec.dilations, strict=True)]
        cut = [slice(s, s + (o - 1) * k + 1, k) for s, o, k in zip(starts, out, spec.strides, strict=True)]
        part = padded[(slice(None), *cut)]
        weights = w[(..., *tap)].astype("int64").reshape(spec.group, c_out, c_in)
        grouped = part.reshape(*part.shape[:-1], spec.group, c_in)
        y += np.einsum("...gi,goi->...go", grouped, weights).reshape(y.shape)
    return (y + bias).astype("int32")


def sizes_of(spec: ConvSpec, sizes: dict[Any, int]) -> ConvSpec:
    """The same with numbers for symbolic dims."""
    batch, *spatial = [sizes.get(d, d) for d in (spec.batch, *spec.spatial)]
    return replace(spec, batch=batch, spatial=tuple(spatial))


class Halved:
    """`(sum >> 9) + residual`, clipped to bytes: a cheap stand-in for a requantize with a residual."""

    dtype = "uint8"

    def __init__(self, shape: Sequence[Any], flat: bool) -> None:
        self.flat = flat
        rows: Any = 1
        for extent in shape[:-1]:
            rows = rows * extent
        self._residual = buffer("residual", (rows, shape[-1]) if flat else shape, "uint8")
        self.buffers = [self._residual]

    def __call__(self, value: Expr, indices: Sequence[Expr], lanes: int) -> Expr:
        last = indices[-1] if lanes == 1 else tirx.Ramp(i64(indices[-1]), i64(1), lanes)
        kind = "int32" if lanes == 1 else f"int32x{lanes}"
        value = (value >> splat(tirx.const(9, "int32"), lanes)) + tirx.Cast(
            kind, tirx.BufferLoad(self._residual, [*map(i64, indices[:-1]), last])
        )
        value = tirx.max(tirx.min(value, splat(tirx.const(255, "int32"), lanes)), splat(tirx.const(0, "int32"), lanes))
        return tirx.Cast(kind.replace("int32", "uint8"), value)

    @staticmethod
    def exact(sums: np.ndarray, residual: np.ndarray) -> np.ndarray:
        return np.clip((sums >> 9) + residual.reshape(sums.shape).astype("int64"), 0, 255).astype("uint8")
