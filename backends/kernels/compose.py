"""Composing index definitions: from a DAG of nodes to the expression of one output element at one index.

A `Scope` is one place in a loop nest. Every load gets a name, and so does every node's result, so that a value read
twice is computed once. An index is a list of int64 expressions in the loop variables; a definition must stay within
its input's bounds, and where it cannot say so without a condition it asks `Operand.inside`, whose branches may be
resolved by the bounds of the loop (a Concat becomes one loop a part).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Union

import numpy as np
import tvm_ffi
from tvm import ir, sym, tirx

from ...compiler.errors import UnsupportedError
from ...compiler.ir import Node, Value
from ...compiler.types import TensorType
from ..base import INDEX_DEFINITIONS, Expr, Index
from . import exprs
from .bindings import unfenced
from .dims import DimVars, int64

SCALAR_BYTES = 16
"""Constants up to this size are written into the code."""


@dataclass(frozen=True)
class Guard:
    """A condition `low <= index < high` met while composing; a bound that always holds is None."""

    index: Expr
    low: Expr | None
    high: Expr | None


@dataclass
class Load:
    """`name` stands for `buffer[offset]`, offset counted in elements from the buffer's start."""

    name: Expr
    buffer: Any
    offset: Expr


@dataclass
class Bind:
    """`name` stands for `value`."""

    name: Expr
    value: Expr


@dataclass
class Branch:
    """`name` stands for what one of two branches computes; only that one runs."""

    name: Expr
    condition: Expr
    then: Frame
    otherwise: Frame


Step = Union[Load, Bind, Branch]  # noqa: UP007


@dataclass
class Frame:
    """What one branch of a condition computes: its steps in order, and what is known by then."""

    steps: list[Step] = field(default_factory=list)
    known: dict[Any, Expr] = field(default_factory=dict)
    result: Expr | None = None


class Operand:
    """An input of a node as its index definition sees it: call it with an index to get the element there."""

    def __init__(self, scope: Scope, value: Value) -> None:
        self._scope, self.value = scope, value

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def data(self) -> np.ndarray | None:
        """The elements, if they are constant."""
        return self.value.data

    @property
    def shape(self) -> list[Expr]:
        return self._scope.dims.shape(self.value.type.dims)

    @property
    def dims(self) -> DimVars:
        """Translates dims of this kernel."""
        return self._scope.dims

    def name(self, expr: Expr) -> Expr:
        """`expr` computed once, under a name."""
        return self._scope.named(expr)

    def __call__(self, index: Index) -> Expr:
        """The element in the type it is computed in (exprs.load_type)."""
        return self._scope.element(self.value, index)

    def inside(
        self,
        index: Expr,
        low: Expr | None,
        high: Expr | None,
        then: Callable[[], Expr],
        otherwise: Callable[[], Expr],
    ) -> Expr:
        """`then()` where low <= index < high, else `otherwise()`; only the side that holds is computed."""
        return self._scope.inside(index, low, high, then, otherwise)


