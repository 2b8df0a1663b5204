"""Dims as TIR expressions: the symbols of a kernel's shapes become int64 variables, its last parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tvm
from tvm import tirx

from ...compiler.types import Dim, as_dim


class DimVars:
    """The int64 variables of one kernel, one a symbol, in the order they were first met.

    `expr(dim)` translates a dim; `vars` and `symbols` run in step: what the kernel takes, what the caller passes.
    """

    def __init__(self) -> None:
        self._vars: dict[Any, tirx.Var] = {}

    @property
    def vars(self) -> list[tirx.Var]:
        return list(self._vars.values())

    @property
    def symbols(self) -> list[Any]:
        return list(self._vars)

    def shape(self, dims: Iterable[Dim]) -> list[Any]:
        return [self.expr(d) for d in dims]

    def memory(self, dims: Sequence[Dim], pitch: int | None = None) -> list[Any]:
        """The dims of the memory that holds a tensor, whose rows may lie `pitch` elements apart."""
        return self.shape(dims if pitch is None else (*dims[:-1], pitch))

    def expr(self, dim: Dim) -> Any:
        """An int64 expression equal to `dim`."""
        import sympy

        if isinstance(dim, int):
            return tirx.IntImm("int64", dim)
        if isinstance(dim, sympy.Symbol):
            if dim not in self._vars:
                self._vars[dim] = tirx.Var(str(dim), "int64")
            return self._vars[dim]
        if isinstance(dim, sympy.Integer):
            return tirx.IntImm("int64", int(dim))
        if isinstance(dim, (sympy.floor, sympy.ceiling)):
            return self._quotient(dim)
        if isinstance(dim, (sympy.Add, sympy.Mul)):
            return self._quotient_free(dim)
        args = [self.expr(a) for a in dim.args]
        if isinstance(dim, sympy.Max):
            return _fold(tirx.max, args)
        if isinstance(dim, sympy.Min):
            return _fold(tirx.min, args)
        if isinstance(dim, sympy.Mod):
            return tirx.floormod(args[0], args[1])
        if isinstance(dim, sympy.Pow) and dim.exp.is_Integer and int(dim.exp) > 0:
            return _fold(lambda a, b: a * b, [args[0]] * int(dim.exp))
        if isinstance(dim, sympy.Abs):
            return tirx.max(args[0], -args[0])
        raise ValueError(f"dim expression {dim} cannot be computed")

    def _quotient_free(self, dim: Any) -> Any:
        """A sum or product; one with a denominator is an exact quotient (the dims of a Reshape always divide)."""
        import sympy

        above, below = sympy.together(dim).as_numer_denom()
        if below != 1:
            return tirx.floordiv(self.expr(above), self.expr(below))
        args = [self.expr(a) for a in dim.args]
        return _fold((lambda a, b: a + b) if isinstance(dim, sympy.Add) else (lambda a, b: a * b), args)

    def _quotient(self, dim: Any) -> Any:
        import sympy

        above, below = sympy.together(dim.args[0]).as_numer_denom()
        top, bottom = self.expr(above), self.expr(below)
        if isinstance(dim, sympy.ceiling):
            top = top + bottom - 1
        return tirx.floordiv(top, bottom)


def dim_of(expr: Any, names: Mapping[Any, Any]) -> Dim:
    """The dim equal to an int64 TIR expression; `names` maps its variables to symbols.

    Raises ValueError for an operation dims do not have.
    """
    import sympy

    if isinstance(expr, (int, tirx.IntImm)):
        return int(expr)
    if isinstance(expr, tirx.Var):
        return next(symbol for var, symbol in names.items() if var.same_as(expr))
    if isinstance(expr, tirx.Cast):
        return dim_of(expr.value, names)
    if hasattr(expr, "a") and hasattr(expr, "b"):
        a, b = dim_of(expr.a, names), dim_of(expr.b, names)
        rules: dict[str, Any] = {
            "Add": lambda: a + b,
            "Sub": lambda: a - b,
            "Mul": lambda: a * b,
            "FloorDiv": lambda: a // b if isinstance(a, int) and isinstance(b, int) else sympy.floor(sympy.S(a) / b),
            "FloorMod": lambda: sympy.Mod(a, b),
            "Max": lambda: sympy.Max(a, b),
            "Min": lambda: sympy.Min(a, b),
        }
        kind = type(expr).__name__
        if kind in rules:
            return as_dim(sympy.sympify(rules[kind]()))
    raise ValueError(f"not an expression over dims: {expr}")


def _fold(combine: Any, args: list[Any]) -> Any:
    out = args[0]
    for arg in args[1:]:
        out = combine(out, arg)
    return out


def int64(value: int) -> tvm.ir.Expr:
    return tirx.IntImm("int64", value)
