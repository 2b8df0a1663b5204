"""If, Loop and Scan: their bodies are inferred with them. optc.Trap: a branch of an If that cannot be run.

A carried value that changes shape from turn to turn has a data symbol where it changes, inside the body and after it.
A symbol made inside a body means nothing outside, so every dim that holds one becomes a new symbol there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import ShapeError
from ..ir import Graph, Node, Value, captures
from ..types import Dim, DType, Shape, TensorType, free_symbols, fresh_dim, is_fresh, same_dim
from . import content as c
from . import dims
from .base import Op, attr_int, attr_ints, axis_of, dim_of, fail, infer_graph, register

TRAP = "optc.Trap"


def _body(node: Node, name: str) -> Graph:
    graph = node.attrs.get(name)
    if not isinstance(graph, Graph):
        fail(node, f"attribute {name} must be a graph")
    return graph


def _symbols(values: Iterable[Value | None]) -> set[object]:
    """The symbols in the shapes and contents of these values."""
    found: set[object] = set()
    for value in values:
        if value is not None:
            found |= free_symbols(value.type.shape or ())
            if value.content is not None:
                found |= free_symbols(d for d in value.content.flat if not isinstance(d, bool))
    return found


def _visible(node: Node) -> set[object]:
    """The symbols that mean something outside the node's bodies."""
    return _symbols(node.inputs) | _symbols(v for g in node.subgraphs.values() for v in captures(g))


def _outside(dim: Dim, visible: set[object], hint: str) -> Dim:
    return dim if free_symbols([dim]) <= visible else fresh_dim(hint)


def _merged(node: Node, types: Sequence[TensorType], visible: set[object]) -> TensorType:
    """What is known of a value that is of one of these types, each perhaps from inside a body."""
    first = types[0]
    if len({t.dtype for t in types}) > 1:
        fail(node, "the ways to a result differ in dtype", found=" and ".join(str(t) for t in types))
    if any(t.shape is None or len(t.shape) != first.rank for t in types):
        return TensorType(first.dtype, None)
    columns = zip(*(t.dims for t in types), strict=True)
    merged = (d[0] if all(same_dim(d[0], other) for other in d[1:]) else fresh_dim("if") for d in columns)
    return TensorType(first.dtype, tuple(_outside(d, visible, "if") for d in merged))


@register
class Trap(Op):
    """Fails when it runs, with the attribute `message`; its outputs are never made and have any type."""

    name = TRAP
    deterministic = False

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [v.type for v in node.outputs]


def make_trap(branch: Graph, outputs: int, message: str) -> None:
    """Puts a Trap in place of a branch that the shapes rule out; inferring the If gives its outputs their types."""
    branch.clear()
    trap = branch.emit(TRAP, [], {"message": message}, types=[TensorType(DType.F32, None)] * outputs)
    branch.set_outputs(trap.outputs)


def is_trap(branch: Graph) -> bool:
    """True if running the branch always fails."""
    return any(n.op == TRAP for n in branch.nodes)


