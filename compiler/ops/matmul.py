"""Matrix products: MatMul and its integer forms, Gemm, Einsum; Det."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import Dim, DType, Shape, TensorType
from .base import (
    Op,
    attr_int,
    attr_str,
    broadcast_shapes,
    check_rank,
    check_same_dtype,
    dtype_of,
    fail,
    register,
    shape_of,
)  # fmt: skip


def matmul_shape(node: Node, a: Shape | None, b: Shape | None) -> Shape | None:
    """numpy.matmul's output shape; raises ShapeError if the inner dims are numbers that differ."""
    if a is None or b is None:
        return None
    if not a or not b:
        fail(node, "operands must have rank 1 or more", found=f"{list(a)} and {list(b)}")
    left, right = ((1, *a) if len(a) == 1 else a), ((*b, 1) if len(b) == 1 else b)
    check_equal(node, left[-1], right[-2], "inner dims differ", a, b)
    batch = broadcast_shapes(node, [left[:-2], right[:-2]])
    rows = (left[-2],) if len(a) > 1 else ()
    columns = (right[-1],) if len(b) > 1 else ()
    return (*batch, *rows, *columns)


def check_equal(node: Node, x: Dim, y: Dim, message: str, *shapes: Shape) -> None:
    """Raises ShapeError if both dims are numbers and differ."""
    if isinstance(x, int) and isinstance(y, int) and x != y:
        fail(node, message, expected=x, found=f"{y} in {' and '.join(str(list(s)) for s in shapes)}")


@register
class MatMul(Op):
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = check_same_dtype(node)
        return [TensorType(dtype, matmul_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@register
class MatMulInteger(Op):
    """A, B, a_zero_point, b_zero_point; the sum is int32."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(DType.I32, matmul_shape(node, shape_of(node, 0), shape_of(node, 1)))]


@register
class QLinearMatMul(Op):
    """a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point."""

    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(dtype_of(node, 7), matmul_shape(node, shape_of(node, 0), shape_of(node, 3)))]


@register
class Gemm(Op):
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = check_same_dtype(node)
        a, b = check_rank(node, 0, 2, 2), check_rank(node, 1, 2, 2)
        if a is None or b is None:
            return [TensorType(dtype, None)]
        m, k = a[::-1] if attr_int(node, "transA", 0) else a
        k_of_b, n = b[::-1] if attr_int(node, "transB", 0) else b
        check_equal(node, k, k_of_b, "inner dims differ", a, b)
        bias = shape_of(node, 2) if node.input(2) is not None else None
        if bias is not None and len(broadcast_shapes(node, [(m, n), bias])) > 2:
            fail(node, "C has more than two dims", found=list(bias))
        return [TensorType(dtype, (m, n))]


@register
class Einsum(Op):
    anchor = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = check_same_dtype(node)
        shapes = [shape_of(node, i) for i in range(len(node.inputs))]
        known = [s for s in shapes if s is not None]
        if len(known) < len(shapes):
            return [TensorType(dtype, None)]
        return [TensorType(dtype, _einsum_shape(node, attr_str(node, "equation", ""), known))]


def _einsum_shape(node: Node, equation: str, shapes: Sequence[Shape]) -> Shape:
    left, arrow, right = equation.replace(" ", "").replace("...", ".").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        fail(node, f"equation {equation!r} has a term for each operand", expected=len(terms), found=len(shapes))
    sizes: dict[str, list[Dim]] = {}
    batches: list[Shape] = []
    for term, shape in zip(terms, shapes, strict=True):
        labels = term.replace(".", "")
        hidden = len(shape) - len(labels)
        if hidden < 0 or ("." not in term and hidden):
            fail(node, f"term {term!r} does not fit its operand", expected=f"rank {len(labels)}", found=list(shape))
        start = term.index(".") if "." in term else len(labels)
        if "." in term:
            batches.append(shape[start : start + hidden])
        rest = (*shape[:start], *shape[start + hidden :])
        for label, dim in zip(labels, rest, strict=True):
            sizes.setdefault(label, []).append(dim)
    if not arrow:  # implicit output: the labels that occur once, in order, after the ellipsis
        letters = left.replace(",", "").replace(".", "")
        right = "." * bool(batches) + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    size_of = {label: broadcast_shapes(node, [(d,) for d in found]) for label, found in sizes.items()}
    size_of["."] = broadcast_shapes(node, batches)
    out: list[Dim] = []
    for label in right:
        if label in size_of:
            out += size_of[label]
        else:
            fail(node, f"equation {equation!r} names output {label!r} that no operand has")
    return tuple(out)


@register
class Det(Op):
    """Determinants of the innermost square matrices."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = check_rank(node, 0, 2)
        if shape is not None:
            check_equal(node, shape[-2], shape[-1], "matrices must be square", shape)
        return [TensorType(dtype_of(node, 0), None if shape is None else shape[:-2])]
