"""A loop nest over the elements of one shape: which axes merge, which one is vectorised, what runs in parallel.

The body is a composed scope: loads at offsets, named values, stores. Where all accesses walk two neighbouring axes as
one (`stride[a] == stride[b] * extent[b]`), the axes become one axis; so a chain over contiguous tensors is one flat
loop, and a per-channel vector leaves three.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

from ..target import Target
from . import exprs
from .builder import Dim, Expr, KernelBuilder, i64, known, minimum, product, static
from .compose import Bind, Branch, Load, Scope, Step

TASKS_PER_CORE = 4
"""Parallel loops have at least this many iterations a core, where the extents allow it."""


@dataclass
class Axis:
    """One loop. `used`: the body needs the position itself, not only offsets linear in it."""

    var: Any
    extent: Dim
    used: bool = False


@dataclass
class Access:
    """A load or store at `rest + Σ stride[a] * position[a]`; a stride of None is not linear and is within `rest`."""

    buffer: Any
    strides: list[Dim | None]
    rest: Expr

    def at(self, positions: Sequence[Expr]) -> Expr:
        offset = self.rest
        for stride, position in zip(self.strides, positions, strict=False):  # those of loops not open yet are 0
            if stride is None or (isinstance(stride, int) and stride == 0):
                continue
            term = position if isinstance(stride, int) and stride == 1 else position * stride
            offset = term if isinstance(offset, tirx.IntImm) and int(offset) == 0 else offset + term
        return offset


@dataclass
class Store:
    """`buffer[offset] = value`, the value in memory's type."""

    buffer: Any
    offset: Expr
    value: Expr


