"""Patterns: a small declarative matcher over the producers of a value.

    Op("Mul", Op("Sigmoid", "x"), "x", commutative=True)

matches x * sigmoid(x). A string captures a value (twice the same name: the same value); `Const` captures a constant,
`Scalar(0.5)` matches a constant of one element near 0.5, `None` an omitted operand, `Any()` anything. Nodes are
captured by `Op(..., name=)`. Inner nodes must vanish with the root, so their values may have no reader outside the
match, unless the pattern says `shared=True`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any as Anything
from typing import Union

import numpy as np

from ..compiler.ir import Graph, Node, Value

Captures = dict[str, "Value | Node"]
_Next = Callable[["State"], Iterator["State"]]


@dataclass(frozen=True)
class State:
    """A partial match: captures by name, the nodes matched so far, those of them that must vanish, operands matched."""

    captures: Captures = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    inner: tuple[Node, ...] = ()
    operands: int = 0

    def capture(self, name: str | None, what: Value | Node) -> State:
        return self if name is None else replace(self, captures={**self.captures, name: what})


@dataclass
class Trace:
    """The deepest failure of a match: how many nodes (and operands) had matched, and why the next thing did not."""

    depth: tuple[int, int] = (-1, 0)
    reason: str = "no node matches"

    def miss(self, state: State, reason: str) -> None:
        depth = len(state.nodes), state.operands
        if depth > self.depth:
            self.depth, self.reason = depth, reason


@dataclass(frozen=True)
class Any:
    """Any present value, captured as `name` if given."""

    name: str | None = None

    def match(self, value: Value | None, state: State, trace: Trace | None) -> Iterator[State]:
        if value is None:
            return
        known = state.captures.get(self.name) if self.name else None
        if isinstance(known, Node):  # the name of a node stands for its first output
            known = known.outputs[0]
        if known is None or known is value or (isinstance(known, Value) and _same_constant(known, value)):
            yield replace(state if known is not None else state.capture(self.name, value), operands=state.operands + 1)
        elif trace:
            trace.miss(state, f"{self.name} is both %{getattr(known, 'name', known)} and %{value.name}")


@dataclass(frozen=True)
class Const:
    """Any constant, captured as `name` if given."""

    name: str | None = None

    def match(self, value: Value | None, state: State, trace: Trace | None) -> Iterator[State]:
        if value is not None and value.is_constant:
            yield from Any(self.name).match(value, state, trace)
        elif trace and value is not None:
            trace.miss(state, f"%{value.name} is not a constant")


@dataclass(frozen=True)
class Scalar:
    """A constant of one element; near `value` if that is given (relative 1e-3 is enough to tell 0.7071 from 0.7)."""

    value: float | None = None
    name: str | None = None
    rtol: float = 1e-3

    def match(self, value: Value | None, state: State, trace: Trace | None) -> Iterator[State]:
        number = scalar_of(value)
        if number is not None and (self.value is None or np.isclose(number, self.value, rtol=self.rtol, atol=1e-12)):
            yield from Any(self.name).match(value, state, trace)
        elif trace and value is not None:
            expected = "of one element" if self.value is None else f"{self.value:g}"
            trace.miss(state, f"%{value.name} is not the constant {expected}" + (f" but {number:g}" if number else ""))


@dataclass(frozen=True)
class Or:
    """The first of several patterns that lets the rest match."""

    choices: tuple[Pattern, ...]

    def match(self, value: Value | None, state: State, trace: Trace | None) -> Iterator[State]:
        for choice in self.choices:
            yield from as_pattern(choice).match(value, state, trace)


class Op:
    """A node of one of `ops`, reached through its output `output`.

    Operands match by position (in any order with `commutative`); operands beyond those listed must be absent, unless
    `rest`. `attrs` maps names to the value wanted or a predicate (given None where the attribute is absent).
    """

    def __init__(
        self,
        ops: str | Sequence[str],
        *operands: Pattern,
        name: str | None = None,
        attrs: Mapping[str, Anything] | None = None,
        commutative: bool = False,
        shared: bool = False,
        rest: bool = False,
        output: int = 0,
    ) -> None:
        self.ops = frozenset((ops,) if isinstance(ops, str) else ops)
        self.operands = operands
        self.name, self.attrs = name, dict(attrs or {})
        self.commutative, self.shared, self.rest, self.output = commutative, shared, rest, output

    def match(self, value: Value | None, state: State, trace: Trace | None) -> Iterator[State]:
        node = value.producer if value is not None else None
        if node is None or value is None or value.index != self.output:
            if trace and value is not None:
                trace.miss(state, f"%{value.name} is no output of {self._ops_text}")
            return
        yield from self.match_node(node, state, trace, root=False)

    def match_node(self, node: Node, state: State, trace: Trace | None, root: bool = True) -> Iterator[State]:
        if node.op not in self.ops:
            if trace:
                trace.miss(state, f"{node.name} is {node.op}, not {self._ops_text}")
            return
        for key, wanted in self.attrs.items():
            found = node.attrs.get(key)
            if not (wanted(found) if callable(wanted) else found == wanted):
                if trace:
                    trace.miss(state, f"{node.op} {node.name} has {key}={found!r}")
                return
        extra = node.inputs[len(self.operands) :]
        if not self.rest and any(v is not None for v in extra):
            if trace:
                trace.miss(state, f"{node.op} {node.name} has more than {len(self.operands)} operands")
            return
        inner = state.inner if root or self.shared else (*state.inner, node)
        state = replace(state, nodes=(*state.nodes, node), inner=inner).capture(self.name, node)
        values = [node.input(i) for i in range(len(self.operands))]
        orders = permutations(values) if self.commutative else (values,)
        for order in orders:
            yield from _match_all(self.operands, list(order), state, trace)

    @property
    def _ops_text(self) -> str:
        return " or ".join(sorted(self.ops))


Pattern = Union[str, None, Any, Const, Scalar, Or, Op]  # noqa: UP007  (evaluated before all names are)


@dataclass(frozen=True)
class _Omitted:
    def match(self, value: Value | None, state: State, trace: Trace | None) -> Iterator[State]:
        if value is None:
            yield state
        elif trace:
            trace.miss(state, f"%{value.name} is given where an operand must be omitted")


def as_pattern(pattern: Pattern) -> Any | Const | Scalar | Or | Op | _Omitted:
    if pattern is None:
        return _Omitted()
    return Any(pattern) if isinstance(pattern, str) else pattern


def _match_all(
    patterns: Sequence[Pattern], values: Sequence[Value | None], state: State, trace: Trace | None
) -> Iterator[State]:
    if not patterns:
        yield state
        return
    for found in as_pattern(patterns[0]).match(values[0], state, trace):
        yield from _match_all(patterns[1:], values[1:], found, trace)


def matches(pattern: Op, root: Node, trace: Trace | None = None) -> Iterator[State]:
    """Every way the pattern matches with `root` as its root whose inner values have no readers outside."""
    for state in pattern.match_node(root, State(), trace):
        outside = _outside_reader(state)
        if outside is None:
            yield state
        elif trace:
            trace.miss(state, outside)


def _outside_reader(state: State) -> str | None:
    nodes = set(state.nodes)
    for node in state.inner:
        for value in node.outputs:
            for use in value.uses:
                if isinstance(use.user, Graph):
                    return f"%{value.name} is an output of the graph"
                if use.user not in nodes:
                    return f"%{value.name} is also read by {use.user.op} {use.user.name}"
    return None


def scalar_of(value: Value | None) -> float | None:
    """The number a numeric constant of one element holds, else None."""
    if value is None or value.data is None or value.data.size != 1 or value.data.dtype.kind not in "fiubV":
        return None
    return float(value.data.reshape(-1)[0])


def _same_constant(a: Value, b: Value) -> bool:
    if a.data is None or b.data is None or a.type != b.type:
        return False
    return a.data is b.data or (a.data.size <= 4096 and np.array_equal(a.data, b.data))
