"""Signed activations become unsigned: every int8 value that is computed gets a twin, 128 higher, of uint8.

D(q; s, z)              -> D(q + 128; s, z + 128)
Q(x; s, z)              -> Q(x; s, z + 128)
f(q) + 128               = f(q + 128)                     f moves bytes or picks the largest

A graph input (or any other int8 value) is moved by one cheap node, BitwiseXor(Cast(q, uint8), 128): adding 128 to a
byte flips its highest bit. An int8 value that is still wanted as such, a graph output, comes from its twin likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ....compiler.ir import Attr, Graph, Node, Value
from ....compiler.types import DType
from ...rewrite import erase_dead

_HALF = 128
_Places = Callable[[Node], Sequence[int]]
_MOVES: dict[str, _Places] = {
    op: lambda node: (0,)
    for op in (
        "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "MaxPool", "Reshape", "Slice",
        "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    )
} | {
    "Concat": lambda node: range(len(node.inputs)),
    "Pad": lambda node: (0, 2),
    "Where": lambda node: (1, 2),
}  # fmt: skip
"""Ops that give bytes they were given, and which of their operands those are."""

_READERS = {"DequantizeLinear": (0, 2), "MatMulInteger": (0, 2), "ConvInteger": (0, 2)}
"""Ops that subtract a zero point, with the places of the bytes and of the zero point."""


def make_unsigned(graph: Graph) -> int:
    """Rewrites every reader of a computed int8 value that has a zero point; returns how many there were."""
    twins = _Twins()
    readers = [node for node in graph.all_nodes() if node.op in _READERS and _is_signed(node)]
    for node in readers:
        twins.rewrite(node)
    twins.finish()
    return len(readers)


def _is_signed(node: Node) -> bool:
    x = node.operand(0)
    written = node.op != "DequantizeLinear" or node.input(2) is not None
    return x.type.dtype is DType.I8 and not x.is_constant and written


class _Twins:
    def __init__(self) -> None:
        self.made: dict[Value, Value] = {}  # of values that nodes of `_MOVES` or a QuantizeLinear make

    def rewrite(self, node: Node) -> None:
        """Has a reader take the twin."""
        data, point = _READERS[node.op]
        graph = _graph(node)
        zero = node.input(point) or graph.constant(np.int8(0), "zero_point")
        graph.set_input(node, data, self.twin(node.operand(data), node))
        graph.set_input(node, point, self.twin(zero, node))

    def twin(self, value: Value, reader: Node) -> Value:
        """`value` + 128, for a node that reads it."""
        if value.data is not None:
            return _graph(reader).constant((value.data.astype(np.int16) + _HALF).astype(np.uint8), value.name)
        if value in self.made:
            return self.made[value]
        producer = value.producer
        if producer is not None and producer.op == "QuantizeLinear" and producer.input(2) is not None:
            self._remake(producer, [2])
        elif producer is not None and producer.op in _MOVES and _is_plain(producer):
            self._remake(producer, _MOVES[producer.op](producer))
        else:
            return _shifted(_graph(reader), value, reader)
        return self.made[value]

    def _remake(self, node: Node, places: Sequence[int]) -> None:
        """Emits the node again over twins of some of its operands, for twins of its outputs."""
        graph = _graph(node)
        inputs = list(node.inputs) + [None] * (max(places) + 1 - len(node.inputs))
        for place in places:
            operand = inputs[place] or graph.constant(np.int8(0), "zero_point")  # what an omitted pad value is
            inputs[place] = self.twin(operand, node)
        attrs = {k: v for k, v in node.attrs.items() if k != "output_dtype"}
        types = [v.type.with_dtype(DType.U8) for v in node.outputs]
        names = [v.name for v in node.outputs]
        new = graph.emit(node.op, inputs, attrs, types=types, names=names, before=node, loc=node.loc)
        self.made |= dict(zip(node.outputs, new.outputs, strict=True))

    def finish(self) -> None:
        """Drops what nobody reads any more; whoever still reads an int8 value gets it from its twin."""
        for old, new in reversed(self.made.items()):
            node = old.producer
            if node is None or node.graph is None:
                continue
            if old.uses:
                node.graph.replace_uses(old, _unshifted(node.graph, new, node))
            erase_dead([node])


def _is_plain(node: Node) -> bool:
    """A move whose outputs are all bytes (a MaxPool may give indices too)."""
    return all(v.type.dtype is DType.I8 for v in node.outputs)


def _shifted(graph: Graph, value: Value, before: Node) -> Value:
    """int8 + 128 as uint8."""
    byte = _emit(graph, "Cast", [value], before, to=DType.U8)
    return _emit(graph, "BitwiseXor", [byte, graph.constant(np.uint8(_HALF))], before)


def _unshifted(graph: Graph, value: Value, before: Node) -> Value:
    """uint8 - 128 as int8."""
    byte = _emit(graph, "BitwiseXor", [value, graph.constant(np.uint8(_HALF))], before)
    return _emit(graph, "Cast", [byte], before, to=DType.I8)


def _emit(graph: Graph, op: str, inputs: Sequence[Value], before: Node, **attrs: Attr) -> Value:
    return graph.emit(op, inputs, attrs, before=before, loc=before.loc).output


def _graph(node: Node) -> Graph:
    if node.graph is None:
        raise ValueError(f"{node.name} is in no graph")
    return node.graph
