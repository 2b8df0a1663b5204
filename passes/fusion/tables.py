"""What is computed from one byte alone has 256 results: a table of them instead of the arithmetic.

    Q(g(D(x), D(x), ...)) -> Lookup(x, [Q(g(D(0))), Q(g(D(1))), ..., Q(g(D(255)))])

g may quantize and dequantize inside: x sigmoid(x) in three quantized steps is one table. The results are what ONNX
Runtime computes when compiling.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.ops import quantize as quantization
from ...compiler.ops.base import op_of
from ...compiler.types import DType
from ..base import PassContext, register_pass
from ..rewrite import erase_dead
from ..simplify.fold import evaluate

_CHEAP = frozenset({
    "Abs", "Add", "Clip", "DequantizeLinear", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul",
    "Neg", "PRelu", "QuantizeLinear", "Relu", "Sub",
})  # fmt: skip
"""A few instructions a vector: no slower than a look-up, and free where they follow a product."""


@register_pass
@dataclass(frozen=True)
class ByteTables:
    """Makes a table of every byte that costs more than a few instructions to compute from another."""

    name: ClassVar[str] = "byte-tables"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        changed = 0
        finder = _Finder()
        for node in reversed(list(graph.all_nodes())):
            if node.op == "QuantizeLinear" and node.graph is not None:
                cone = finder.cone(node)
                if cone is not None and not all(n.op in _CHEAP for n in cone.nodes):
                    changed += _look_up(node, cone)
        ctx.count(self.name, changed)
        return changed > 0


@dataclass
class _Cone:
    """The nodes between the bytes `source` and a node."""

    source: Value
    nodes: dict[Node, None] = field(default_factory=dict)


class _Finder:
    """Finds cones, each node's once."""

    def __init__(self) -> None:
        self._found: dict[Node, _Cone | None] = {}

    def cone(self, node: Node) -> _Cone | None:
        """The largest cone that ends in `node`; None if it is not computed from one tensor of bytes alone."""
        if node not in self._found:
            self._found[node] = self._grow(node)
        return self._found[node]

    def _grow(self, node: Node) -> _Cone | None:
        if not _is_elementwise(node):
            return None
        if node.op == "DequantizeLinear":
            x = node.operand(0)
            before = self.cone(x.producer) if x.producer is not None and x.producer.op == "QuantizeLinear" else None
            if before is not None:
                return _Cone(before.source, {node: None, **before.nodes})
            return _Cone(x, {node: None}) if x.type.dtype is DType.U8 and not x.is_constant else None
        operands = [v for v in node.inputs if v is not None and not v.is_constant]
        cones = [self.cone(v.producer) if v.producer is not None else None for v in operands]
        first = cones[0] if cones else None
        if first is None or any(c is None or c.source is not first.source for c in cones):
            return None
        return _Cone(first.source, {node: None} | {n: None for c in cones if c is not None for n in c.nodes})


def _is_elementwise(node: Node) -> bool:
    """Whether each element is computed from one element of what is not constant, by constants of one element."""
    if not (op_of(node).pointwise or node.op in quantization.OPS) or node.op.startswith("optc.") or node.subgraphs:
        return False
    shape = node.output.type.shape
    given = [v for v in node.inputs if v is not None]
    if shape is None or len(node.outputs) != 1 or node.attrs.get("block_size", 0):
        return False
    if node.op == "QuantizeLinear" and node.output.type.dtype is not DType.U8:
        return False
    return all(v.data.size == 1 if v.data is not None else v.type.shape == shape for v in given)


def _look_up(last: Node, cone: _Cone) -> int:
    graph = last.graph
    assert graph is not None
    table = _table(graph, last, cone)
    if table is None:
        return 0
    operands = [cone.source, graph.constant(table, "table")]
    result = graph.emit("optc.Lookup", operands, before=last, names=[last.output.name], loc=last.loc).output
    result.type = last.output.type
    graph.replace(last, [result])
    erase_dead(cone.nodes)
    return 1


def _table(graph: Graph, last: Node, cone: _Cone) -> np.ndarray | None:
    """u8 [256]: what the cone makes of each byte."""
    scratch = Graph("table")
    copies: dict[Value, Value] = {cone.source: scratch.constant(np.arange(256, dtype=np.uint8), "bytes")}
    for node in graph.nodes:
        if node in cone.nodes:
            inputs = [None if v is None else copies.get(v) or _number(scratch, v) for v in node.inputs]
            copies[node.output] = scratch.emit(node.op, inputs, node.attrs).output
    (data,) = evaluate(list(scratch.nodes), [copies[last.output]])
    return data


def _number(graph: Graph, constant: Value) -> Value:
    return graph.constant(np.asarray(constant.data).reshape(()), constant.name, constant.type.dtype)
