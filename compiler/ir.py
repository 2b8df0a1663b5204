"""The IR: a mutable SSA graph with frozen leaves.

`Value` is produced once and knows its uses; `Node` is one operator; `Graph` is the only thing that mutates either.
Identity is equality. A subgraph (If, Loop, Scan, a fused region) is a Graph in a node's attributes; its nodes may use
values of the graphs around it directly. The op vocabulary is ONNX's at one opset: `op` is "Conv" for ai.onnx and
"domain.Name" for all others, optc's own included ("optc.Conv").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

import numpy as np

from .types import DType, TensorType

Attr = Union[int, float, str, bytes, DType, np.ndarray, "Graph", tuple[Any, ...]]


class Use(NamedTuple):
    """One place a value is read: operand `slot` of a node, or output `slot` of a graph."""

    user: Node | Graph
    slot: int


@dataclass(frozen=True)
class Loc:
    """Where a node came from: the ONNX node names behind it and the rules that made it, oldest first."""

    names: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    def merged(self, *others: Loc, rule: str | None = None) -> Loc:
        """The union of the origins, in order, with `rule` noted as what made the new node."""
        names = dict.fromkeys(n for loc in (self, *others) for n in loc.names)
        rules = dict.fromkeys(r for loc in (self, *others) for r in loc.rules)
        if rule:
            rules[rule] = None
        return Loc(tuple(names), tuple(rules))

    def __str__(self) -> str:
        return "+".join(self.names) or "?"


class Value:
    """A tensor in a graph.

    `data` is set on constants (read-only, memory-mapped where large). `content` is set where inference knows the
    elements of a small integer tensor as dims (ints or expressions): an object array of the value's shape.
    """

    __slots__ = ("_uses", "content", "data", "index", "name", "producer", "type")

    def __init__(self, name: str, type: TensorType, data: np.ndarray | None = None) -> None:
        self.name = name
        self.type = type
        self.data = data
        self.content: np.ndarray | None = None
        self.producer: Node | None = None
        self.index = 0  # which output of the producer
        self._uses: dict[tuple[int, int], Use] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        return tuple(self._uses.values())

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read this value, each once, graph outputs left out."""
        return tuple(dict.fromkeys(u.user for u in self._uses.values() if isinstance(u.user, Node)))

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def is_output(self) -> bool:
        """True if a graph returns it."""
        return any(isinstance(u.user, Graph) for u in self._uses.values())

    @property
    def single_user(self) -> Node | None:
        """The node that is this value's only use, else None."""
        if len(self._uses) != 1:
            return None
        user = next(iter(self._uses.values())).user
        return user if isinstance(user, Node) else None

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operator. `inputs` may hold None for an omitted optional input. Change it through its Graph."""

    __slots__ = ("_next", "_prev", "attrs", "graph", "inputs", "loc", "op", "outputs")

    def __init__(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value],
        attrs: Mapping[str, Attr] | None = None,
        loc: Loc | None = None,
    ) -> None:
        self.op = op
        self.inputs: tuple[Value | None, ...] = tuple(inputs)
        self.outputs: tuple[Value, ...] = tuple(outputs)
        self.attrs: dict[str, Attr] = dict(attrs or {})
        self.loc = loc or Loc()
        self.graph: Graph | None = None
        self._prev: Node | None = None
        self._next: Node | None = None

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    @property
    def name(self) -> str:
        """What messages call this node: the ONNX names behind it, or its first output."""
        return str(self.loc) if self.loc.names else self.outputs[0].name

    def input(self, index: int) -> Value | None:
        """Operand `index`, None if omitted or beyond the end."""
        return self.inputs[index] if index < len(self.inputs) else None

    def operand(self, index: int) -> Value:
        """Operand `index`, which must be there."""
        value = self.inputs[index]
        if value is None:
            raise ValueError(f"{self.name}: operand {index} of {self.op} is omitted")
        return value

    @property
    def subgraphs(self) -> dict[str, Graph]:
        return {k: v for k, v in self.attrs.items() if isinstance(v, Graph)}

    def __repr__(self) -> str:
        ins = ", ".join("_" if v is None else f"%{v.name}" for v in self.inputs)
        return f"{', '.join(f'%{v.name}' for v in self.outputs)} = {self.op}({ins})"


@dataclass(eq=False, repr=False)
class Graph:
    """Nodes in topological order between inputs and outputs. All mutation goes through here.

    `outputs[i]` is returned under the name `output_names[i]`, whatever the value is called, so a rewrite may return
    another value without renaming it.
    """

    name: str = "main"
    inputs: list[Value] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._outputs: list[Value] = []
        self._head: Node | None = None
        self._tail: Node | None = None
        self._names: dict[str, int] = {}
        self.parent: Node | None = None  # the node whose attribute this subgraph is

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(self._outputs)

    @property
    def nodes(self) -> Iterator[Node]:
        """In order. The node at hand may be erased, and nodes inserted anywhere, while iterating."""
        node = self._head
        while node is not None:
            following = node._next
            yield node
            node = following if node.graph is None else node._next
            while node is not None and node.graph is None:
                node = node._next

    def all_nodes(self) -> Iterator[Node]:
        """The nodes of this graph and, after each, those of its subgraphs."""
        for node in self.nodes:
            yield node
            for sub in node.subgraphs.values():
                yield from sub.all_nodes()

    def values(self) -> Iterator[Value]:
        """Inputs, then constants and node outputs where they first appear (subgraphs not entered)."""
        seen: set[Value] = set(self.inputs)
        yield from self.inputs
        for node in self.nodes:
            for value in (*node.inputs, *node.outputs):
                if value is not None and value not in seen:
                    seen.add(value)
                    yield value
        for value in self._outputs:
            if value not in seen:
                seen.add(value)
                yield value

    def constants(self) -> list[Value]:
        """The constants read by this graph's nodes, subgraphs included, or returned by it; each once."""
        found = dict.fromkeys(v for n in self.all_nodes() for v in n.inputs if v is not None and v.is_constant)
        found |= dict.fromkeys(v for v in self._outputs if v.is_constant)
        return list(found)

    def __len__(self) -> int:
        return sum(1 for _ in self.nodes)

    # --- building ------------------------------------------------------------------------------------------------

    def fresh_name(self, hint: str) -> str:
        """A value name no other value made through this graph tree has."""
        root = self.root
        count = root._names.get(hint)
        root._names[hint] = 0 if count is None else count + 1
        if count is None:
            return hint
        return self.fresh_name(f"{hint}.{count + 1}")

    @property
    def root(self) -> Graph:
        """The outermost graph."""
        graph = self
        while graph.parent is not None and graph.parent.graph is not None:
            graph = graph.parent.graph
        return graph

    def subgraph(self, name: str) -> Graph:
        """An empty graph to become an attribute of a node here; the two share one table of names from the start."""
        sub = Graph(name)
        sub._names = self.root._names
        return sub

    def add_input(self, name: str, type: TensorType) -> Value:
        value = Value(self.fresh_name(name), type)
        self.inputs.append(value)
        return value

    def constant(self, data: np.ndarray | float | int, hint: str = "const", dtype: DType | None = None) -> Value:
        """A new constant value; `data` is not copied unless its dtype must change."""
        array = np.asarray(data, dtype=dtype.numpy if dtype else None)
        type = TensorType(dtype or DType.from_numpy(array.dtype), tuple(int(d) for d in array.shape))
        value = Value(self.fresh_name(hint), type, array)
        if type.dtype in (DType.I64, DType.I32) and array.size <= 64:
            value.content = np.array([int(x) for x in array.reshape(-1)], dtype=object).reshape(array.shape)
        return value

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Attr] | None = None,
        *,
        types: Sequence[TensorType] | None = None,
        names: Sequence[str] | None = None,
        num_outputs: int = 1,
        before: Node | None = None,
        loc: Loc | None = None,
    ) -> Node:
        """Makes a node, infers its output types (unless given) and inserts it before `before`, or at the end.

        Raises ShapeError (of the op's inference) if the inputs do not fit.
        """
        if types is not None:
            num_outputs = len(types)
        hints = names or [(loc.names[-1] if loc and loc.names else op.rsplit(".", 1)[-1].lower())] * num_outputs
        unknown = TensorType(DType.F32, None)
        outputs = [Value(self.fresh_name(h), unknown) for h in hints]
        node = self.insert(Node(op, inputs, outputs, attrs, loc), before)
        if types is None:
            from .ops.base import infer_node

            infer_node(node)
        else:
            for value, type in zip(outputs, types, strict=True):
                value.type = type
        return node

    def insert(self, node: Node, before: Node | None = None) -> Node:
        """Puts a new (or detached) node before `before`, or at the end."""
        if node.graph is not None:
            raise ValueError(f"{node.name} is in a graph already")
        node.graph = self
        node._next = before
        node._prev = self._tail if before is None else before._prev
        if node._prev is None:
            self._head = node
        else:
            node._prev._next = node
        if before is None:
            self._tail = node
        else:
            before._prev = node
        for index, value in enumerate(node.inputs):
            _link(value, node, index)
        for index, output in enumerate(node.outputs):
            output.producer, output.index = node, index
        for sub in node.subgraphs.values():
            sub.parent = node
        return node

    def set_outputs(self, values: Iterable[Value], names: Iterable[str] | None = None) -> None:
        for index, old in enumerate(self._outputs):
            _unlink(old, self, index)
        self._outputs = list(values)
        for index, new in enumerate(self._outputs):
            _link(new, self, index)
        if names is not None:
            self.output_names = list(names)
        elif len(self.output_names) != len(self._outputs):
            self.output_names = [v.name for v in self._outputs]

    # --- rewriting -----------------------------------------------------------------------------------------------

    @staticmethod
    def set_input(node: Node, index: int, value: Value | None) -> None:
        """Replaces one operand (extending the operands with omitted ones as needed)."""
        inputs = list(node.inputs) + [None] * (index + 1 - len(node.inputs))
        if node.graph is not None:
            _unlink(inputs[index], node, index)
            _link(value, node, index)
        inputs[index] = value
        node.inputs = tuple(inputs)

    def set_inputs(self, node: Node, values: Sequence[Value | None]) -> None:
        """Replaces all operands."""
        for index, value in enumerate(node.inputs):
            _unlink(value, node, index)
        node.inputs = tuple(values)
        for index, value in enumerate(node.inputs):
            _link(value, node, index)

    def replace_uses(self, old: Value, new: Value) -> None:
        """Every reader of `old`, in this and all nested graphs, reads `new` instead."""
        if old is new:
            return
        for user, index in old.uses:
            if isinstance(user, Graph):
                _unlink(old, user, index)
                user._outputs[index] = new
                _link(new, user, index)
            else:
                self.set_input(user, index, new)

    def erase(self, node: Node) -> None:
        """Takes a node whose outputs nobody reads out of the graph; raises ValueError if one is read."""
        for value in node.outputs:
            if value._uses:
                raise ValueError(f"{node.name}: output {value.name} is still used by {value.uses[0].user!r}")
        self.detach(node)
        for index, operand in enumerate(node.inputs):
            _unlink(operand, node, index)
        for sub in node.subgraphs.values():
            sub.clear()

    def detach(self, node: Node) -> None:
        """Takes a node out of the order, its links kept: `insert` must follow, or `erase` do the rest."""
        before, after = node._prev, node._next
        if before is None:
            self._head = after
        else:
            before._next = after
        if after is None:
            self._tail = before
        else:
            after._prev = before
        node.graph = node._prev = None
        node._next = after  # kept, so that an iteration standing on this node goes on

    def move_before(self, node: Node, before: Node | None) -> None:
        """Moves a node of this graph to stand before `before` (None: at the end)."""
        self.detach(node)
        node._next = None
        self.insert(node, before)

    def clear(self) -> None:
        """Drops all outputs and nodes, unlinking what they read (a dead subgraph)."""
        self.set_outputs([], [])
        for node in reversed(list(self.nodes)):
            self.erase(node)

    def replace(self, node: Node, values: Sequence[Value]) -> None:
        """Readers of the node's outputs read `values` instead; then the node is erased."""
        for old, new in zip(node.outputs, values, strict=True):
            self.replace_uses(old, new)
        self.erase(node)

    def clone(self, mapping: dict[Value, Value] | None = None) -> Graph:
        """A deep copy; constants share data. `mapping` receives old to new values, and may hold captures to remap."""
        mapping = {} if mapping is None else mapping
        other = Graph(self.name, metadata=dict(self.metadata))
        other._names = dict(self._names)

        def copy_value(value: Value) -> Value:
            if value not in mapping:
                new = Value(value.name, value.type, value.data)
                new.content = value.content
                mapping[value] = new
            return mapping[value]

        def operand(value: Value | None) -> Value | None:
            if value is None:
                return None
            return copy_value(value) if value.is_constant else mapping.get(value, value)

        other.inputs = [copy_value(v) for v in self.inputs]
        for node in self.nodes:
            attrs = {k: v.clone(mapping) if isinstance(v, Graph) else v for k, v in node.attrs.items()}
            inputs = [operand(v) for v in node.inputs]
            other.insert(Node(node.op, inputs, [copy_value(v) for v in node.outputs], attrs, node.loc))
        other.set_outputs([v for v in map(operand, self._outputs) if v is not None], self.output_names)
        return other

    def __repr__(self) -> str:
        from .text import print_graph

        return print_graph(self)


def _link(value: Value | None, user: Node | Graph, index: int) -> None:
    if value is not None:
        value._uses[(id(user), index)] = Use(user, index)


def _unlink(value: Value | None, user: Node | Graph, index: int) -> None:
    if value is not None:
        del value._uses[(id(user), index)]


def captures(graph: Graph) -> list[Value]:
    """The non-constant values of outer graphs that this subgraph (or one inside it) reads, each once, in order."""
    own: set[Value] = set()
    found: dict[Value, None] = {}

    def visit(g: Graph) -> None:
        own.update(g.inputs)
        for node in g.nodes:
            for value in node.inputs:
                if value is not None and not value.is_constant and value not in own:
                    found[value] = None
            for sub in node.subgraphs.values():
                visit(sub)
            own.update(node.outputs)
        for value in g.outputs:
            if not value.is_constant and value not in own:
                found[value] = None

    visit(graph)
    return list(found)
