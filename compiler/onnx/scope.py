"""Names on import: which value a name stands for, and constants made when they are first read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from ..ir import Attr, Graph, Value
from .tensors import ExternalData, sparse_to_array, to_array

if TYPE_CHECKING:
    import onnx


class Scope:
    """The names of one graph or function, over those of the graph around it."""

    def __init__(
        self,
        graph: Graph,
        opsets: dict[str, int],
        external: ExternalData,
        outer: Scope | None = None,
        attrs: dict[str, Attr] | None = None,
    ) -> None:
        self.graph, self.opsets, self.external, self.outer = graph, opsets, external, outer
        inherited: dict[str, Attr] = outer.attrs if outer is not None else {}
        self.attrs: dict[str, Attr] = inherited if attrs is None else attrs  # of the call of the function
        self.results: dict[str, str] = {}  # what a function's outputs are called by its caller
        self._values: dict[str, Value | None] = {}
        self._tensors: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = {}

    def add_initializers(self, graph: onnx.GraphProto) -> None:
        """Notes the constants of a graph; each becomes a Value when it is first looked up."""
        for name, tensor in (
            *((t.name, t) for t in graph.initializer),
            *((s.values.name, s) for s in graph.sparse_initializer),
        ):
            if not name or name in self._tensors:
                raise ModelError("two initializers of the same name" if name else "an initializer without name",
                                 node=name or None)  # fmt: skip
            self._tensors[name] = tensor

    def is_initializer(self, name: str) -> bool:
        return name in self._tensors

    def define(self, name: str, value: Value | None, what: str) -> None:
        """Binds a name. Raises ModelError if this scope has it already."""
        if name in self._values or name in self._tensors:
            raise ModelError(f"{what} defines a name that is taken", node=name)
        self._values[name] = value

    def knows(self, name: str) -> bool:
        inside = name in self._values or name in self._tensors
        return inside or (self.outer is not None and self.outer.knows(name))

    def value(self, name: str, reader: str) -> Value | None:
        """The value of a name; None for an omitted input of a function. Raises ModelError if nothing defines it."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._values:
                return scope._values[name]
            if name in scope._tensors:
                scope._values[name] = value = scope._constant(name, scope._tensors[name])
                return value
            scope = scope.outer
        raise ModelError(
            f"reads {name!r}, which nothing defines", node=reader, hint="An initializer or a node may be missing."
        )

    def _constant(self, name: str, tensor: onnx.TensorProto | onnx.SparseTensorProto) -> Value:
        import onnx

        dense = isinstance(tensor, onnx.TensorProto)
        return self.graph.constant((to_array if dense else sparse_to_array)(tensor, self.external), name)


def sorted_nodes(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes in an order in which every value is made before it is read, theirs if it is one.

    Raises ModelError if two nodes make the same value, or if nodes wait for each other.
    """
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in makers:
                raise ModelError(
                    "two nodes define the same output", node=name, found=_named(nodes, [makers[name], index])
                )
            makers[name] = index
    reads = [{makers[n] for n in free_names(node) if n in makers} for node in nodes]
    if all(max(r, default=-1) < index for index, r in enumerate(reads)):
        return list(nodes)
    order: list[int] = []
    done: set[int] = set()
    path: dict[int, None] = {}
    for root in range(len(nodes)):
        stack = [] if root in done else [(root, iter(sorted(reads[root])))]
        path = dict.fromkeys(index for index, _ in stack)
        while stack:
            index, rest = stack[-1]
            following = next((i for i in rest if i not in done), None)
            if following is None:
                stack.pop()
                del path[index]
                done.add(index)
                order.append(index)
            elif following in path:
                cycle = list(path)[list(path).index(following) :]
                raise ModelError("the graph has a cycle: nodes wait for each other", found=_named(nodes, cycle))
            else:
                path[following] = None
                stack.append((following, iter(sorted(reads[following]))))
    return [nodes[i] for i in order]


def _named(nodes: Sequence[onnx.NodeProto], indices: Iterable[int]) -> str:
    return ", ".join(node_name(nodes[i]) for i in indices)


def node_name(node: onnx.NodeProto) -> str:
    """Its name, or that of its first output."""
    return node.name or next(filter(None, node.output), node.op_type)


def free_names(node: onnx.NodeProto) -> set[str]:
    """The names a node reads, those its subgraphs take from around them included."""
    names = set(filter(None, node.input))
    for attribute in node.attribute:
        if attribute.HasField("g"):
            graph = attribute.g
            inner = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            inner |= {s.values.name for s in graph.sparse_initializer}
            inner |= {o for n in graph.node for o in n.output}
            reads = {n for child in graph.node for n in free_names(child)} | {o.name for o in graph.output}
            names |= reads - inner
    return names


def warn_if_not_finite(value: Value) -> str | None:
    """A line about NaNs in a float constant, else None. Reduces without a temporary of the array's size."""
    data = value.data
    if data is None or not value.type.dtype.is_float or data.size == 0:
        return None
    return f"constant {value.name} holds NaN" if np.isnan(data.min()) else None
