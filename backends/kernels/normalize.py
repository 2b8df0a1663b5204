"""Normalisations of any dtype, axis and rank as plain loops: softmax and its kin, layer, group, instance, LRN, Lp."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from ...compiler.ir import Node
from ...compiler.ops.base import attr_float, attr_int, attr_ints
from ..base import Expr, builds
from . import exprs, vmath
from .builder import Dim, i64, known, product
from .context import BuildContext
from .exprs import cast_raw, const, dtype_of, like, select
from .index.arithmetic import larger
from .loops import NodeKernel
from .windowed import power_of, root_of


class _Lines:
    """The elements of input 0 that are normalised together: `length` of them, `inner` apart."""

    def __init__(self, node: Node, context: BuildContext, axis: int, end: int | None = None) -> None:
        self.node, self.kernel = node, NodeKernel(node, context)
        shape = self.kernel.shape(node.operand(0))
        axis %= len(shape) or 1
        end = axis + 1 if end is None else end
        self.outer, self.length = product(shape[:axis]), known(product(shape[axis:end]))
        self.inner = product(shape[end:])
        self.dtype = exprs.load_type(node.operand(0).type.dtype)

    def each(self) -> Any:
        return self.kernel.each([self.outer, self.inner], self.length)

    def offset(self, line: Sequence[Expr], k: Expr) -> Expr:
        return (line[0] * self.length + k) * self.inner + line[1]

    def load(self, line: Sequence[Expr], k: Expr) -> Expr:
        return self.kernel.load_flat(0, self.offset(line, k))

    def fold(self, line: Sequence[Expr], initial: float, step: Callable[[Expr, Expr], Expr]) -> Expr:
        """step(acc, element) over a line."""
        zero = const(initial, self.dtype)
        return self.kernel.accumulate(zero, [self.length], lambda acc, k: step(acc, self.load(line, k[0])))

    def write(self, line: Sequence[Expr], value: Callable[[Expr, Expr], Expr]) -> None:
        """Stores value(k, element) for the whole line."""
        with self.kernel.kb.loop(self.length, "k") as k:
            self.kernel.store_flat(self.offset(line, k), value(k, self.load(line, k)))


@builds("Softmax", "LogSoftmax")
def softmax(node: Node, context: BuildContext) -> Any:
    lines = _Lines(node, context, attr_int(node, "axis", -1))
    with lines.each() as line:
        most = lines.fold(line, -math.inf, larger)
        total = lines.fold(line, 0.0, lambda acc, x: acc + vmath.exp(x - most))
        if node.op == "Softmax":
            lines.write(line, lambda k, x: vmath.exp(x - most) / total)
        else:
            log = lines.kernel.cell(vmath.log(total)).get()
            lines.write(line, lambda k, x: x - most - log)
    return lines.kernel.finish()


@builds("Hardmax")
def hardmax(node: Node, context: BuildContext) -> Any:
    """1 at the first of the largest, 0 elsewhere."""
    lines = _Lines(node, context, attr_int(node, "axis", -1))
    kernel = lines.kernel
    with lines.each() as line:
        best, place = kernel.cell(lines.load(line, i64(0))), kernel.cell(i64(0))
        with kernel.kb.loop(lines.length, "k") as k:
            x = lines.load(line, k)
            with kernel.kb.when(tirx.GT(x, best.get())):
                place.set(k)
                best.set(x)
        lines.write(line, lambda k, x: select(tirx.EQ(k, place.get()), like(1, x), like(0, x)))
    return kernel.finish()


@builds("LpNormalization")
def lp_normalization(node: Node, context: BuildContext) -> Any:
    """x / (Σ |x|^p)^(1/p); a line of zeros stays zero."""
    lines = _Lines(node, context, attr_int(node, "axis", -1))
    p = attr_int(node, "p", 2)
    with lines.each() as line:
        total = lines.fold(line, 0.0, lambda acc, x: acc + power_of(tirx.abs(x), p))
        norm = lines.kernel.cell(root_of(total, p))
        norm.set(select(tirx.EQ(norm.get(), like(0.0, norm.get())), like(1.0, norm.get()), norm.get()))
        lines.write(line, lambda k, x: x / norm.get())
    return lines.kernel.finish()


def _moments(lines: _Lines, line: Sequence[Expr]) -> tuple[Expr, Expr]:
    """Mean and (biased) variance of a line, in two passes."""
    kernel = lines.kernel
    count = cast_raw(i64(lines.length), lines.dtype)
    mean = kernel.cell(lines.fold(line, 0.0, lambda acc, x: acc + x) / count).get()
    variance = lines.fold(line, 0.0, lambda acc, x: acc + (x - mean) * (x - mean)) / count
    return mean, kernel.cell(variance).get()


def _inverse_deviation(lines: _Lines, variance: Expr, epsilon: float) -> Expr:
    return lines.kernel.cell(like(1.0, variance) / tirx.sqrt(variance + like(epsilon, variance))).get()


@builds("LayerNormalization", "RMSNormalization")
def layer_normalization(node: Node, context: BuildContext) -> Any:
    """Over the axes from `axis` on; optional outputs are the mean and the inverse standard deviation."""
    rank = node.operand(0).type.rank
    lines = _Lines(node, context, attr_int(node, "axis", -1), rank)
    kernel, epsilon = lines.kernel, attr_float(node, "epsilon", 1e-5)
    shape = kernel.shape(node.operand(0))
    axis = attr_int(node, "axis", -1) % rank
    with lines.each() as line:
        if node.op == "RMSNormalization":
            square = lines.fold(line, 0.0, lambda acc, x: acc + x * x)
            mean = const(0.0, lines.dtype)
            variance = kernel.cell(square / cast_raw(i64(lines.length), lines.dtype)).get()
        else:
            mean, variance = _moments(lines, line)
        inverse = _inverse_deviation(lines, variance, epsilon)

        def scaled(k: Expr, x: Expr, mean: Expr = mean, inverse: Expr = inverse) -> Expr:
            value = (x - mean) * inverse * cast_raw(_parameter(kernel, 1, k, shape[axis:]), lines.dtype)
            if node.input(2) is None:
                return value
            return value + cast_raw(_parameter(kernel, 2, k, shape[axis:]), lines.dtype)

        lines.write(line, scaled)
        for number, value in enumerate((mean, inverse)[: len(node.outputs) - 1], 1):
            kernel.store_flat(line[0], cast_raw(value, exprs.load_type(node.outputs[number].type.dtype)), number)
    return kernel.finish()


def _parameter(kernel: NodeKernel, number: int, flat: Expr, shape: Sequence[Dim]) -> Expr:
    """The scale or bias for a flat position over `shape`, to which it broadcasts."""
    dims = kernel.shape(kernel.node.operand(number))
    index: list[Expr] = []
    for extent in reversed(shape):
        index.insert(0, tirx.truncmod(flat, i64(extent)))
        flat = tirx.truncdiv(flat, i64(extent))
    tail = index[len(index) - len(dims) :]
    return kernel.load(
        number, [i64(0) if isinstance(d, int) and d == 1 else i for d, i in zip(dims, tail, strict=True)]
    )


@builds("InstanceNormalization", "GroupNormalization")
def group_normalization(node: Node, context: BuildContext) -> Any:
    """Each group of channels of each image by itself; scale and bias per channel."""
    kernel = NodeKernel(node, context)
    shape = kernel.shape(node.operand(0))
    groups: Dim = attr_int(node, "num_groups", 0) or shape[1]
    spatial = product(shape[2:])
    members = shape[1] // groups if isinstance(shape[1], int) else 1
    length = product([members, spatial])
    dtype, epsilon = exprs.load_type(node.operand(0).type.dtype), attr_float(node, "epsilon", 1e-5)
    count = cast_raw(i64(length), dtype)
    zero = const(0.0, dtype)
    with kernel.each([shape[0], groups], length) as (n, g):
        start = kernel.kb.let((n * groups + g) * length, "start")
        mean = kernel.cell(
            kernel.accumulate(zero, [length], lambda a, k: a + kernel.load_flat(0, start + k[0])) / count
        )

        def spread(acc: Expr, k: list[Expr], start: Expr = start, mean: Any = mean) -> Expr:
            d = kernel.load_flat(0, start + k[0]) - mean.get()
            return acc + d * d

        variance = kernel.accumulate(zero, [length], spread) / count
        inverse = kernel.cell(like(1.0, variance) / tirx.sqrt(variance + like(epsilon, variance)))
        with kernel.nest([members, spatial]) as (c, s):
            channel = g * members + c
            offset = start + c * spatial + s
            value = (kernel.load_flat(0, offset) - mean.get()) * inverse.get()
            kernel.store_flat(offset, value * kernel.load(1, [channel]) + kernel.load(2, [channel]))
    return kernel.finish()


@builds("MeanVarianceNormalization")
def mean_variance_normalization(node: Node, context: BuildContext) -> Any:
    """(x - mean) / (standard deviation + 1e-9) over `axes`."""
    kernel = NodeKernel(node, context)
    shape = kernel.shape(node.operand(0))
    axes = [a % len(shape) for a in attr_ints(node, "axes", (0, 2, 3)) or ()]
    kept = [d for d in range(len(shape)) if d not in axes]
    dtype = exprs.load_type(node.operand(0).type.dtype)
    extents = [shape[a] for a in axes]
    count, zero = cast_raw(i64(product(extents)), dtype), const(0.0, dtype)
    with kernel.each([shape[d] for d in kept], product(extents)) as outer:

        def at(k: Sequence[Expr], outer: Sequence[Expr] = outer) -> list[Expr]:
            places = dict(zip(kept, outer, strict=True)) | dict(zip(axes, k, strict=True))
            return [places[d] for d in range(len(shape))]

        mean = kernel.cell(kernel.accumulate(zero, extents, lambda a, k: a + kernel.load(0, at(k))) / count)

        def spread(acc: Expr, k: list[Expr], mean: Any = mean) -> Expr:
            d = kernel.load(0, at(k)) - mean.get()
            return acc + d * d

        deviation = kernel.cell(tirx.sqrt(kernel.accumulate(zero, extents, spread) / count) + const(1e-9, dtype))
        with kernel.nest(extents) as k:
            kernel.store(at(k), (kernel.load(0, at(k)) - mean.get()) / deviation.get())
    return kernel.finish()


@builds("LRN")
def lrn(node: Node, context: BuildContext) -> Any:
    """x / (bias + alpha / size Σ x²)^beta, the sum over `size` channels around."""
    kernel = NodeKernel(node, context)
    shape = kernel.shape(node.operand(0))
    size = attr_int(node, "size", 1)
    alpha, beta, bias = attr_float(node, "alpha", 1e-4), attr_float(node, "beta", 0.75), attr_float(node, "bias", 1.0)
    zero = const(0.0, exprs.load_type(node.operand(0).type.dtype))
    with kernel.each(shape, size) as index:

        def channel(k: Expr, index: Sequence[Expr] = index) -> Expr:
            return index[1] + k - i64((size - 1) // 2)

        def step(acc: Expr, k: list[Expr], index: Sequence[Expr] = index) -> Expr:
            x = kernel.load(0, [index[0], channel(k[0]), *index[2:]])
            return acc + x * x

        inside = lambda k: tirx.And(tirx.GE(channel(k[0]), i64(0)), tirx.LT(channel(k[0]), i64(shape[1])))  # noqa: E731
        total = kernel.accumulate(zero, [size], step, when=inside)
        base = like(bias, total) + like(alpha / size, total) * total
        kernel.store(index, kernel.load(0, index) / exprs.libm("pow", base, like(beta, base)))
    return kernel.finish()


@builds("BatchNormalization")
def batch_normalization(node: Node, context: BuildContext) -> Any:
    """Training form: normalises by the batch's moments, and gives the running mean and variance."""
    if not attr_int(node, "training_mode", 0):
        return None
    kernel = NodeKernel(node, context)
    shape = kernel.shape(node.operand(0))
    spatial = product(shape[2:])
    dtype = exprs.load_type(node.operand(0).type.dtype)
    count, zero = cast_raw(i64(product([shape[0], spatial])), dtype), const(0.0, dtype)
    momentum, epsilon = attr_float(node, "momentum", 0.9), attr_float(node, "epsilon", 1e-5)
    with kernel.each([shape[1]], product([shape[0], spatial])) as (c,):

        def at(k: Sequence[Expr], c: Expr = c) -> Expr:
            return (k[0] * shape[1] + c) * spatial + k[1]

        extents = [shape[0], spatial]
        mean = kernel.cell(kernel.accumulate(zero, extents, lambda a, k: a + kernel.load_flat(0, at(k))) / count)

        def spread(acc: Expr, k: list[Expr], mean: Any = mean) -> Expr:
            d = kernel.load_flat(0, at(k)) - mean.get()
            return acc + d * d

        variance = kernel.cell(kernel.accumulate(zero, extents, spread) / count)
        inverse = kernel.cell(const(1.0, dtype) / tirx.sqrt(variance.get() + const(epsilon, dtype)))
        scale, bias = (cast_raw(kernel.load(n, [c]), dtype) for n in (1, 2))
        with kernel.nest(extents) as k:
            x = kernel.load_flat(0, at(k))
            kernel.store_flat(at(k), (x - mean.get()) * inverse.get() * scale + bias)
        for number, value in enumerate((mean.get(), variance.get())[: len(node.outputs) - 1], 1):
            old = kernel.load(number + 2, [c])
            new = cast_raw(value, dtype_of(old)) * like(1 - momentum, old)
            kernel.store([c], old * like(momentum, old) + new, number)
    return kernel.finish()