class Scope:
    """Composes at one place. `buffers` are the flat views of what lies in memory; `pitches` are of those values whose
    rows do not follow each other."""

    def __init__(
        self,
        dims: DimVars,
        buffers: Mapping[Value, Any],
        analyzer: Any = None,
        pitches: Mapping[Value, int] = MappingProxyType({}),
    ) -> None:
        self.dims, self.buffers, self._pitches = dims, buffers, pitches
        self.analyzer = analyzer or sym.Analyzer()
        self.guards: list[Guard] = []
        self.conditional = False
        self._frames = [Frame()]
        self._elements: dict[Value, Callable[[Index], Expr]] = {}

    @property
    def steps(self) -> list[Step]:
        """The loads and names that the results need, in order."""
        return self._frames[0].steps

    def extent(self, var: Expr, start: Expr, extent: Expr) -> None:
        """Declares the range of a loop variable."""
        self.analyzer.bind(var, ir.Range.from_min_extent(start, extent))

    def element(self, value: Value, index: Index) -> Expr:
        """The element of `value` at `index`, in the type it is computed in."""
        key = (value, *(_key(i) for i in index))
        for frame in self._frames:
            if key in frame.known:
                return frame.known[key]
        expr = self.named(self._compute(value, list(index)), _name(value))
        self._frames[-1].known[key] = expr
        return expr

    def named(self, expr: Expr, name: str = "t") -> Expr:
        """A name for an expression, which is then computed once, here; so is what it binds inside."""
        expr = self._hoisted(expr)
        if isinstance(expr, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
            return expr
        var = tirx.Var(name, expr.ty)
        self._frames[-1].steps.append(Bind(var, expr))
        return var

    def _hoisted(self, expr: Expr) -> Expr:
        """`expr` with its let expressions made steps: TVM's passes trip over them within other bindings."""
        done: list[Any] = []

        def hoist(binding: Any) -> Any:
            if not any(binding.var.same_as(v) for v in done):
                done.append(binding.var)
                self._frames[-1].steps.append(Bind(binding.var, self._hoisted(unfenced(binding.value))))
            return self._hoisted(binding.body)

        return (
            hoist(expr) if isinstance(expr, tirx.Let) else tvm_ffi.structural_map(expr, (tirx.Let, hoist), order="pre")
        )

    def _compute(self, value: Value, index: list[Expr]) -> Expr:
        if value in self.buffers:
            return self._load(value, index)
        if value.data is not None and value.data.size == 1:
            return exprs.const(value.data.reshape(-1)[0], exprs.load_type(value.type.dtype))
        node = value.producer
        if node is None:
            raise ValueError(f"{value.name} is no input of the group")
        if value not in self._elements:
            self._elements |= dict(zip(node.outputs, self.define(node), strict=False))
        return self._elements[value](index)

    def define(self, node: Node) -> Sequence[Callable[[Index], Expr]]:
        """The elements of a node's outputs. Raises UnsupportedError if its form has no index definition."""
        definition = INDEX_DEFINITIONS.get(node.op)
        found = definition(node, [None if v is None else Operand(self, v) for v in node.inputs]) if definition else None
        if found is None:
            raise UnsupportedError(f"{node.op} has no index expression in this form", node=node.name)
        return found

    def _load(self, value: Value, index: list[Expr]) -> Expr:
        dtype = value.type.dtype
        offset = self.analyzer.simplify(self.offset(value, [self._hoisted(i) for i in index]))
        name = tirx.Var(_name(value), exprs.tir_dtype(dtype))
        self._frames[-1].steps.append(Load(name, self.buffers[value], offset))
        return exprs.from_memory(name, dtype)

    def offset(self, value: Value, index: Sequence[Expr]) -> Expr:
        """Where in its memory an element of `value` lies, in elements."""
        return linear(index, self.dims.memory(value.type.dims, self._pitches.get(value)))

    def inside(
        self,
        index: Expr,
        low: Expr | None,
        high: Expr | None,
        then: Callable[[], Expr],
        otherwise: Callable[[], Expr],
    ) -> Expr:
        """See Operand.inside."""
        conditions = [] if low is None else [tirx.GE(index, low)]
        conditions += [] if high is None else [tirx.LT(index, high)]
        open_conditions = [c for c in conditions if not self.analyzer.can_prove(c)]
        if not open_conditions:
            return then()
        if any(self.analyzer.can_prove(tirx.Not(c)) for c in open_conditions):
            return otherwise()
        self.guards.append(Guard(index, low, high))
        self.conditional = True
        condition = self._hoisted(open_conditions[0] if len(open_conditions) == 1 else tirx.And(*open_conditions))
        sides = self._branch(then), self._branch(otherwise)
        name = tirx.Var("either", exprs.type_of(sides[0].result))
        self._frames[-1].steps.append(Branch(name, condition, *sides))
        return name

    def _branch(self, body: Callable[[], Expr]) -> Frame:
        """A side of a condition: what it computes stays within it."""
        frame = Frame()
        self._frames.append(frame)
        frame.result = self._hoisted(body())
        self._frames.pop()
        return frame


def linear(index: Sequence[Expr], shape: Sequence[Expr]) -> Expr:
    """Row-major offset of an index, in elements."""
    if not index:
        return int64(0)
    offset = index[0]
    for position, dim in zip(index[1:], shape[1:], strict=True):
        offset = offset * dim + position
    return offset


def _key(expr: Expr) -> Any:
    return int(expr) if isinstance(expr, tirx.IntImm) else expr


def _name(value: Value) -> str:
    text = "".join(c if c.isalnum() else "_" for c in value.name)
    return text if text[:1].isalpha() else f"v{text}"
