"""Contents: the elements of small integer (and shape-carrying float) tensors, known as dims.

Exporters compute shapes in the graph: Shape, Gather, Mul, Cast to float and back, Concat, Reshape. Where these hold
dims, inference follows them element by element. A float element is an int or a sympy fraction; contents stop where
float rounding could matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir import Node, Value
from ..types import Dim, DType
from . import dims

SMALL = 64  # elements; shapes and pads are far smaller, and contents of weights would cost time
_MAX_DENOMINATOR = 1 << 20  # floats finer than this are not shape arithmetic


def content_of(value: Value | None) -> np.ndarray | None:
    """The known elements of a value, as an object array of its shape; None if unknown, large or not numeric."""
    if value is None:
        return None
    if value.content is not None:
        return value.content
    data = value.data
    if data is None or data.size > SMALL or not (value.type.dtype.is_int or value.type.dtype in _LIKE_INTS):
        return None
    elements = [_exact(x) for x in data.reshape(-1).tolist()]
    if any(e is None for e in elements):
        return None
    return as_array(elements, data.shape)


_LIKE_INTS = (DType.BOOL, DType.F32, DType.F64)


def _exact(number: float | int | bool) -> Any:
    if not isinstance(number, float):
        return number
    if number.is_integer():
        return int(number)
    if not np.isfinite(number):
        return None
    numerator, denominator = number.as_integer_ratio()
    if denominator > _MAX_DENOMINATOR:
        return None
    import sympy

    return sympy.Rational(numerator, denominator)


def as_array(elements: list[Any], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """An object array of these dims; 1-d if no shape is given."""
    array = np.empty(len(elements), dtype=object)
    for index, element in enumerate(elements):
        array[index] = element
    return array if shape is None else array.reshape(shape)


def inputs_of(node: Node, count: int | None = None) -> list[np.ndarray] | None:
    """The contents of the first `count` (default: all) operands; None if one is unknown or omitted."""
    found = []
    for value in node.inputs if count is None else node.inputs[:count]:
        content = content_of(value)
        if content is None:
            return None
        found.append(content)
    return found


def elementwise(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray | None:
    """function over broadcast elements; None if it is None (undecided) anywhere or the result is large."""
    if np.broadcast_shapes(*(a.shape for a in arrays)) == ():
        result = as_array([function(*(a.item() for a in arrays))], ())
    else:
        result = np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), dtype=object)
    if result.size > SMALL or any(e is None for e in result.flat):
        return None
    return result


# --- the functions of elements ----------------------------------------------------------------------------------


def divide(dtype: DType) -> Callable[[Dim, Dim], Dim | None]:
    """Division as the dtype rounds it. Integers: towards zero, which for dims (not negative) is the floor."""
    return _int_divide if dtype.is_int else _float_divide


def _int_divide(a: Dim, b: Dim) -> Dim | None:
    if isinstance(b, int):
        if b == 0:
            return None
        if isinstance(a, int):
            return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return dims.floor_div(a, b) if b > 0 else None
    return dims.floor_div(a, b)


def _float_divide(a: Dim, b: Dim) -> Dim | None:
    if b == 0:
        return None
    import sympy

    quotient = sympy.sympify(a) / b
    if quotient.is_Rational and not _is_dyadic(quotient):
        return None  # a float cannot hold it
    return int(quotient) if quotient.is_Integer else quotient


def _is_dyadic(number: Any) -> bool:
    return int(number.q) & (int(number.q) - 1) == 0


def modulo(a: Dim, b: Dim) -> Dim | None:
    """The remainder with the divisor's sign, as integer Mod has it."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b if b else None
    if isinstance(b, int) and b <= 0:
        return None
    return a - b * dims.floor_div(a, b)


def equal(a: Dim, b: Dim) -> bool | None:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    difference = a - b
    if difference == 0:
        return True
    return False if dims.is_nonnegative(difference - 1) or dims.is_nonnegative(-1 - difference) else None


def less(a: Dim, b: Dim) -> bool | None:
    """a < b of integers."""
    if dims.is_nonnegative(b - a - 1):
        return True
    return False if dims.is_nonnegative(a - b) else None


def choose(condition: bool, a: Dim, b: Dim) -> Dim:
    return a if condition else b


def truncate(a: Dim) -> Dim | None:
    """What a Cast from float to integer keeps; a symbolic fraction is taken to be positive, as dims are."""
    if isinstance(a, int):
        return int(a)
    return int(a) if a.is_Rational else dims.floor(a)


def round_half_even(a: Dim) -> Dim | None:
    if isinstance(a, int) or a.is_integer:
        return a
    return int(a.round()) if a.is_Rational else None
