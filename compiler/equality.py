"""Structural equality and hash: both read one canonical form, in which names and node order have no part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from .ir import Attr, Graph, Node, Value
from .printing import attr_text, digest, print_node
from .types import Dim, TensorType, dim_text, free_symbols, symbol


def equal(a: Graph, b: Graph, *, names: bool = False) -> bool:
    """True if two graphs compute the same by the same nodes: see `difference`."""
    return difference(a, b, names=names) is None


def difference(a: Graph, b: Graph, *, names: bool = False) -> str | None:
    """The first difference between two graphs, or None.

    Value names, `loc` and the order of independent nodes are ignored, as are the names of data symbols (`_d3`);
    constants are compared by value. `names` also compares the names of graph inputs and outputs.
    """
    if names:
        for what, left, right in (
            ("input", [v.name for v in a.inputs], [v.name for v in b.inputs]),
            ("output", list(a.output_names), list(b.output_names)),
        ):
            if left != right:
                return f"{what} names differ: {left} and {right}"
    lines_a, lines_b = _Canonical().lines(a), _Canonical().lines(b)
    for (line_a, shown_a), (line_b, shown_b) in zip(lines_a, lines_b, strict=False):
        if line_a != line_b:
            return f"graphs differ at\n  {shown_a}\n  {shown_b}\nin canonical form\n  {line_a}\n  {line_b}"
    if len(lines_a) != len(lines_b):
        longer, which = (lines_a, "first") if len(lines_a) > len(lines_b) else (lines_b, "second")
        return f"only the {which} graph has\n  {longer[min(len(lines_a), len(lines_b))][1]}"
    return None


def structural_hash(graph: Graph) -> str:
    """A hash (SHA-256, hex) that equal graphs share."""
    sha = hashlib.sha256()
    for line, _ in _Canonical().lines(graph):
        sha.update(line.encode())
        sha.update(b"\n")
    return sha.hexdigest()


class _Canonical:
    """Writes graphs with values numbered in the order in which the outputs need them."""

    def __init__(self) -> None:
        self.numbers: dict[Value, str] = {}
        self.symbols: dict[Dim, Dim] = {}
        self.dims: dict[Dim, str] = {}

    def lines(self, graph: Graph) -> list[tuple[str, str]]:
        """(canonical line, the line as printed) of the inputs, of each node, and of the outputs."""
        inputs = ", ".join(self.define(v) for v in graph.inputs)
        found = [(f"inputs {inputs}", f"graph {graph.name}({', '.join(map(repr, graph.inputs))})")]
        tail: list[tuple[str, str]] = []
        for node, live in _ordered(graph):
            (found if live else tail).append((self.node(node), print_node(node)))
            if live is False and len(tail) == 1:
                tail[0] = (f"unused {tail[0][0]}", tail[0][1])
        outputs = ", ".join(self.read(v) for v in graph.outputs)
        shown = ", ".join(f"%{v.name}" for v in graph.outputs)
        return [*found, (f"return {outputs}", f"return {shown}"), *tail]

    def node(self, node: Node) -> str:
        inputs = list(node.inputs)
        while inputs and inputs[-1] is None:
            inputs.pop()
        operands = ", ".join("_" if v is None else self.read(v) for v in inputs)
        attrs = ", ".join(f"{k}={self.attr(v)}" for k, v in sorted(node.attrs.items()))
        results = ", ".join(self.define(v) for v in node.outputs)
        return f"{results} = {node.op}({operands}) {{{attrs}}}"

    def attr(self, attr: Attr) -> str:
        if isinstance(attr, Graph):
            return "{" + "; ".join(line for line, _ in self.lines(attr)) + "}"
        return f"<{digest(attr)}>" if isinstance(attr, np.ndarray) else attr_text(attr)

    def define(self, value: Value) -> str:
        self.numbers[value] = f"%{len(self.numbers)}"
        return f"{self.numbers[value]}: {self.type(value.type)}"

    def read(self, value: Value) -> str:
        if value.data is not None:
            return f"<{digest(value.data)}>"
        return self.numbers.get(value, "%undefined")

    def type(self, type: TensorType) -> str:
        shape = "*" if type.shape is None else ",".join(map(self.dim, type.shape))
        return f"{type.dtype.text}[{shape}]"

    def dim(self, dim: Dim) -> str:
        if isinstance(dim, int):
            return str(dim)
        if dim not in self.dims:
            hidden = sorted((s for s in free_symbols([dim]) if s.name.startswith("_")), key=lambda s: str(s.name))
            for old in hidden:
                self.symbols.setdefault(old, symbol(f"_{len(self.symbols)}"))
            self.dims[dim] = dim_text(dim.xreplace({s: self.symbols[s] for s in hidden}))
        return self.dims[dim]


def _ordered(graph: Graph) -> Iterator[tuple[Node, bool]]:
    """Nodes depth first from the outputs, operands left to right (True), then unused ones as they stand (False)."""
    done: set[Node] = set()

    def needed(root: Value) -> Iterator[Node]:
        stack: list[tuple[Node, Iterator[Value]]] = []

        def push(value: Value) -> None:
            node = value.producer
            if node is not None and node.graph is graph and node not in done:
                done.add(node)
                stack.append((node, iter(_reads(node))))

        push(root)
        while stack:
            value = next(stack[-1][1], None)
            if value is None:
                yield stack.pop()[0]
            else:
                push(value)

    for output in graph.outputs:
        for node in needed(output):
            yield node, True
    for node in graph.nodes:
        if node not in done:
            done.add(node)
            yield node, False


def _reads(node: Node) -> list[Value]:
    """What a node needs, its subgraphs' needs included (values made inside are skipped by the caller)."""
    reads = [v for v in node.inputs if v is not None]
    for _, sub in sorted(node.subgraphs.items()):
        for inner, _ in _ordered(sub):
            reads += _reads(inner)
        reads += sub.outputs
    return reads
