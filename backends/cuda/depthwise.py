"""Depthwise convolutions: one thread computes one channel of one output pixel, so that neighbours read neighbours.

Params of a kernel: x, packed weights [tap][channel], what `epilogue` reads, y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from ..kernels.builder import Epilogue, Expr, KernelBuilder, buffer, i64, known, product, result_dtype
from ..target import Target
from .gemm import Arithmetic, GemmSpec


@dataclass(frozen=True)
class ThreadPlan:
    """A thread an element: there is nothing to choose."""


def plans(spec: GemmSpec, target: Target) -> Iterator[ThreadPlan]:
    """The only plan."""
    yield ThreadPlan()


def pack_weights(weights: NDArray[Any], spec: GemmSpec, plan: ThreadPlan) -> NDArray[Any]:
    """[channels, 1, kernel...] as [tap][channel]."""
    return np.ascontiguousarray(weights.reshape(weights.shape[0], -1).T.astype(spec.arithmetic.weights)).reshape(-1)


def build(spec: GemmSpec, plan: ThreadPlan, epilogue: Epilogue | None = None, border: Any | None = None) -> Any:
    """The kernel; `border` is the element that lies around the image (default: zero)."""
    conv, arithmetic, channels = spec.conv, spec.arithmetic, spec.conv.c_out
    kb = KernelBuilder()
    x = buffer("x", (conv.batch, *conv.spatial, channels), arithmetic.x)
    weights = buffer("weights", (channels * int(product(conv.kernel)),), arithmetic.weights)
    y = buffer("y", spec.shape, result_dtype(epilogue, arithmetic.sums))
    image, panel, out = kb.flat(x), kb.flat(weights), kb.flat(y)
    with kb.loop(product(spec.shape), "element", parallel=True) as element:
        batch, *pixel, channel = position(kb, element, spec.shape)
        acc = kb.local(1, arithmetic.sums)
        kb.store(acc, 0, tirx.const(0, arithmetic.sums))

        def tap(inside: Expr, offset: Expr, number: Expr) -> None:
            value = tirx.BufferLoad(image, [offset + channel])
            outside = tirx.const(0, arithmetic.x) if border is None else border
            if not (isinstance(inside, bool) and inside):
                value = tirx.if_then_else(inside, value, outside)
            kb.store(
                acc, 0, _multiply_add(arithmetic, value, kb.load(panel, number * channels + channel), kb.load(acc, 0))
            )

        _walk(kb, spec, batch, pixel, tap)
        at = [element] if epilogue is None else _indices(kb, element, [batch, *pixel], channels, epilogue)
        total = kb.load(acc, 0)
        kb.store(out, element, total if epilogue is None else epilogue(total, [*at, channel], 1))
    return kb.finish([x, weights, *(epilogue.buffers if epilogue else ()), y])


def position(kb: KernelBuilder, element: Expr, shape: tuple[Any, ...]) -> list[Expr]:
    """The index along each dim of the element with this number."""
    places: list[Expr] = []
    for extent in reversed(shape[1:]):
        size = i64(known(extent))
        places.insert(0, kb.let(tirx.truncmod(element, size), "at"))
        element = kb.let(tirx.truncdiv(element, size), "rest")
    return [element, *places]


def _indices(kb: KernelBuilder, element: Expr, at: list[Expr], channels: int, epilogue: Epilogue) -> list[Expr]:
    return [kb.let(tirx.truncdiv(element, i64(channels)), "row")] if epilogue.flat else at


def _walk(kb: KernelBuilder, spec: GemmSpec, batch: Expr, pixel: list[Expr], tap: Any) -> None:
    """`tap(inside, offset of the pixel's first channel, number of the tap)` for each tap of a window."""
    conv = spec.conv
    firsts = [kb.let(o * s - p, "first") for o, s, p in zip(pixel, conv.strides, conv.pads, strict=False)]

    def walk(dim: int, inside: Expr, offset: Expr, number: Expr) -> None:
        if dim == len(conv.kernel):
            tap(inside, kb.let(offset * conv.c_in, "offset"), number)
            return
        with kb.loop(conv.kernel[dim], "tap") as k:
            size = i64(known(conv.spatial[dim]))
            at = kb.let(firsts[dim] + k * conv.dilations[dim], "at")
            if conv.padded:
                here = tirx.all(at >= i64(0), at < size)
                inside = here if isinstance(inside, bool) else tirx.all(inside, here)
            walk(dim + 1, inside, offset * size + at, number * conv.kernel[dim] + k)

    walk(0, True, batch, i64(0))


def _multiply_add(arithmetic: Arithmetic, a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c: of floats rounded once, of integers in 32 bits."""
    if arithmetic.sums == "float32":
        return tirx.call_pure_extern("float32", "fmaf", a, b, c)
    return c + tirx.Cast("int32", a) * tirx.Cast("int32", b)
