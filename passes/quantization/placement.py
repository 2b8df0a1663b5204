"""Where a graph is quantized: which layers compute in integers and which values are stored in 8 bits.

A layer is a product with constant weights (Conv, ConvTranspose, MatMul, Gemm). Its activation is always quantized. In
between, what a kernel keeps in registers stays float: a layer's sum on its way through bias, activation and residual
add meets QuantizeLinear once, where it is stored. So of the two operands of a residual add only the stored one is
quantized. What leaves convolutions for other memory-bound ops (pools, concat, resize, adds) is stored in 8 bits too;
the float islands of a transformer (softmax, norms, the residual stream) keep their floats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import networkx as nx

from ...compiler.ir import Graph, Node, Use, Value
from ...compiler.ops.base import op_of
from ...compiler.types import DType
from ..regions import partition

SAME_SCALE = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "MaxPool", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split",
        "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Ops that give elements they were given: what goes in and what comes out share one scale."""
_MEAN = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})
_PRODUCTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
_SPATIAL = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Placement:
    """`layers`: nodes to compute in integers. `values`: what is quantized, by group of equal scale. `readers`: the
    uses of each value that read it quantized."""

    layers: tuple[Node, ...]
    groups: tuple[tuple[Value, ...], ...]
    readers: dict[Value, tuple[Use, ...]] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Value, ...]:
        return tuple(v for group in self.groups for v in group)


def is_layer(node: Node) -> bool:
    """A product in float32 with constant weights of the rank that integer kernels take."""
    if node.op not in _PRODUCTS or node.operand(0).type.dtype is not DType.F32:
        return False
    x, w = node.operand(0), node.operand(1)
    if w.data is None or x.type.shape is None or x.data is not None:
        return False
    if node.op in ("Gemm", "MatMul"):
        plain = node.attrs.get("transA", 0) == 0 and node.attrs.get("alpha", 1.0) == 1.0
        return w.type.rank == 2 and x.type.rank >= 2 and plain and node.attrs.get("beta", 1.0) == 1.0
    return 3 <= x.type.rank <= 5


def place(graph: Graph, float_layers: Collection[str] = ()) -> Placement:
    """The placement for a float graph of ONNX ops; layers named in `float_layers` (Node.name) stay float.

    Subgraphs of If, Loop and Scan stay float.
    """
    layers = [n for n in graph.nodes if is_layer(n) and n.name not in float_layers]
    return _Placer(graph, layers).place()


def _is_pointwise(node: Node) -> bool:
    """A BatchNormalization left behind a Concat is a factor and a term a channel."""
    plain = op_of(node).pointwise or (node.op == "BatchNormalization" and len(node.outputs) == 1)
    return plain and all(v.type.shape is not None for v in node.outputs)


class _Placer:
    def __init__(self, graph: Graph, layers: list[Node]) -> None:
        self.graph, self.layers = graph, layers
        self.is_layer = set(layers)
        regions = partition(graph, _is_pointwise, lambda node: node in self.is_layer or node.op in _MEAN)
        self.region = {node: region for region in regions for node in region.nodes}
        self.born = self._born()
        self.read = self._read()

    def place(self) -> Placement:
        wanted: dict[Value, tuple[Use, ...]] = {}
        for value in self.graph.values():
            if value.is_constant or value.type.dtype is not DType.F32:
                continue
            uses = tuple(u for u in value.uses if self._reads_quantized(value, u))
            if uses:
                wanted[value] = uses
        return Placement(tuple(self.layers), tuple(self._groups(wanted)), wanted)

    def _reads_quantized(self, value: Value, use: Use) -> bool:
        user = use.user
        if not isinstance(user, Node):
            return False
        if user in self.is_layer:
            return use.slot == 0
        if value not in self.born or self._in_registers(value):
            return False
        # what is stored between convolutions: quantized if that serves a later one, whatever the reader between
        return self._friendly(user) and (value in self.read or user.op in _MEAN) and not self._shared_with_floats(value)

    def _friendly(self, node: Node) -> bool:
        """Reads and writes 8 bits as well as floats."""
        return node.op in SAME_SCALE or node.op in _MEAN or _is_pointwise(node)

    def _shared_with_floats(self, value: Value) -> bool:
        """Somebody needs the floats anyway."""
        users = [u.user for u in value.uses]
        return any(not isinstance(u, Node) or not (u in self.is_layer or self._friendly(u)) for u in users)

    def _in_registers(self, value: Value) -> bool:
        """A kernel hands it from its sum to the pointwise ops behind it without storing it."""
        own = self.region.get(value.producer) if value.producer is not None else None
        return own is not None and all(isinstance(u.user, Node) and self.region.get(u.user) is own for u in value.uses)

    def _born(self) -> set[Value]:
        """What comes from a convolution by ops that can carry 8 bits."""
        born: set[Value] = set()
        for node in self.graph.nodes:
            root = node in self.is_layer and node.op in _SPATIAL
            if root or (self._friendly(node) and any(v in born for v in node.inputs)):
                born.update(v for v in node.outputs if v.type.dtype is DType.F32)
        return born

    def _read(self) -> set[Value]:
        """What reaches a layer by such ops."""
        read: set[Value] = set()
        for node in reversed(list(self.graph.nodes)):
            if node in self.is_layer:
                read.add(node.operand(0))
            elif self._friendly(node) and any(v in read for v in node.outputs):
                read.update(v for v in node.inputs if v is not None)
        return read

    def _groups(self, wanted: Iterable[Value]) -> list[tuple[Value, ...]]:
        """Quantized values joined where an op needs one scale on both its sides."""
        links = nx.Graph()
        wanted = list(wanted)
        links.add_nodes_from(wanted)
        for node in self.graph.nodes:
            if node.op in SAME_SCALE:
                ends = [v for v in (*node.inputs, *node.outputs) if v in links]
                nx.add_path(links, ends)
        position = {v: i for i, v in enumerate(wanted)}
        groups = [sorted(group, key=position.__getitem__) for group in nx.connected_components(links)]
        return [tuple(g) for g in sorted(groups, key=lambda g: position[g[0]])]
