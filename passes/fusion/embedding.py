"""Products with one-hot rows are table look-ups, and what is done to each row looked up is done to the table.

onehot(i, K) W       -> Gather([W; 0], clip(i, -1, K))      onehot as cast(i == [0, 1, ..., K-1])
f(Gather(W, i))      -> Gather(f(W), i)                      f pointwise, W small; f(W) folds
Gather(W, i) o c     -> Gather(W o c, i)                     o one of + - * /, c one number a column

An index outside [0, K) gives a row of zeros, as no element of its one-hot row is 1: -1 and K are that last row.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...compiler.ir import Value
from ...compiler.types import DType
from ..pattern import Const, Op
from ..rewrite import Match, Rule, register_rule

_TABLE_BYTES = 1 << 20
_UNARY = (
    "Abs", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Relu", "Selu",
    "Sigmoid", "Softplus", "Sqrt", "Swish", "Tanh",
)  # fmt: skip


@register_rule
class OneHotProduct(Rule):
    """cast(i == [0, ..., K-1]) W -> Gather([W; 0], clip(i, -1, K))."""

    name: ClassVar[str] = "one-hot-product"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("MatMul", Op("Cast", Op("Equal", "i", Const("range"), commutative=True)), Const("w")),
    )

    def check(self, m: Match) -> str | None:
        shape, classes = m["i"].type.shape, m["w"].type.static_shape[0]
        if m["i"].type.dtype not in (DType.I32, DType.I64) or shape is None or len(shape) < 2 or shape[-1] != 1:
            return "the indices are not int32 or int64 with a last dim of 1"
        if m["w"].type.rank != 2 or not m["w"].type.dtype.is_float or not np.all(np.isfinite(m.array("w"))):
            return "the table is no matrix of finite numbers"
        numbers = m.array("range")
        if numbers.shape[-1:] != (classes,) or numbers.ndim > len(shape) or numbers.size != classes:
            return "the indices are not compared with a row of all classes"
        return None if np.array_equal(numbers.reshape(-1), np.arange(classes)) else "the classes are not 0, 1, 2, ..."

    def rewrite(self, m: Match) -> Value:
        table = m.array("w")
        table = np.concatenate([table, np.zeros((1, table.shape[1]), table.dtype)])
        flat = m.emit("Squeeze", [m["i"], m.constant(np.array([-1], np.int64))])
        bounds = [m.constant(number, dtype=m["i"].type.dtype) for number in (-1, len(table) - 1)]
        rows = m.emit("Clip", [flat, *bounds])
        return m.emit("Gather", [m.constant(table, like=m["w"]), rows], {"axis": 0})


def _lookup() -> Op:
    return Op("Gather", Const("w"), "i", name="gather")


@register_rule
class PointwiseOfTable(Rule):
    """f(Gather(W, i)) -> Gather(f(W), i), and with a constant, one number a column, likewise."""

    name: ClassVar[str] = "pointwise-of-table"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(_UNARY, _lookup()),
        Op(("Add", "Sub", "Mul", "Div"), _lookup(), Const("c")),
        Op(("Add", "Mul"), Const("c"), _lookup()),
    )

    def check(self, m: Match) -> str | None:
        table = m["w"].type
        if m.node("gather").attrs.get("axis", 0) != 0 or table.rank != 2 or not table.dtype.is_float:
            return "not rows of a float matrix are looked up"
        if table.nbytes > _TABLE_BYTES:
            return f"the table is larger than {_TABLE_BYTES} bytes"
        if m["i"].type.shape is None or m["i"].type.shape == () or m["i"].is_constant:
            return "the indices are constant, one, or of unknown rank"
        if "c" in m:
            c = m.array("c")
            if c.size not in (1, table.static_shape[1]) or c.ndim > m.root.output.type.rank:
                return "the constant is not one number a column"
            if c.size > 1 and c.shape[-1] != c.size:
                return "the constant is not one number a column"
        return None

    def rewrite(self, m: Match) -> Value:
        operands: list[Value | None] = [m["w"]]
        if "c" in m:
            operands.append(m.constant(m.array("c").reshape(-1), like=m["c"]))
        table = m.emit(m.root.op, operands, m.root.attrs)
        return m.emit("Gather", [table, m["i"]], {"axis": 0})