@register
class If(Op):
    """Where the condition is known, the result is the taken branch's; else what both agree on, or what the only one
    gives that can run."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        branches = {True: _body(node, "then_branch"), False: _body(node, "else_branch")}
        for branch in branches.values():
            if len(branch.outputs) != len(node.outputs):
                fail(node, f"branch {branch.name} has another number of outputs", expected=len(node.outputs))
        taken = self._taken(node)
        failures: dict[bool, ShapeError] = {}
        for condition, branch in branches.items():
            try:
                infer_graph(branch)
            except ShapeError as failure:
                failures[condition] = failure
        for condition, error in failures.items():
            if taken is condition or len(failures) == len(branches):
                raise error
            if taken is None:  # a branch that is never taken need not fit: exporters write both, by the shape
                make_trap(branches[condition], len(node.outputs), f"{node.name}: a branch cannot run: {error}")
        if taken is not None:
            branches = {taken: branches[taken]}
        can_run = [b for b in branches.values() if not is_trap(b)]
        visible = _visible(node)
        outputs = zip(*(b.outputs for b in can_run or branches.values()), strict=True)
        types = [_merged(node, [v.type for v in values], visible) for values in outputs]
        for branch in branches.values():
            for value, type in zip(branch.outputs, types, strict=True):
                if value.producer is not None and value.producer.op == TRAP:
                    value.type = type
        return types

    def contents(self, node: Node) -> Sequence[np.ndarray | None]:
        taken, visible = self._taken(node), _visible(node)
        if taken is None:
            return [None] * len(node.outputs)
        values = _body(node, "then_branch" if taken else "else_branch").outputs
        return [v.content if _symbols([v]) <= visible else None for v in values]

    @staticmethod
    def _taken(node: Node) -> bool | None:
        condition = c.content_of(node.input(0))
        return None if condition is None or condition.size != 1 else bool(condition.flat[0])


def _settle(
    node: Node, body: Graph, inputs: Sequence[Value], outputs: Sequence[Value], carried: Sequence[Value]
) -> None:
    """Infers a body until the types of its carried inputs hold for every turn.

    `inputs[i]` is the body's input that starts as `carried[i]` and is `outputs[i]` from the second turn on.
    """
    outer = _visible(node)
    starts = [_start_type(i.type, start.type, outer) for i, start in zip(inputs, carried, strict=True)]
    if starts != [i.type for i in inputs]:
        _forget(body)
    for value, start in zip(inputs, starts, strict=True):
        value.type, value.content = start, None
    infer_graph(body)
    while True:
        widened = [_widened(node, i.type, o.type, outer) for i, o in zip(inputs, outputs, strict=True)]
        if all(w == i.type for w, i in zip(widened, inputs, strict=True)):
            return
        for value, type in zip(inputs, widened, strict=True):
            value.type = type
        _forget(body)
        infer_graph(body)


def _start_type(old: TensorType, start: TensorType, outer: set[object]) -> TensorType:
    """The type of the first turn, with the symbols that an earlier inference gave to dims that change."""
    if old.shape is None or start.shape is None or len(old.shape) != len(start.shape):
        return start
    shape = (o if is_fresh(o) and o not in outer else s for o, s in zip(old.shape, start.shape, strict=True))
    return start.with_shape(shape)


def _widened(node: Node, type: TensorType, following: TensorType, outer: set[object]) -> TensorType:
    """A type that holds for both; a dim that was widened before stays."""
    if type.dtype is not following.dtype:
        fail(node, "a carried value changes its dtype", expected=type.dtype.text, found=following.dtype.text)
    if type.shape is None or following.shape is None or len(type.shape) != len(following.shape):
        return TensorType(type.dtype, None)
    shape: list[Dim] = []
    for old, new in zip(type.shape, following.shape, strict=True):
        settled = same_dim(old, new) or (is_fresh(old) and old not in outer)
        shape.append(old if settled else fresh_dim("carried"))
    return type.with_shape(shape)


def _forget(graph: Graph) -> None:
    """Drops all inferred types: they came from carried types that proved too narrow."""
    for node in graph.all_nodes():
        for value in node.outputs:
            value.type, value.content = TensorType(value.type.dtype, None), None


@register
class Loop(Op):
    """M, cond, carried values -> carried values, scan outputs. The body: (turn, cond, carried) -> (cond, ...)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        body = _body(node, "body")
        count = max(0, len(node.inputs) - 2)  # trailing operands may be omitted
        if len(body.inputs) != count + 2 or len(body.outputs) != len(node.outputs) + 1 or len(node.outputs) < count:
            found = f"{len(body.inputs)} inputs and {len(body.outputs)} outputs"
            fail(node, "the body does not fit", expected=f"{count + 2} and {len(node.outputs) + 1}", found=found)
        for value, dtype in zip(body.inputs, (DType.I64, DType.BOOL), strict=False):
            one = value.type.shape is not None and len(value.type.shape) == 1  # some exporters declare [1]
            value.type, value.content = TensorType(dtype, (1,) if one else ()), None
        carried = [node.operand(i + 2) for i in range(count)]
        inputs, outputs = body.inputs[2:], body.outputs[1 : count + 1]
        _settle(node, body, inputs, outputs, carried)
        visible = _visible(node)
        finals = [
            _merged(node, [start.type, value.type], visible) for start, value in zip(carried, outputs, strict=True)
        ]
        turns = self._turns(node, body)
        return [*finals, *(_stacked(v.type, 0, turns, visible) for v in body.outputs[count + 1 :])]

    @staticmethod
    def _turns(node: Node, body: Graph) -> Dim:
        """M where the condition can never end the loop, else a data symbol."""
        limit = dim_of(node, 0)
        start, going = c.content_of(node.input(1)), body.outputs[0]
        while going.producer is not None and going.producer.op == "Identity":
            going = going.producer.operand(0)
        known = c.content_of(going)
        endless = going is body.inputs[1] or (known is not None and all(known.flat))
        starts = node.input(1) is None or (start is not None and all(start.flat))
        return dims.larger(0, limit) if limit is not None and endless and starts else fresh_dim("turns")


def _stacked(type: TensorType, axis: int, count: Dim, visible: set[object]) -> TensorType:
    """The type of `count` elements stacked along a new axis."""
    if type.shape is None:
        return type
    shape = [_outside(d, visible, "scan") for d in type.shape]
    axis += len(shape) + 1 if axis < 0 else 0
    return type.with_shape((*shape[:axis], count, *shape[axis:]))


@register
class Scan(Op):
    """Carried values, scan inputs -> carried values, scan outputs; one turn an element along each input's axis."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        body = _body(node, "body")
        scanned = attr_int(node, "num_scan_inputs", 0)
        count = len(node.inputs) - scanned
        if len(body.inputs) != len(node.inputs) or len(body.outputs) != len(node.outputs) or count < 0:
            found = f"{len(body.inputs)} inputs and {len(body.outputs)} outputs"
            fail(node, "the body does not fit", expected=f"{len(node.inputs)} and {len(node.outputs)}", found=found)
        turns = self._set_elements(node, body, count)
        carried = [node.operand(i) for i in range(count)]
        _settle(node, body, body.inputs[:count], body.outputs[:count], carried)
        visible = _visible(node)
        finals = [_merged(node, [a.type, b.type], visible) for a, b in zip(carried, body.outputs[:count], strict=True)]
        rest = body.outputs[count:]
        axes = attr_ints(node, "scan_output_axes") or (0,) * len(rest)
        return [*finals, *(_stacked(v.type, a, turns, visible) for v, a in zip(rest, axes, strict=True))]

    @staticmethod
    def _set_elements(node: Node, body: Graph, count: int) -> Dim:
        """Gives the body's scan inputs their types; returns the number of turns."""
        lengths: list[Dim] = []
        axes = attr_ints(node, "scan_input_axes") or (0,) * (len(node.inputs) - count)
        for value, index, axis in zip(body.inputs[count:], range(count, len(node.inputs)), axes, strict=True):
            type = node.operand(index).type
            element: Shape | None = None
            if type.shape is not None:
                axis = axis_of(node, axis, type.rank)
                lengths.append(type.shape[axis])
                element = (*type.shape[:axis], *type.shape[axis + 1 :])
            value.type, value.content = type.with_shape(element), None
        if len({d for d in lengths if isinstance(d, int)}) > 1:
            fail(node, "scan inputs differ in length", found=lengths)
        return min(lengths, key=dims.complexity) if lengths else fresh_dim("turns")
