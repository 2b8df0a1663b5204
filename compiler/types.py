"""Element types, dims and tensor types.

A dim is an `int` or a sympy expression over symbols. Two kinds of symbol exist and look alike: those that appear in
the graph inputs' shapes (bound by the caller's arrays), and data symbols, made by `fresh_dim` where a node's output
shape depends on values (NonZero, a Reshape to a computed shape); such a symbol is bound when that node has run.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import sympy

    Dim: TypeAlias = int | sympy.Expr
else:
    Dim = Any
Shape: TypeAlias = tuple[Dim, ...]


class DType(enum.Enum):
    """Element types, valued by onnx.TensorProto.DataType."""

    F32 = 1
    U8 = 2
    I8 = 3
    U16 = 4
    I16 = 5
    I32 = 6
    I64 = 7
    STRING = 8
    BOOL = 9
    F16 = 10
    F64 = 11
    U32 = 12
    U64 = 13
    C64 = 14
    C128 = 15
    BF16 = 16

    @property
    def text(self) -> str:
        """Short name used by the text form and in messages, e.g. "f32"."""
        return self.name.lower()

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype; bf16 comes from ml_dtypes."""
        return _numpy_of(self)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return 2 if self is DType.BF16 else self.numpy.itemsize

    @property
    def tvm(self) -> str:
        """TVM's name, e.g. "float32"."""
        return "bfloat16" if self is DType.BF16 else self.numpy.name

    @property
    def is_float(self) -> bool:
        return self in (DType.F16, DType.BF16, DType.F32, DType.F64)

    @property
    def is_signed_int(self) -> bool:
        return self in (DType.I8, DType.I16, DType.I32, DType.I64)

    @property
    def is_unsigned_int(self) -> bool:
        return self in (DType.U8, DType.U16, DType.U32, DType.U64)

    @property
    def is_int(self) -> bool:
        return self.is_signed_int or self.is_unsigned_int

    @property
    def is_complex(self) -> bool:
        return self in (DType.C64, DType.C128)

    @staticmethod
    def from_numpy(dtype: np.dtype[Any] | type) -> DType:
        """Raises KeyError for a dtype ONNX has no tensor of."""
        name = np.dtype(dtype).name
        return _BY_NUMPY_NAME["str" if name.startswith("str") or name == "object" else name]

    @staticmethod
    def from_text(text: str) -> DType:
        return DType[text.upper()]


_NUMPY_NAMES = {
    DType.F32: "float32",
    DType.U8: "uint8",
    DType.I8: "int8",
    DType.U16: "uint16",
    DType.I16: "int16",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.STRING: "object",
    DType.BOOL: "bool",
    DType.F16: "float16",
    DType.F64: "float64",
    DType.U32: "uint32",
    DType.U64: "uint64",
    DType.C64: "complex64",
    DType.C128: "complex128",
}
_BY_NUMPY_NAME = {name: dtype for dtype, name in _NUMPY_NAMES.items()} | {"bfloat16": DType.BF16, "str": DType.STRING}


@functools.cache
def _numpy_of(dtype: DType) -> np.dtype[Any]:
    if dtype is DType.BF16:
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(_NUMPY_NAMES[dtype])


