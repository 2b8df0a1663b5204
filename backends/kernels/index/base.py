"""What index definitions use: pointwise ops as functions of scalars or vectors, and index arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tvm import tirx

from ....compiler.ir import Node
from ....compiler.types import DType
from ...base import Element, Expr, Index, defines
from .. import exprs
from ..compose import Operand

PointwiseFunction = Callable[[Node, Sequence[Any]], Expr]
POINTWISE: dict[str, PointwiseFunction] = {}

_F = TypeVar("_F", bound=PointwiseFunction)


def pointwise(*ops: str) -> Callable[[_F], _F]:
    """Registers a pointwise op: `f(node, args) -> Expr`, args the elements (None where omitted), scalars or vectors.

    Half types arrive as float32; the result is in the type the output is computed in.
    """

    def add(function: _F) -> _F:
        for op in ops:
            POINTWISE[op] = function
            defines(op)(_broadcasting)
        return function

    return add


def element_expr(node: Node, args: Sequence[Any]) -> Expr:
    """The result of a pointwise node for these elements, rounded to the output's precision.

    Elements and result are in the types they are computed in. Raises KeyError if the op is not pointwise.
    """
    result = POINTWISE[node.op](node, args)
    return exprs.rounded_to(result, node.outputs[0].type.dtype)


def stores_rounded(node: Node) -> bool:
    """Whether the node does nothing that storing its operand in the output's type would not do: a Cast from float32 to
    a half type. Where its output is stored, rounding the operand first would be done twice."""
    return (
        node.op == "Cast"
        and node.operand(0).type.dtype is DType.F32
        and node.outputs[0].type.dtype in (DType.F16, DType.BF16)
    )


def stored_short(node: Node) -> bool:
    """Whether all that is made of a node's result is stored in bfloat16, so that eight bits of it suffice."""
    users = [u.user for v in node.outputs for u in v.uses]
    return bool(users) and all(
        isinstance(user, Node) and stores_rounded(user) and user.outputs[0].type.dtype is DType.BF16 for user in users
    )


def _broadcasting(node: Node, inputs: Sequence[Operand | None]) -> list[Element]:
    def element(index: Index) -> Expr:
        return element_expr(node, [None if x is None else x(broadcast(index, x)) for x in inputs])

    return [element]


def broadcast(index: Index, operand: Operand) -> list[Expr]:
    """The index of the element that broadcasting (ONNX Broadcasting.md) pairs with output index `index`."""
    dims = operand.type.dims
    tail = list(index)[len(index) - len(dims) :]
    return [zero() if isinstance(d, int) and d == 1 else i for i, d in zip(tail, dims, strict=True)]


def zero() -> Expr:
    return tirx.IntImm("int64", 0)


def i64(value: int) -> Expr:
    return tirx.IntImm("int64", value)


def int_value(expr: Expr) -> int | None:
    """The value of a constant expression."""
    return int(expr) if isinstance(expr, tirx.IntImm) else None


def to_i64(value: Expr) -> Expr:
    return exprs.cast_raw(value, "int64")


def wrap_negative(position: Expr, extent: Expr) -> Expr:
    """An index as ONNX's gathers take it: a negative one counts from the end."""
    position = to_i64(position)
    return exprs.let(position, lambda p: exprs.select(tirx.LT(p, zero()), p + extent, p))


def clamp(position: Expr, extent: Expr) -> Expr:
    """`position` forced into [0, extent)."""
    return tirx.max(tirx.min(position, extent - i64(1)), zero())


def dtype_attr(node: Node, name: str, default: DType | None = None) -> DType:
    """An attribute that names an element type, as DType or as ONNX's number. Raises ValueError if it is none."""
    value = node.attrs.get(name, default)
    return value if isinstance(value, DType) else DType(value)


def permuted(index: Index, order: Sequence[int]) -> list[Expr]:
    return [index[axis] for axis in order]
