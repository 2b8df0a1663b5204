"""Sums of products as plain loops, for the dtypes and forms that have no template: MatMul, Gemm, Conv, Einsum, and the
integer forms, which are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ...compiler.ir import Node
from ...compiler.ops.base import attr_float, attr_int, attr_ints, attr_str
from ...compiler.types import DType
from ..base import Expr, builds
from . import exprs
from .builder import Dim, i64, known
from .context import BuildContext
from .exprs import cast_raw, const, like
from .index.cast import quantize
from .loops import NodeKernel
from .taps import Taps, channel_axis

INTEGER = "int32"


def _accumulator(dtype: DType) -> str:
    """What products of `dtype` are summed in."""
    return exprs.load_type(dtype)


# --- matrices ----------------------------------------------------------------------------------------------------


class _Matmul:
    """Indices of a broadcast matrix product; a vector counts as a row (left) or a column (right).

    `a` and `b` are the shapes as multiplied, with the last two dims swapped where transA or transB says so.
    """

    def __init__(self, kernel: NodeKernel, left: int, right: int) -> None:
        node = kernel.node
        self.left, self.right = left, right
        self.swap_a, self.swap_b = attr_int(node, "transA", 0), attr_int(node, "transB", 0)
        self.a = _swapped(kernel.shape(node.operand(left)), self.swap_a)
        self.b = _swapped(kernel.shape(node.operand(right)), self.swap_b)
        self.length = self.a[-1]

    def split(self, index: Sequence[Expr]) -> tuple[list[Expr], Expr | None, Expr | None]:
        """Batch index, row and column of an output index."""
        rest = list(index)
        column = rest.pop() if len(self.b) > 1 else None
        row = rest.pop() if len(self.a) > 1 else None
        return rest, row, column

    def at_a(self, index: Sequence[Expr], k: Expr) -> list[Expr]:
        batch, row, _ = self.split(index)
        return [k] if row is None else _swapped([*_batch(batch, self.a[:-2]), row, k], self.swap_a)

    def at_b(self, index: Sequence[Expr], k: Expr) -> list[Expr]:
        batch, _, column = self.split(index)
        return [k] if column is None else _swapped([*_batch(batch, self.b[:-2]), k, column], self.swap_b)


def _swapped(items: list[Any], swap: int) -> list[Any]:
    return [*items[:-2], items[-1], items[-2]] if swap else items


def _batch(index: Sequence[Expr], dims: Sequence[Dim]) -> list[Expr]:
    tail = list(index)[len(index) - len(dims) :]
    return [i64(0) if isinstance(d, int) and d == 1 else i for i, d in zip(tail, dims, strict=True)]


@builds("MatMul", "optc.MatMul")
def matmul(node: Node, context: BuildContext) -> Any:
    """A B, and alpha op(A) op(B) for the fused op."""
    kernel = NodeKernel(node, context)
    product = _Matmul(kernel, 0, 1)
    zero = const(0, _accumulator(node.operand(0).type.dtype))
    with kernel.each(kernel.shape(node.outputs[0]), product.length) as index:
        total = kernel.accumulate(
            zero,
            [product.length],
            lambda acc, k: acc + kernel.load(0, product.at_a(index, k[0])) * kernel.load(1, product.at_b(index, k[0])),
        )
        kernel.store(index, _scaled(total, attr_float(node, "alpha", 1.0)))
    return kernel.finish()


@builds("Gemm")
def gemm(node: Node, context: BuildContext) -> Any:
    """alpha op(A) op(B) + beta C."""
    kernel = NodeKernel(node, context)
    trans_a, trans_b = attr_int(node, "transA", 0), attr_int(node, "transB", 0)
    alpha, beta = attr_float(node, "alpha", 1.0), attr_float(node, "beta", 1.0)
    length = kernel.shape(node.operand(0))[0 if trans_a else 1]
    zero = const(0, _accumulator(node.operand(0).type.dtype))
    with kernel.each(kernel.shape(node.outputs[0]), length) as (row, column):

        def step(acc: Expr, k: list[Expr]) -> Expr:
            a = kernel.load(0, [k[0], row] if trans_a else [row, k[0]])
            return acc + a * kernel.load(1, [column, k[0]] if trans_b else [k[0], column])

        total = _scaled(kernel.accumulate(zero, [length], step), alpha)
        addend = node.input(2)
        if addend is not None:
            total = total + _scaled(kernel.load(2, _batch([row, column], kernel.shape(addend))), beta)
        kernel.store([row, column], total)
    return kernel.finish()


def _scaled(value: Expr, factor: float) -> Expr:
    if factor == 1.0:
        return value
    if exprs.is_float(exprs.dtype_of(value)):
        return value * like(factor, value)
    return cast_raw(cast_raw(value, "float64") * const(factor, "float64"), exprs.dtype_of(value))


def _shifted(kernel: NodeKernel, number: int, index: Sequence[Expr], point: int, at: Sequence[Expr] | None) -> Expr:
    """An integer element minus its zero point, as int32."""
    value = cast_raw(kernel.load(number, index), INTEGER)
    if kernel.node.input(point) is None or at is None:
        return value
    return value - cast_raw(kernel.load(point, at), INTEGER)


def _along(kernel: NodeKernel, parameter: int, position: Expr) -> list[Expr]:
    """Where a per-tensor or per-channel parameter for `position` lies."""
    value = kernel.node.input(parameter)
    if value is None or value.type.rank == 0:
        return []
    dims = kernel.shape(value)
    at: list[Expr] = [i64(0)] * len(dims)
    for axis, dim in enumerate(dims):
        if not (isinstance(dim, int) and dim == 1):
            at[axis] = position
    return at


@builds("MatMulInteger")
def matmul_integer(node: Node, context: BuildContext) -> Any:
    kernel = NodeKernel(node, context)
    product = _Matmul(kernel, 0, 1)
    with kernel.each(kernel.shape(node.outputs[0]), product.length) as index:
        total = _integer_dot(kernel, product, index, 2, 3)
        kernel.store(index, total)
    return kernel.finish()


def _integer_dot(kernel: NodeKernel, product: _Matmul, index: Sequence[Expr], point_a: int, point_b: int) -> Expr:
    _, row, column = product.split(index)
    at_a = _along(kernel, point_a, row if row is not None else i64(0))
    at_b = _along(kernel, point_b, column if column is not None else i64(0))

    def step(acc: Expr, k: list[Expr]) -> Expr:
        a = _shifted(kernel, product.left, product.at_a(index, k[0]), point_a, at_a)
        return acc + a * _shifted(kernel, product.right, product.at_b(index, k[0]), point_b, at_b)

    return kernel.accumulate(const(0, INTEGER), [product.length], step)


@builds("QLinearMatMul")
def qlinear_matmul(node: Node, context: BuildContext) -> Any:
    """Inputs a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point."""
    kernel = NodeKernel(node, context)
    product = _Matmul(kernel, 0, 3)
    with kernel.each(kernel.shape(node.outputs[0]), product.length) as index:
        _, row, column = product.split(index)
        total = _integer_dot(kernel, product, index, 2, 5)
        r, c = (v if v is not None else i64(0) for v in (row, column))
        scale = kernel.load(1, _along(kernel, 1, r)) * kernel.load(4, _along(kernel, 4, c))
        y_scale, y_point = kernel.load(6, _along(kernel, 6, r)), kernel.load(7, _along(kernel, 7, r))
        kernel.store(index, _requantize(node, total, scale, y_scale, y_point))
    return kernel.finish()


def _requantize(node: Node, total: Expr, scale: Expr, y_scale: Expr, y_point: Expr) -> Expr:
    real = cast_raw(total, "float32") * cast_raw(scale, "float32")
    return quantize(real, cast_raw(y_scale, "float32"), y_point, node.outputs[0].type.dtype)


# --- convolutions ------------------------------------------------------------------------------------------------


class _Conv:
    """Output channel and taps of each output element of a convolution; weights are [M, C / group, *kernel]."""

    def __init__(self, kernel: NodeKernel, x: int, w: int) -> None:
        node = kernel.node
        self.kernel, self.x, self.w = kernel, x, w
        self.channel = channel_axis(node)
        weights = kernel.shape(node.operand(w))
        self.window = weights[2:]
        self.taps = Taps(kernel, x, self.window)
        self.per_group = weights[1]
        self.outputs = weights[0]
        self.group = attr_int(node, "group", 1)

    @property
    def work(self) -> Dim:
        total = known(self.per_group)
        for extent in self.window:
            total = total * extent
        return total

    def parts(self, index: Sequence[Expr]) -> tuple[Expr, list[Expr]]:
        """Output channel and spatial position of an output index."""
        rest = list(index[1:])
        m = rest.pop(self.channel - 1 if self.channel > 0 else -1)
        return m, rest

    def place(self, batch: Expr, channel: Expr, spatial: Sequence[Expr]) -> list[Expr]:
        return [batch, channel, *spatial] if self.channel == 1 else [batch, *spatial, channel]

    def dot(self, index: Sequence[Expr], initial: Expr, term: Any) -> Expr:
        """initial + Σ term(index in x, index in w) over the taps inside the image."""
        m, spatial = self.parts(index)
        first = tirx.truncdiv(m, i64(self.outputs) // i64(self.group)) * self.per_group if self.group > 1 else i64(0)
        first = self.kernel.kb.let(first, "first")

        def step(acc: Expr, k: list[Expr]) -> Expr:
            place = self.taps.positions(spatial, k[1:])
            return acc + term(self.place(index[0], first + k[0], place), [m, k[0], *k[1:]])

        return self.kernel.accumulate(
            initial, [self.per_group, *self.window], step, when=lambda k: self.taps.inside(spatial, k[1:])
        )


@builds("Conv", "optc.Conv")
def conv(node: Node, context: BuildContext) -> Any:
    kernel = NodeKernel(node, context)
    loops = _Conv(kernel, 0, 1)
    zero = const(0, _accumulator(node.operand(0).type.dtype))
    with kernel.each(kernel.shape(node.outputs[0]), loops.work) as index:
        bias = zero if node.input(2) is None else kernel.load(2, [loops.parts(index)[0]])
        kernel.store(index, loops.dot(index, bias, lambda at, w: kernel.load(0, at) * kernel.load(1, w)))
    return kernel.finish()


@builds("ConvInteger")
def conv_integer(node: Node, context: BuildContext) -> Any:
    kernel = NodeKernel(node, context)
    loops = _Conv(kernel, 0, 1)
    with kernel.each(kernel.shape(node.outputs[0]), loops.work) as index:
        m, _ = loops.parts(index)

        def term(at: list[Expr], w: list[Expr], m: Expr = m) -> Expr:
            x = _shifted(kernel, 0, at, 2, _along(kernel, 2, i64(0)))
            return x * _shifted(kernel, 1, w, 3, _along(kernel, 3, m))

        kernel.store(index, loops.dot(index, const(0, INTEGER), term))
    return kernel.finish()


@builds("QLinearConv")
def qlinear_conv(node: Node, context: BuildContext) -> Any:
    """Inputs x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, bias (int32)."""
    kernel = NodeKernel(node, context)
    loops = _Conv(kernel, 0, 3)
    with kernel.each(kernel.shape(node.outputs[0]), loops.work) as index:
        m, _ = loops.parts(index)

        def term(at: list[Expr], w: list[Expr], m: Expr = m) -> Expr:
            return _shifted(kernel, 0, at, 2, _along(kernel, 2, i64(0))) * _shifted(
                kernel, 3, w, 5, _along(kernel, 5, m)
            )

        bias = const(0, INTEGER) if node.input(8) is None else kernel.load(8, [m])
        total = loops.dot(index, bias, term)
        scale = kernel.load(1, _along(kernel, 1, i64(0))) * kernel.load(4, _along(kernel, 4, m))
        y_scale, y_point = kernel.load(6, _along(kernel, 6, i64(0))), kernel.load(7, _along(kernel, 7, i64(0)))
        kernel.store(index, _requantize(node, total, scale, y_scale, y_point))
    return kernel.finish()


@builds("ConvTranspose", "optc.ConvTranspose")
def conv_transpose(node: Node, context: BuildContext) -> Any:
    """y[p] = Σ x[t] w[k] where t stride + k dilation = p + pad; weights are [C, M / group, *kernel]."""
    kernel = NodeKernel(node, context)
    channel = channel_axis(node)
    shape, weights = kernel.shape(node.operand(0)), kernel.shape(node.operand(1))
    spatial_in = shape[2:] if channel == 1 else shape[1:-1]
    window, group = weights[2:], attr_int(node, "group", 1)
    out = kernel.shape(node.outputs[0])
    spatial_out = out[2:] if channel == 1 else out[1:-1]
    strides = attr_ints(node, "strides") or (1,) * len(window)
    dilations = attr_ints(node, "dilations") or (1,) * len(window)
    pads = _transposed_pads(node, spatial_in, spatial_out, window, strides, dilations)
    per_group = known(weights[0]) // group if isinstance(weights[0], int) else weights[0]
    zero = const(0, _accumulator(node.operand(0).type.dtype))
    with kernel.each(out, 1 << 8) as index:
        m, places = (index[1], index[2:]) if channel == 1 else (index[-1], index[1:-1])
        first = kernel.kb.let(tirx.truncdiv(m, i64(weights[1])) * per_group, "first")
        inner = kernel.kb.let(tirx.truncmod(m, i64(weights[1])), "inner")

        def source(k: Sequence[Expr], places: Sequence[Expr] = places) -> list[Expr]:
            return [p + i64(b) - t * d for p, b, t, d in zip(places, pads, k, dilations, strict=True)]

        def inside(k: list[Expr]) -> Expr:
            conditions = []
            for t, s, size in zip(source(k[1:]), strides, spatial_in, strict=True):
                conditions += [tirx.GE(t, i64(0)), tirx.LT(t, i64(size * s))]
                conditions += [tirx.EQ(tirx.truncmod(t, i64(s)), i64(0))] if s > 1 else []
            return tirx.all(*conditions)

        def step(acc: Expr, k: list[Expr], first: Expr = first, inner: Expr = inner) -> Expr:
            at = [tirx.truncdiv(t, i64(s)) for t, s in zip(source(k[1:]), strides, strict=True)]
            c = first + k[0]
            x = kernel.load(0, [index[0], c, *at] if channel == 1 else [index[0], *at, c])
            return acc + x * kernel.load(1, [c, inner, *k[1:]])

        bias = zero if node.input(2) is None else kernel.load(2, [m])
        kernel.store(index, kernel.accumulate(bias, [per_group, *window], step, when=inside))
    return kernel.finish()


def _transposed_pads(
    node: Node, have: Sequence[Dim], want: Sequence[Dim], window: Sequence[Dim], strides: Any, dilations: Any
) -> list[Dim]:
    """What is cut off at the start: given, or half of the total where the output shape or SAME decides."""
    auto = attr_str(node, "auto_pad", "NOTSET")
    if not auto.startswith("SAME") and attr_ints(node, "output_shape") is None:
        return list(attr_ints(node, "pads") or (0,) * len(window))[: len(window)]
    extra = attr_ints(node, "output_padding") or (0,) * len(window)
    begins: list[Dim] = []
    for d, size in enumerate(have):
        total = strides[d] * (size - 1) + extra[d] + (window[d] - 1) * dilations[d] + 1 - want[d]
        total = max(total, 0) if isinstance(total, int) else tirx.max(total, i64(0))
        half = total // 2 if isinstance(total, int) else tirx.truncdiv(total, i64(2))
        begins.append(half if auto == "SAME_UPPER" else total - half)
    return begins


# --- Einsum ------------------------------------------------------------------------------------------------------


@builds("Einsum")
def einsum(node: Node, context: BuildContext) -> Any:
    """Loops over the output's labels around loops over the others; an ellipsis stands for broadcast dims."""
    kernel = NodeKernel(node, context)
    terms, result = _labels(node)
    shapes = [kernel.shape(node.operand(n)) for n in range(len(terms))]
    extents: dict[str, Dim] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, extent in zip(labels, shape, strict=True):
            if label not in extents or (isinstance(extents[label], int) and extents[label] == 1):
                extents[label] = extent
    summed = [label for label in extents if label not in result]
    zero = const(0, _accumulator(node.operand(0).type.dtype))
    work: Dim = 1
    for label in summed:
        work = work * extents[label]
    with kernel.each([extents[label] for label in result], work) as index:
        places = dict(zip(result, index, strict=True))

        def step(acc: Expr, k: list[Expr]) -> Expr:
            at = places | dict(zip(summed, k, strict=True))
            value: Expr | None = None
            for number, (labels, shape) in enumerate(zip(terms, shapes, strict=True)):
                x = kernel.load(number, _batch([at[label] for label in labels], shape))
                value = x if value is None else value * x
            return acc + value

        kernel.store(index, kernel.accumulate(zero, [extents[label] for label in summed], step))
    return kernel.finish()


def _labels(node: Node) -> tuple[list[list[str]], list[str]]:
    """The labels of every operand and of the result; dims under an ellipsis are called ".0", ".1"... from the end."""
    left, arrow, right = attr_str(node, "equation", "").replace(" ", "").partition("->")
    terms = []
    for number, term in enumerate(left.split(",")):
        rank = node.operand(number).type.rank
        terms.append(_expanded(term, rank - len(term.replace("...", ""))))
    hidden = max((label for t in terms for label in t if label.startswith(".")), default=None, key=lambda v: int(v[1:]))
    most = 0 if hidden is None else int(hidden[1:]) + 1
    if arrow:
        return terms, _expanded(right, most)
    flat = [label for t in terms for label in t if not label.startswith(".")]
    once = sorted({label for label in flat if flat.count(label) == 1})
    return terms, [*(f".{n}" for n in reversed(range(most))), *once]


def _expanded(term: str, hidden: int) -> list[str]:
    before, dots, after = term.partition("...")
    return [*before, *(f".{n}" for n in reversed(range(hidden)) if dots), *after]
