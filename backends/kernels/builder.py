"""Builds one TIR function statement by statement: loops, flat views of buffers, vector loads and stores.

Templates address memory through flat (one-dimensional) views and 64-bit element offsets of their own, so that every
access of a register tile is one base plus a constant; lowering then has nothing left to simplify.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, PointerType, PrimType

Expr = Any
"""A TIR expression; offsets and dims are int64."""
Dim = Any
"""A dim of a shape: an int, or an int64 TIR expression where it is known only at run time."""

WORKSPACE = "workspace"
"""Name of the last parameter of a kernel that needs scratch memory; its shape says how much."""
FEATURES = "optc.features"
"""Attribute of a kernel that uses instructions a target has and other code does not use: their features, spaced."""


class Epilogue(Protocol):
    """What happens to a template's result on its way from the registers to memory (bias, activation, residual...).

    `buffers` are further inputs; they become parameters after the template's own inputs and before the output.
    `flat` chooses the index list a call gets: False gives the logical output indices (for an image `[n, y, x, c]`),
    True gives `[row, c]`, `row` counting all but the last dim in row-major order; then full-size buffers such as a
    residual are declared as `(rows, channels)`. Flat is faster where it suffices: it lets a template treat an image as
    one run of pixels.
    `dtype` is the element type of what a call returns and the template stores (`result_dtype`). Where an epilogue has a
    `pitch`, the rows of the output lie that many elements apart (`result_pitch`): they are part of longer rows.
    """

    buffers: Sequence[Any]
    flat: bool
    dtype: str

    def __call__(self, value: Expr, indices: Sequence[Expr], lanes: int) -> Expr:
        """The value to store for `value`, `lanes` wide (float32, or int32 of an integer product), whose first element
        lies at `indices`."""
        ...


def result_dtype(epilogue: Epilogue | None, dtype: str = "float32") -> str:
    """The element type that a template stores: its own `dtype`, or what its epilogue makes of that."""
    return dtype if epilogue is None else epilogue.dtype


def result_pitch(epilogue: Epilogue | None, columns: Dim) -> Dim:
    """Elements from one row of the output, `columns` long, to the next; the last dim of the output's buffer."""
    return getattr(epilogue, "pitch", None) or columns


def i64(value: Dim) -> Expr:
    """`value` as an int64 expression."""
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def static(dim: Dim) -> int | None:
    """The value of a dim that is known at compile time, else None."""
    if isinstance(dim, int):
        return dim
    return int(dim) if isinstance(dim, tirx.IntImm) else None


def known(dim: Dim) -> Dim:
    """`dim` as a Python int where it is known, so that arithmetic on it folds."""
    value = static(dim)
    return dim if value is None else value


