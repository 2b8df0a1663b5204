"""Dims, names and strings as C."""

from __future__ import annotations

import json
import re

from ..compiler.types import Dim


def c_symbol(symbol: object) -> str:
    """The C variable of a dim symbol."""
    return "d_" + re.sub(r"\W", "_", str(symbol))


def c_dim(dim: Dim) -> str:
    """An int64_t expression equal to `dim`; raises ValueError for a function C has not."""
    import sympy

    if isinstance(dim, int) or dim.is_Integer:
        return f"{int(dim)}LL" if abs(int(dim)) > 2**31 - 1 else str(int(dim))
    if dim.is_Symbol:
        return c_symbol(dim)
    if isinstance(dim, (sympy.floor, sympy.ceiling)):
        above, below = sympy.together(dim.args[0]).as_numer_denom()
        top, bottom = c_dim(above), c_dim(below)
        if isinstance(dim, sympy.ceiling):
            top = f"({top} + {bottom} - 1)"
        return f"optc_floordiv({top}, {bottom})"
    if isinstance(dim, (sympy.Add, sympy.Mul)):
        above, below = sympy.together(dim).as_numer_denom()
        if below != 1:
            return f"optc_floordiv({c_dim(above)}, {c_dim(below)})"
        return "(" + (" + " if isinstance(dim, sympy.Add) else " * ").join(c_dim(a) for a in dim.args) + ")"
    if isinstance(dim, (sympy.Max, sympy.Min)):
        name = "optc_max" if isinstance(dim, sympy.Max) else "optc_min"
        text = c_dim(dim.args[0])
        for arg in dim.args[1:]:
            text = f"{name}({text}, {c_dim(arg)})"
        return text
    if isinstance(dim, sympy.Mod):
        return f"optc_mod({c_dim(dim.args[0])}, {c_dim(dim.args[1])})"
    if isinstance(dim, sympy.Pow) and dim.exp.is_Integer and int(dim.exp) > 0:
        return "(" + " * ".join([c_dim(dim.base)] * int(dim.exp)) + ")"
    if isinstance(dim, sympy.Abs):
        inner = c_dim(dim.args[0])
        return f"optc_max({inner}, -{inner})"
    raise ValueError(f"dim expression {dim} cannot be computed")


def c_string(text: str) -> str:
    """A C string literal (ASCII, everything else as octal bytes)."""
    if text.isascii():
        return json.dumps(text)
    return '"' + "".join(f"\\{b:03o}" if b > 126 or b < 32 or b in b'"\\' else chr(b) for b in text.encode()) + '"'


def c_format(text: str) -> str:
    """Text that stands for itself in a printf format."""
    return text.replace("%", "%%")


def c_name(text: str) -> str:
    """An identifier that reads like `text`."""
    return re.sub(r"\W+", "_", text).strip("_")[:48] or "op"
