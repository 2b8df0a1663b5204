"""Values that are computed once and used several times, inside one expression.

TIR expressions are written out as trees: a value used twice without a binding is computed twice, one used at each of
ten steps a thousand times. `bound` gives values names; `to_locals` turns the names into local variables at the end of
lowering. In between a fence hides the values: TVM's analyzer would replace each name by its value, again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, TensorLoad

from .builder import Expr

_FENCE = "llvm.arithmetic.fence"
_BINARY = (
    "Add", "Sub", "Mul", "Div", "FloorDiv", "FloorMod", "Mod", "Min", "Max", "EQ", "NE", "LT", "LE", "GT", "GE", "And",
    "Or", "LShift", "RShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
)  # fmt: skip

_Parts = tuple[list[Expr], Callable[..., Expr]]
_PARTS: dict[type, Callable[[Any], _Parts]] = {
    **{getattr(tirx, name): lambda e: ([e.a, e.b], type(e)) for name in _BINARY if hasattr(tirx, name)},
    tirx.Select: lambda e: ([e.condition, e.true_value, e.false_value], tirx.Select),
    tirx.Cast: lambda e: ([e.value], lambda v: tirx.Cast(str(e.ty.dtype), v)),
    tirx.Not: lambda e: ([e.a], type(e)),
    tirx.BitwiseNot: lambda e: ([e.a], type(e)),
    tirx.Broadcast: lambda e: ([e.value], lambda v: tirx.Broadcast(v, e.lanes)),
    tirx.Shuffle: lambda e: (list(e.vectors), lambda *v: tirx.Shuffle(list(v), list(e.indices))),
    tirx.Ramp: lambda e: ([e.base, e.stride], lambda b, s: tirx.Ramp(b, s, e.lanes)),
    TensorLoad: lambda e: (list(e.indices), lambda *i: tirx.BufferLoad(e.source, list(i))),
    Call: lambda e: (list(e.args), lambda *args: Call(e.op, list(args), ret_ty=e.ty)),
}
"""Operands of an expression by its exact type, and how to make it of others. (TVM's isinstance is slow.)"""


def bound(define: Callable[..., Expr], *args: Expr) -> Expr:
    """`define(*args, let)` with every argument and every `let(value)` computed once."""
    bindings: dict[Any, Expr] = {}

    def let(value: Expr) -> Expr:
        value = _without_bindings(value, bindings)
        if isinstance(value, tirx.Var):
            return value
        var = tirx.Var(f"t{len(bindings)}", value.ty)
        bindings[var] = tirx.call_llvm_intrin(str(value.ty.dtype), _FENCE, value)
        return var

    out = _without_bindings(define(*map(let, args), let), bindings)
    for var, value in reversed(bindings.items()):
        out = tirx.Let(var, value, out)
    return out


def unfenced(value: Expr) -> Expr:
    """The value that `bound` gave a name."""
    return value.args[-1] if isinstance(value, Call) and _op_name(value).endswith("call_llvm_intrin") else value


def _without_bindings(expr: Expr, moved: dict[Any, Expr]) -> Expr:
    """`expr` with the bindings inside it moved to `moved`; those in a branch stay, as they may guard a load."""
    while isinstance(expr, tirx.Let):
        moved.setdefault(expr.var, expr.value)
        expr = expr.body
    if _is_branch(expr):
        return expr
    return _with_children(expr, lambda child: _without_bindings(child, moved))


def _with_children(expr: Expr, visit: Callable[[Expr], Expr]) -> Expr:
    """`expr` with `visit` applied to the operands of its outermost operation."""
    parts = _PARTS.get(type(expr))
    if parts is None:
        return expr
    children, make = parts(expr)
    new = [visit(child) for child in children]
    return expr if all(a.same_as(b) for a, b in zip(new, children, strict=True)) else make(*new)


def _is_branch(expr: Expr) -> bool:
    return isinstance(expr, Call) and _op_name(expr).endswith("if_then_else")


def _op_name(call: Any) -> str:
    return getattr(call.op, "name", "")


def _contains_binding(root: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(root, (tirx.Let, found.append))
    return bool(found)


def to_locals(func: Any) -> Any:
    """Turns the bindings in a function's stores into local variables, branches around bindings into statements."""
    if not _contains_binding(func.body):
        return func

    def store(statement: Any) -> Any:
        if not _contains_binding(statement.value):
            return statement
        flat = _Flattened()
        value = flat.expr(statement.value)
        return _sequence([*flat.statements, tirx.BufferStore(statement.buffer, value, statement.indices)])

    def evaluate(statement: Any) -> Any:
        if not _contains_binding(statement.value):
            return statement
        flat = _Flattened()
        value = flat.expr(statement.value)
        return _sequence([*flat.statements, tirx.Evaluate(value)])

    return func.with_body(
        tvm_ffi.structural_map(func.body, [(tirx.BufferStore, store), (tirx.Evaluate, evaluate)], order="pre")
    )


def _sequence(statements: list[Any]) -> Any:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


class _Flattened:
    """An expression taken apart: `statements` to run first, then what `expr` returned."""

    def __init__(self, values: dict[Any, Expr] | None = None) -> None:
        self.statements: list[Any] = []
        self._values = values if values is not None else {}

    def expr(self, expr: Expr) -> Expr:
        while isinstance(expr, tirx.Let):
            self._values[expr.var] = self.local(self.expr(unfenced(expr.value)))
            expr = expr.body
        if isinstance(expr, tirx.Var):
            return self._values.get(expr, expr)
        if _is_branch(expr) and _contains_binding(expr):
            return self.branch(*expr.args)
        return _with_children(expr, self.expr)

    def branch(self, condition: Expr, then: Expr, otherwise: Expr) -> Expr:
        array, at = self.array(then.ty.dtype)
        sides = []
        for side in (then, otherwise):
            inner = _Flattened(dict(self._values))
            value = inner.expr(side)
            store = tirx.BufferStore(array, value, [at])
            sides.append(tirx.SeqStmt([*inner.statements, store]) if inner.statements else store)
        self.statements.append(tirx.IfThenElse(self.expr(condition), *sides))
        return tirx.BufferLoad(array, [at])

    def local(self, value: Expr) -> Expr:
        array, at = self.array(value.ty.dtype)
        self.statements.append(tirx.BufferStore(array, value, [at]))
        return tirx.BufferLoad(array, [at])

    def array(self, dtype: Any) -> tuple[Any, Expr]:
        """A local array for one value, and the index of all of it."""
        scalar, lanes = str(dtype).partition("x")[0], dtype.lanes
        array = tirx.decl_buffer([tirx.IntImm("int64", lanes)], scalar, name="t", scope="local")
        self.statements.append(tirx.AllocBuffer(array))
        zero, one = tirx.IntImm("int64", 0), tirx.IntImm("int64", 1)
        return array, zero if lanes == 1 else tirx.Ramp(zero, one, lanes)