class Nest:
    """The loops around one composed body. `axes` are outermost first, all extents other than 1."""

    def __init__(self, axes: Sequence[Axis], scope: Scope, stores: Sequence[Store], target: Target) -> None:
        self.axes, self.target, self.scope = list(axes), target, scope
        self.stores = list(stores)
        self._accesses: dict[int, Access] = {}
        for step in scope.steps:
            if isinstance(step, Load):
                self._accesses[id(step)] = self._analyse(step.buffer, step.offset)
            else:
                self._mark_step(step)
        for store in self.stores:
            self._accesses[id(store)] = self._analyse(store.buffer, store.offset)
            self._mark(store.value)
        self._merge()
        self._block()
        self._depths = self._depth_of_steps()

    @property
    def accesses(self) -> list[Access]:
        return list(self._accesses.values())

    def access(self, item: Load | Store) -> Access:
        return self._accesses[id(item)]

    def _mark(self, expr: Expr) -> None:
        """Axes whose positions occur in an expression are used."""
        if isinstance(expr, tirx.Var):
            return
        found = list(tirx.analysis.undefined_vars(expr))
        for axis in self.axes:
            axis.used = axis.used or any(axis.var.same_as(v) for v in found)

    def _mark_step(self, step: Step) -> None:
        if isinstance(step, Branch):
            self._mark(step.condition)
            for frame in (step.then, step.otherwise):
                self._mark(frame.result)
                for inner in frame.steps:
                    self._mark_step(inner)
        else:
            self._mark(step.offset if isinstance(step, Load) else step.value)

    def _analyse(self, buffer: Any, offset: Expr) -> Access:
        strides: list[Dim | None] = []
        rest = offset
        for axis in self.axes:
            terms = sym.detect_linear_equation(rest, [axis.var])
            stride = known(terms[0]) if len(terms) == 2 else None
            if stride is not None and not isinstance(stride, int) and self._mentions_axis(stride):
                stride = None
            strides.append(stride)
            if stride is not None:
                rest = terms[1]
        self._mark(rest)
        return Access(buffer, strides, rest)

    def _mentions_axis(self, expr: Expr) -> bool:
        found = list(tirx.analysis.undefined_vars(expr))
        return any(axis.var.same_as(v) for axis in self.axes for v in found)

    def _merge(self) -> None:
        for outer in range(len(self.axes) - 2, -1, -1):
            a, b = self.axes[outer], self.axes[outer + 1]
            if a.used or b.used or not all(self._as_one(x.strides, outer, b.extent) for x in self.accesses):
                continue
            b.extent = product([a.extent, b.extent])
            del self.axes[outer]
            for access in self.accesses:
                del access.strides[outer]

    def _block(self) -> None:
        """Where an access runs along another axis than the innermost (a transposition), the innermost axis is cut into
        blocks and the walk along that other axis comes inside: both sides then use whole cache lines."""
        if len(self.axes) < 2 or self.axes[-1].used:
            return
        extent = static(self.axes[-1].extent)
        across = [
            n for a in self.accesses for n, s in enumerate(a.strides[:-1]) if s == 1 and a.strides[-1] not in (0, 1)
        ]
        sizes = [b for b in range(8, 33) if extent is not None and extent % b == 0 and extent > b]
        if not across or not sizes or static(self.axes[across[0]].extent) in (2, 3, 4):
            return
        inner, at = Axis(tirx.Var("inner", "int64"), sizes[-1]), across[0]
        outer = Axis(self.axes[-1].var, extent // sizes[-1])  # type: ignore[operator]
        self.axes[-1:] = [inner]
        self.axes.insert(at, outer)
        for access in self.accesses:
            stride = access.strides[-1]
            access.strides.insert(at, None if stride is None else stride * sizes[-1])
        self.axes.insert(len(self.axes) - 2, self.axes.pop(at + 1))
        for access in self.accesses:
            access.strides.insert(len(access.strides) - 2, access.strides.pop(at + 1))

    def _as_one(self, strides: Sequence[Dim | None], outer: int, extent: Dim) -> bool:
        a, b = strides[outer], strides[outer + 1]
        if a is None or b is None:
            return False
        joint = product([b, extent])
        if isinstance(a, int) and isinstance(joint, int):
            return a == joint
        return bool(self.scope.analyzer.can_prove_equal(i64(a), i64(joint)))

    def _depth_of_steps(self) -> dict[int, int]:
        """How many of the loops must be open for each step: what does not depend on inner loops is done before them."""
        names: list[tuple[Any, int]] = [(axis.var, n + 1) for n, axis in enumerate(self.axes)]
        depths: dict[int, int] = {}

        def of(expr: Expr) -> int:
            if isinstance(expr, (tirx.IntImm, tirx.FloatImm)):
                return 0
            found = [expr] if isinstance(expr, tirx.Var) else list(tirx.analysis.undefined_vars(expr))
            return max((d for v in found for name, d in names if name.same_as(v)), default=0)

        for step in self.scope.steps:
            if isinstance(step, Load):
                access = self.access(step)
                moving = [n + 1 for n, s in enumerate(access.strides) if not (isinstance(s, int) and s == 0)]
                depth = max([of(access.rest), *moving], default=0)
            else:
                depth = of(step.value) if isinstance(step, Bind) else len(self.axes)
            depths[id(step)] = depth
            names.append((step.name, depth))
        return depths

    # --- emission ------------------------------------------------------------------------------------------------

    def emit(self, kb: KernelBuilder, parallel: bool) -> None:
        """Emits the loops and the body."""
        if not self.axes:
            self.emit_body(kb, [])
            return
        self.before(kb, [])
        if len(self.axes) == 1:
            with _chunks(kb, self.axes[0].extent, self.chunk, parallel) as (start, count):
                self._innermost(kb, [], start, count)
            return
        self._loops(kb, [], parallel)

    def _loops(self, kb: KernelBuilder, outer: list[Expr], parallel: bool) -> None:
        depth = len(outer)
        if depth == len(self.axes) - 1:
            self._innermost(kb, outer, i64(0), self.axes[-1].extent)
            return
        if not parallel:
            with kb.loop(self.axes[depth].extent, f"i{depth}") as position:
                places = [*outer, self.position(kb, depth, position)]
                self.before(kb, places)
                self._loops(kb, places, False)
            return
        fused = 1
        while fused < len(self.axes) - 1 and not self._enough(fused):
            fused += 1
        with kb.loop(product([a.extent for a in self.axes[:fused]]), "task", parallel=True) as task:
            positions: list[Expr] = []
            for axis in range(fused - 1, 0, -1):
                extent = i64(self.axes[axis].extent)
                positions.insert(0, self.position(kb, axis, tirx.truncmod(task, extent)))
                task = kb.let(tirx.truncdiv(task, extent), "task")
            places = [self.position(kb, 0, task), *positions]
            for opened in range(1, fused + 1):
                self.before(kb, places[:opened])
            self._loops(kb, places, False)

    def before(self, kb: KernelBuilder, positions: Sequence[Expr]) -> None:
        """Emits the steps that need exactly the loops opened so far."""
        cells = Cells(i64(0), 1)
        body = self._body(cells, positions, len(positions))
        for statement in (*cells.allocations, *body):
            kb.emit(statement)

    def _enough(self, fused: int) -> bool:
        """Whether the first axes give every core a few tasks."""
        extent = static(product([a.extent for a in self.axes[:fused]]))
        return extent is None or extent >= TASKS_PER_CORE * self.target.num_cores

    def position(self, kb: KernelBuilder, axis: int, value: Expr) -> Expr:
        """The loop position of an axis under the axis' own name, if the body refers to it."""
        if self.axes[axis].used:
            kb.emit(tirx.Bind(self.axes[axis].var, value))
            return self.axes[axis].var
        return value

    def _innermost_steps(self) -> list[Step]:
        return [s for s in self.scope.steps if self._depths[id(s)] == len(self.axes)]

    @property
    def lanes(self) -> int:
        """Elements a vector: as many as fit the registers in the widest type at work, at least half a float's."""
        widths = [exprs.bits_of(str(a.buffer.dtype)) for a in self.accesses if a.strides[-1] != 0]
        widths += [exprs.bits_of(exprs.dtype_of(s.name)) for s in self._innermost_steps() if isinstance(s, Bind)]
        widest = max(w for w in [*widths, 8] if w > 1)
        return max(self.target.lanes // 2, self.target.lanes * 32 // widest)

    @property
    def chunk(self) -> int:
        """Elements a task of a flat parallel loop takes: a few pages."""
        return self.lanes * 256

    @property
    def vectorised(self) -> bool:
        """Whether the innermost axis is walked in vectors: every access contiguous or constant along it."""
        unit = all(isinstance(a.strides[-1], int) and a.strides[-1] in (0, 1) for a in self.accesses)
        return unit and not self.axes[-1].used and not self.scope.conditional and not self._calls_out()

    def _calls_out(self) -> bool:
        """Whether the innermost body calls functions that take no vectors."""
        calls: list[Any] = []
        for step in self._innermost_steps():
            if isinstance(step, Bind):
                tvm_ffi.structural_walk(step.value, (ir.Call, calls.append))
        return any(not _takes_vectors(str(call.op.name)) for call in calls if isinstance(call.op, ir.Op))

    def _innermost(self, kb: KernelBuilder, outer: Sequence[Expr], start: Expr, count: Dim) -> None:
        """The innermost loop over [start, start + count)."""
        if not self.vectorised:
            with kb.loop(count, "i") as i:
                self.emit_body(kb, [*outer, self.position(kb, len(self.axes) - 1, _plus(start, i))])
            return
        lanes, number = self.lanes, static(count)
        if number is None or number >= lanes:
            with kb.loop(known(count) // lanes if number is not None else tirx.truncdiv(count, i64(lanes)), "v") as v:
                self._vector(kb, outer, _plus(start, v * lanes), lanes)
        if number is None:
            whole = kb.let(tirx.truncdiv(count, i64(lanes)) * lanes, "whole")
            with kb.loop(count - whole, "i") as i:
                self.emit_body(kb, [*outer, _plus(start, whole) + i])
            return
        done = number - number % lanes
        while number - done > 0:
            width = 1 << ((number - done).bit_length() - 1)
            self._vector(kb, outer, _plus(start, i64(done)), width)
            done += width

    def _vector(self, kb: KernelBuilder, outer: Sequence[Expr], start: Expr, lanes: int) -> None:
        """The body on `lanes` consecutive elements."""
        if lanes == 1:
            self.emit_body(kb, [*outer, start])
            return
        lane = tirx.Var("lane", "int64")
        cells = Cells(lane, lanes)
        body = self._body(cells, [*outer, start + lane], len(self.axes))
        for allocation in cells.allocations:
            kb.emit(allocation)
        kb.emit(tirx.For(lane, i64(0), i64(lanes), tirx.ForKind.VECTORIZED, sequence(body)))

    def emit_element(self, kb: KernelBuilder, positions: Sequence[Expr]) -> None:
        """One element with all that it needs, where no loop around it has done any of that."""
        for depth in range(len(self.axes)):
            self.before(kb, positions[:depth])
        self.emit_body(kb, positions)

    def emit_body(self, kb: KernelBuilder, positions: Sequence[Expr]) -> None:
        """The statements of the innermost loop for one element at these positions."""
        cells = Cells(i64(0), 1)
        body = self._body(cells, positions, len(self.axes))
        for statement in (*cells.allocations, *body):
            kb.emit(statement)

    def _body(self, cells: Cells, positions: Sequence[Expr], depth: int) -> list[Any]:
        """The statements of the steps at one depth, and at the innermost the stores."""
        out: list[Any] = []
        for step in self.scope.steps:
            if self._depths[id(step)] != depth:
                continue
            if isinstance(step, Load):
                access = self.access(step)
                out.append(tirx.Bind(step.name, tirx.BufferLoad(access.buffer, [access.at(positions)])))
            else:
                out += _statements(step, cells)
        for store in self.stores if depth == len(self.axes) else ():
            access = self.access(store)
            out.append(tirx.BufferStore(access.buffer, store.value, [access.at(positions)]))
        return out


@functools.cache
def _takes_vectors(op: str) -> bool:
    return op in ("tirx.reinterpret", "ir.reinterpret") or bool(ir.Op.get(op).get_attr("TVectorizable"))


def sequence(statements: Sequence[Any]) -> Any:
    """One statement for several."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


class Cells:
    """Named values live in small local arrays, which LLVM turns into registers.

    TVM's passes would simplify values bound by name: in exponential time, and by rules that hold for reals only.
    """

    def __init__(self, lane: Expr, lanes: int) -> None:
        self.lane, self.lanes = lane, lanes
        self.allocations: list[Any] = []

    def new(self, dtype: str) -> Any:
        cell = tirx.decl_buffer([i64(self.lanes)], dtype, name="cell", scope="local")
        self.allocations.append(tirx.AllocBuffer(cell))
        return cell

    def put(self, cell: Any, value: Expr) -> Any:
        return tirx.BufferStore(cell, value, [self.lane])

    def get(self, cell: Any) -> Expr:
        return tirx.BufferLoad(cell, [self.lane])


def _statements(step: Step, cells: Cells) -> list[Any]:
    """A step at the positions bound to the axes' own names."""
    if isinstance(step, Load):
        return [tirx.Bind(step.name, tirx.BufferLoad(step.buffer, [step.offset]))]
    dtype = exprs.dtype_of(step.name)
    if isinstance(step, Bind):
        cell = cells.new(dtype)
        return [cells.put(cell, step.value), tirx.Bind(step.name, cells.get(cell))]
    cell = cells.new(dtype)
    sides = []
    for frame in (step.then, step.otherwise):
        inner = [s for item in frame.steps for s in _statements(item, cells)]
        sides.append(sequence([*inner, cells.put(cell, frame.result)]))
    return [tirx.IfThenElse(step.condition, *sides), tirx.Bind(step.name, cells.get(cell))]


@contextmanager
def _chunks(kb: KernelBuilder, extent: Dim, chunk: int, parallel: bool) -> Iterator[tuple[Expr, Dim]]:
    """[0, extent) as one piece, or in parallel pieces of `chunk`; yields start and count of a piece."""
    if not parallel:
        yield i64(0), extent
        return
    size = static(extent)
    pieces = -(-size // chunk) if size is not None else tirx.truncdiv(extent + (chunk - 1), i64(chunk))
    with kb.loop(pieces, "task", parallel=True) as task:
        start = kb.let(task * chunk, "start")
        if size is not None and size % chunk == 0:
            yield start, chunk
        else:
            yield start, kb.let(minimum(extent - start, chunk), "count")


def _plus(a: Expr, b: Expr) -> Expr:
    if isinstance(a, tirx.IntImm) and int(a) == 0:
        return b
    return a if isinstance(b, tirx.IntImm) and int(b) == 0 else a + b