@dataclass(frozen=True)
class TensorType:
    """dtype and shape of a value. `shape` is None while the rank is unknown; code generation needs a rank."""

    dtype: DType
    shape: Shape | None

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def dims(self) -> Shape:
        """The shape, for code that knows the rank is known."""
        if self.shape is None:
            raise ValueError("rank is not known")
        return self.shape

    @property
    def is_static(self) -> bool:
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """All dims as ints; raises ValueError if one is symbolic."""
        if not self.is_static:
            raise ValueError(f"shape {self} is not static")
        return tuple(int(d) for d in self.dims)

    @property
    def numel(self) -> Dim:
        """Number of elements, an expression if dims are symbolic."""
        count: Dim = 1
        for dim in self.dims:
            count = count * dim
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of a static tensor."""
        return int(np.prod(self.static_shape, dtype=np.int64)) * self.dtype.itemsize

    def with_shape(self, shape: Iterable[Dim] | None) -> TensorType:
        return TensorType(self.dtype, None if shape is None else tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype.text}[*]"
        return f"{self.dtype.text}[{', '.join(dim_text(d) for d in self.shape)}]"


def symbol(name: str) -> sympy.Symbol:
    """The dim called `name`: a non-negative integer. Same name, same symbol."""
    import sympy

    return sympy.Symbol(name, integer=True, nonnegative=True)


_made: dict[sympy.Symbol, int] = {}  # data symbols made by fresh_dim or read by parse_dim, numbered


def fresh_dim(hint: str = "d") -> sympy.Symbol:
    """A new data symbol, named `_<hint><n>`; names of input dims never look like that."""
    number = len(_made)
    while (made := symbol(f"_{hint}{number}")) in _made:
        number += 1
    _made[made] = len(_made)
    return made


def fresh_count() -> int:
    """How many data symbols were made so far."""
    return len(_made)


def is_fresh(dim: Dim, since: int = 0) -> bool:
    """True if the dim is a bare data symbol made after the first `since` of them."""
    return not isinstance(dim, int) and _made.get(dim, -1) >= since


def is_data_symbol(symbol: sympy.Symbol) -> bool:
    """True for a symbol that a node binds, false for one that an input array binds."""
    return str(symbol.name).startswith("_")


def as_dim(value: Any) -> Dim:
    """An int for whatever is an integer number, else the (simplified) sympy expression."""
    if isinstance(value, (int, np.integer)):
        return int(value)
    return int(value) if value.is_Integer else value


def dim_text(dim: Dim) -> str:
    return str(dim).replace(" ", "")


def parse_dim(text: str) -> Dim:
    """Reads what dim_text wrote: sums, products, floor, ceiling, Max, Min, Mod over names.

    Raises ValueError if the text is no such expression.
    """
    text = text.strip()
    if text.lstrip("-").isdigit():
        return int(text)
    import re

    import sympy

    functions = {"floor": sympy.floor, "ceiling": sympy.ceiling, "Max": sympy.Max, "Min": sympy.Min, "Mod": sympy.Mod}
    functions |= {"Abs": sympy.Abs}
    if not re.fullmatch(r"[\w\s+\-*/(),.]+", text):
        raise ValueError(f"not a dim expression: {text!r}")
    names = {n: symbol(n) for n in re.findall(r"[A-Za-z_]\w*", text) if n not in functions}
    for name in names.values():
        if is_data_symbol(name):
            _made.setdefault(name, len(_made))
    try:
        return as_dim(sympy.parse_expr(text, local_dict=names | functions))
    except Exception as error:
        raise ValueError(f"not a dim expression: {text!r}") from error


def same_dim(a: Dim, b: Dim) -> bool:
    """True if two dims are provably equal."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if a == b:
        return True
    if isinstance(a, int) or isinstance(b, int):
        return False
    return _is_zero(a - b)


@functools.lru_cache(maxsize=65536)
def _is_zero(expression: sympy.Expr) -> bool:
    """Expansion decides polynomials; only quotients, floor and the like need simplification, which is slow."""
    import sympy

    expanded = sympy.expand(expression)
    if expanded == 0:
        return True
    polynomial = expanded.is_polynomial(*expanded.free_symbols)
    return not polynomial and bool(sympy.simplify(expanded) == 0)


def free_symbols(dims: Iterable[Dim]) -> set[sympy.Symbol]:
    """The symbols that occur in these dims."""
    return {s for d in dims if not isinstance(d, int) for s in d.free_symbols}


def substitute(dims: Sequence[Dim], binding: dict[Any, Dim]) -> Shape:
    """The dims with symbols replaced; a dim that becomes a number becomes an int."""
    return tuple(d if isinstance(d, int) else as_dim(d.subs(binding)) for d in dims)
