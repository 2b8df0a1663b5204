"""Layer normalisation, RMS normalisation and normalisation of groups of channels.

Means are subtracted before squares are summed, so that large offsets lose no precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx

from ..target import Target
from .builder import Dim, Epilogue, Expr, KernelBuilder, buffer, i64, known, result_dtype, splat
from .exprs import widened
from .rows import each_vector, is_parallel, reduce_row


@dataclass(frozen=True)
class NormSpec:
    """Normalisation of each row of x [rows, columns].

    layer: (x - mean) / sqrt(variance + epsilon); rms: x / sqrt(mean(x²) + epsilon); then `* scale + bias`, vectors of
    `columns`, where present. `dtype` is x's: float32, or uint16 for the bits of bfloat16. With `skip` the input is
    x + skip (both [rows, columns]), and with `keep_sum` that sum is a second output.
    """

    kind: Literal["layer", "rms"]
    rows: Dim
    columns: Dim
    epsilon: float
    scale: bool = True
    bias: bool = True
    dtype: Literal["float32", "uint16"] = "float32"
    skip: bool = False
    keep_sum: bool = False


@dataclass(frozen=True)
class NormPlan:
    lanes: int
    parallel: bool


def plans(spec: NormSpec, target: Target) -> Iterator[NormPlan]:
    """Legal plans, the best guess first."""
    yield NormPlan(target.lanes, is_parallel(spec.rows, spec.columns, target))


def build(spec: NormSpec, plan: NormPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, [skip], [scale], [bias], the epilogue's buffers, y, [sum]. An epilogue must be flat."""
    kb = KernelBuilder()
    columns = known(spec.columns)

    def matrix(name: str, dtype: str = "float32") -> Any:
        return buffer(name, (spec.rows, columns), dtype)

    x, y = matrix("x", spec.dtype), matrix("y", result_dtype(epilogue))
    skip = matrix("skip") if spec.skip else None
    total = matrix("sum") if spec.keep_sum else None
    scale = buffer("scale", (columns,)) if spec.scale else None
    bias = buffer("bias", (columns,)) if spec.bias else None
    extra = list(epilogue.buffers) if epilogue else []
    params = [x, skip, scale, bias, *extra, y, total]
    views = {p: kb.flat(p) for p in (x, skip, scale, bias, y, total) if p is not None}
    with kb.loop(spec.rows, "row", parallel=plan.parallel) as row:
        base = kb.let(row * columns, "base")

        def load(at: Expr, lanes: int) -> Expr:
            value = widened(kb.load(views[x], base + at, lanes))
            return value + kb.load(views[skip], base + at, lanes) if skip is not None else value

        mean, factor = moments(kb, spec.kind, columns, plan.lanes, spec.epsilon, load)

        def write(at: Expr, lanes: int) -> None:
            value = load(at, lanes)
            if total is not None:
                kb.store(views[total], base + at, value, lanes)
            value = (value - splat(mean, lanes) if mean is not None else value) * splat(factor, lanes)
            if scale is not None:
                value = value * kb.load(views[scale], at, lanes)
            if bias is not None:
                value = value + kb.load(views[bias], at, lanes)
            if epilogue is not None:
                value = epilogue(value, [row, at], lanes)
            kb.store(views[y], base + at, value, lanes)

        each_vector(kb, columns, plan.lanes, write)
    return kb.finish([p for p in params if p is not None])


def moments(
    kb: KernelBuilder,
    kind: str,
    columns: Dim,
    lanes: int,
    epsilon: float,
    load: Callable[[Expr, int], Expr],
) -> tuple[Expr | None, Expr]:
    """(mean or None for rms, 1 / sqrt(variance + epsilon)) of one row."""
    count = tirx.Cast("float32", i64(columns)) if not isinstance(columns, int) else splat(float(columns), 1)
    mean = None
    if kind == "layer":
        total = reduce_row(kb, columns, lanes, 0.0, lambda a, b: a + b, load)
        kb.store(held := kb.local(1, name="mean"), 0, total / count)
        mean = kb.load(held, 0)

    def square(at: Expr, width: int) -> Expr:
        value = load(at, width)
        centred = kb.local(width, name="centred")
        kb.store(centred, 0, value - splat(mean, width) if mean is not None else value, width)
        return kb.load(centred, 0, width) * kb.load(centred, 0, width)

    squares = reduce_row(kb, columns, lanes, 0.0, lambda a, b: a + b, square)
    variance = squares / count + splat(epsilon, 1)
    kb.store(factor := kb.local(1, name="factor"), 0, splat(1.0, 1) / tirx.sqrt(variance))
    return mean, kb.load(factor, 0)