def ceildiv(a: Dim, b: int) -> Dim:
    """a / b rounded up."""
    return -(-a // b) if isinstance(a, int) else tirx.floordiv(a + (b - 1), i64(b))


def floordiv(a: Dim, b: Dim) -> Dim:
    return a // b if isinstance(a, int) and isinstance(b, int) else tirx.floordiv(i64(a), i64(b))


def floormod(a: Dim, b: Dim) -> Dim:
    return a % b if isinstance(a, int) and isinstance(b, int) else tirx.floormod(i64(a), i64(b))


def minimum(a: Dim, b: Dim) -> Dim:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.min(i64(a), i64(b))


def maximum(a: Dim, b: Dim) -> Dim:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.max(i64(a), i64(b))


def product(dims: Sequence[Dim]) -> Dim:
    out: Dim = 1
    for dim in dims:
        out = out * known(dim)
    return out


def buffer(name: str, shape: Sequence[Dim], dtype: str = "float32") -> Any:
    """A parameter buffer; aligned to its element only, as user memory may be."""
    return tirx.decl_buffer([i64(d) for d in shape], dtype, name=name, data_alignment=itemsize(dtype))


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return (int(tvm_ffi.dtype(dtype).bits) + 7) // 8


def splat(value: Expr, lanes: int) -> Expr:
    """`value` in every lane; a Python number becomes a float32."""
    if isinstance(value, (int, float)):
        value = tirx.FloatImm("float32", float(value))
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def lanes_of(vector: Expr, start: int, count: int) -> Expr:
    """`count` consecutive lanes of a vector."""
    return tirx.Shuffle([vector], [tirx.IntImm("int32", start + i) for i in range(count)])


def pieces(count: int, lanes: int) -> list[tuple[int, int]]:
    """`count` elements as (start, width) pieces of power-of-two widths up to `lanes`, widest first."""
    out, start, width = [], 0, lanes
    while start < count:
        while width > count - start:
            width //= 2
        out.append((start, width))
        start += width
    return out


class KernelBuilder:
    """Collects statements in the order they are emitted; `finish` makes the function."""

    def __init__(self) -> None:
        self._frames: list[list[Any]] = [[]]
        self._views: dict[Any, Any] = {}

    def emit(self, statement: Any) -> None:
        self._frames[-1].append(statement)

    @contextmanager
    def loop(self, extent: Dim, name: str = "i", parallel: bool = False) -> Iterator[Expr]:
        """A loop over [0, extent); yields the index.

        An extent of one makes no loop unless it is parallel; an extent of zero makes nothing.
        """
        extent = known(extent)
        if extent == 1 and isinstance(extent, int) and not parallel:
            yield i64(0)
            return
        var = tirx.Var(name, "int64")
        self._frames.append([])
        yield var
        if isinstance(extent, int) and extent <= 0:
            self._frames.pop()
            return
        kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
        self.emit_block(lambda body: tirx.For(var, i64(0), i64(extent), kind, body))

    @contextmanager
    def share(self, worker: Expr, workers: int, tasks: Dim, name: str = "task") -> Iterator[Expr]:
        """A loop over the tasks of one of `workers`, who divide `tasks` evenly; yields the task's number."""
        first = self.let(floordiv(worker * tasks, workers), "first")
        count = self.let(floordiv((worker + 1) * tasks, workers) - first, "count")
        with self.loop(count, name) as number:
            yield self.let(first + number, "number")

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements that run if `condition` (a TIR boolean or a Python bool) holds."""
        self._frames.append([])
        yield
        if isinstance(condition, bool):
            statements = self._frames.pop()
            self._frames[-1] += statements if condition else []
        else:
            self.emit_block(lambda body: tirx.IfThenElse(condition, body, None))

    def branch(self, condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """`then` or `otherwise`; only one is emitted if `condition` is a Python bool."""
        if isinstance(condition, bool):
            (then if condition else otherwise)()
            return
        self._frames.append([])
        then()
        first = self._pop()
        self._frames.append([])
        otherwise()
        self.emit(tirx.IfThenElse(condition, first, self._pop()))

    def emit_block(self, wrap: Callable[[Any], Any]) -> None:
        body = self._pop()
        self.emit(wrap(body))

    def _pop(self) -> Any:
        statements = self._frames.pop()
        if not statements:
            return tirx.Evaluate(0)
        return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)

    def let(self, value: Dim, name: str = "v") -> Dim:
        """Binds an expression to a name, so that it is computed once; numbers pass through."""
        value = known(value)
        if isinstance(value, (int, tirx.Var, tirx.IntImm)):
            return value
        var = tirx.Var(name, value.dtype if not hasattr(value, "ty") else value.ty)
        self.emit(tirx.Bind(var, value))
        return var

    def opaque(self, value: Dim, name: str = "v") -> Dim:
        """As `let`, for an int64 that much is computed from: TVM's analyzer looks through names at each use, which
        takes seconds where they stand for divisions by symbols; it does not look into variables."""
        if static(value) is not None:
            return known(value)
        cell = self.local(1, "int64", name)
        self.store(cell, 0, value)
        return self.load(cell, 0)

    def flat(self, param: Any) -> Any:
        """The one-dimensional view of a parameter buffer."""
        if param not in self._views:
            size = i64(product(param.shape))
            view = tirx.decl_buffer(
                [size],
                str(param.dtype),
                name=param.name + "_flat",
                data=param.data,
                data_alignment=itemsize(str(param.dtype)),
            )
            self._views[param] = view
        return self._views[param]

    def local(self, size: int, dtype: str = "float32", name: str = "acc") -> Any:
        """A small array on the stack; elements that are addressed by constants live in registers."""
        array = tirx.decl_buffer([i64(size)], dtype, name=name, scope="local")
        self.emit(tirx.AllocBuffer(array))
        return array

    def load(self, source: Any, offset: Dim, lanes: int = 1) -> Expr:
        return tirx.BufferLoad(source, [_span(offset, lanes)])

    def store(self, target: Any, offset: Dim, value: Expr, lanes: int = 1) -> None:
        self.emit(tirx.BufferStore(target, value, [_span(offset, lanes)]))

    def copy(self, target: Any, target_at: Dim, source: Any, source_at: Dim, count: Dim) -> None:
        """Copies `count` elements between flat views."""
        size = i64(count) * itemsize(str(source.dtype))
        self._memory("memcpy", address(target, target_at), address(source, source_at), size)

    def zero(self, target: Any, at: Dim, count: Dim) -> None:
        """Sets `count` elements of a flat view to zero bytes."""
        size = i64(count) * itemsize(str(target.dtype))
        self._memory("memset", address(target, at), tirx.IntImm("int32", 0), size)

    def fill(self, target: Any, at: Dim, count: Dim, byte: Expr) -> None:
        """Sets `count` elements of a flat view to a byte that is known only at run time."""
        size = i64(count) * itemsize(str(target.dtype))
        self._memory("memset", address(target, at), tirx.Cast("int32", byte), size)

    def prefetch(self, source: Any, offset: Dim, locality: int = 3, write: bool = False) -> None:
        """Asks for the cache line of an element, which may lie beyond the view; 3: into all caches, 2: L2 and up.
        `write`: in a state that can be written."""
        access = address(source, offset)
        self.emit(tirx.Evaluate(Call("tirx.prefetch", [access, int(write), locality, 1], ret_ty="void")))

    def _memory(self, function: str, *args: Expr) -> None:
        self.emit(tirx.Evaluate(tirx.call_extern(PointerType(PrimType("void")), function, *args)))

    def finish(self, params: Sequence[Any]) -> Any:
        """The function over buffers `params`; call at the end, with all blocks closed."""
        views = [tirx.DeclBuffer(view, data=view_data) for view, view_data in self._view_data()]
        statements = [*views, *self._frames[0]]  # one only where there is nothing to compute: an empty tensor
        body = statements[0] if len(statements) == 1 else tirx.SeqStmt(statements or [tirx.Evaluate(0)])
        return tirx.PrimFunc(list(params), body).with_attr("tirx.noalias", True)

    def _view_data(self) -> list[tuple[Any, Any]]:
        return [(view, param.data) for param, view in self._views.items()]


def address(array: Any, offset: Dim) -> Expr:
    """Pointer to an element of a flat view."""
    return tirx.address_of(tirx.BufferLoad(array, [i64(offset)]))


def _span(offset: Dim, lanes: int) -> Expr:
    return i64(offset) if lanes == 1 else tirx.Ramp(i64(offset), i64(1), lanes)
