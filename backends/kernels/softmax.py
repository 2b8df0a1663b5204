"""Softmax and log-softmax over the last axis: the maximum, then the exponentials and their sum, then the scaling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from ..target import Target
from . import vmath
from .builder import Dim, Epilogue, Expr, KernelBuilder, buffer, known, splat
from .rows import each_vector, is_parallel, reduce_row


@dataclass(frozen=True)
class SoftmaxSpec:
    """Softmax of x [rows, columns] over the columns; both dims may be int64 expressions."""

    rows: Dim
    columns: Dim
    log: bool = False


@dataclass(frozen=True)
class SoftmaxPlan:
    lanes: int
    parallel: bool


def plans(spec: SoftmaxSpec, target: Target) -> Iterator[SoftmaxPlan]:
    """Legal plans, the best guess first."""
    yield SoftmaxPlan(target.lanes, is_parallel(spec.rows, spec.columns, target))


def build(spec: SoftmaxSpec, plan: SoftmaxPlan, epilogue: Epilogue | None = None) -> Any:
    """The kernel. Params: x, the epilogue's buffers, y. An epilogue must be flat."""
    kb = KernelBuilder()
    columns = known(spec.columns)
    x, y = buffer("x", (spec.rows, columns)), buffer("y", (spec.rows, columns))
    source, target = kb.flat(x), kb.flat(y)
    with kb.loop(spec.rows, "row", parallel=plan.parallel) as row:
        base = kb.let(row * columns, "base")

        def load(at: Expr, lanes: int) -> Expr:
            return kb.load(source, base + at, lanes)

        def store(at: Expr, value: Expr, lanes: int) -> None:
            if epilogue is not None:
                value = epilogue(value, [row, at], lanes)
            kb.store(target, base + at, value, lanes)

        high = reduce_row(kb, columns, plan.lanes, float("-inf"), _larger, load)

        def power(at: Expr, lanes: int) -> Expr:
            return vmath.exp_of_negative(load(at, lanes) - splat(high, lanes))

        if spec.log:
            total = reduce_row(kb, columns, plan.lanes, 0.0, lambda a, b: a + b, power)
            kb.store(shift := kb.local(1, name="shift"), 0, high + vmath.log(total))
            less = kb.load(shift, 0)
            each_vector(kb, columns, plan.lanes, lambda at, n: store(at, load(at, n) - splat(less, n), n))
        else:
            each_vector(kb, columns, plan.lanes, lambda at, n: kb.store(target, base + at, power(at, n), n))

            def powers(at: Expr, lanes: int) -> Expr:
                return kb.load(target, base + at, lanes)

            total = reduce_row(kb, columns, plan.lanes, 0.0, lambda a, b: a + b, powers)
            kb.store(scale := kb.local(1, name="scale"), 0, splat(1.0, 1) / total)
            factor = kb.load(scale, 0)
            each_vector(kb, columns, plan.lanes, lambda at, n: store(at, powers(at, n) * splat(factor, n), n))
    return kb.finish([x, *(epilogue.buffers if epilogue else ()), y])


def _larger(a: Expr, b: Expr) -> Expr:
    return tirx.Select(b > a, b, a)
