"""Mixed precision: tensors around matrix products and convolutions are stored in bfloat16.

    y = f(Conv(x, w) + b)   ->   y16 = bf16(f(ConvBF16(x16, bf16(w)) + b));  a reader that is no product reads f32(y16)

Products take bf16 operands and sum in f32. Everything else computes in f32: a Cast from bf16 costs nothing where it is
read, a Cast to bf16 is the one rounding where a region stores its result, and ops that only move elements move bf16.
Graph inputs and outputs keep their types.

A value is stored so if a product reads it, or if a region that computes a product or reads such a value makes it and
all its readers can read it. So what lies between products is in bf16, and what no product is near stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..compiler.ir import Graph, Node, Use, Value
from ..compiler.ops.base import attr_float, attr_int, op_of
from ..compiler.ops.fused import attention_dims, is_regular_attention
from ..compiler.types import DType
from .base import PassContext
from .regions import Region

READS_THROUGH: dict[str, tuple[int, ...]] = {
    "LayerNormalization": (0,),
    "RMSNormalization": (0,),
    "ReduceMean": (0,),
    "Resize": (0,),
    "optc.Attention": (0, 1, 2),
    "optc.AveragePool": (0,),
    "optc.Conv": (0,),
    "optc.MaxPool": (0,),
}
"""Ops with kernels that read these operands through a Cast from bf16 (optc.Conv: the depthwise ones, as all others are
products; optc.Attention: of heads that are whole tiles)."""
MOVES = frozenset({"Concat", "Expand", "Slice", "Split", "Tile", "Transpose", "optc.DepthToSpace"})
"""Ops that only move the elements of float operands; so do all views."""

HEAD_UNIT = 32
"""Elements of a head that a tile takes."""
PRODUCTS = ("optc.ConvBF16", "optc.MatMulBF16")


@dataclass(frozen=True)
class StoreBF16:
    """`regions` says how the backend will cut a graph."""

    regions: Callable[[Graph], Sequence[Region]] = field(repr=False)
    name: ClassVar[str] = "store-bf16"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Nested graphs (branches and bodies of loops) stay in f32."""
        choice = _Choice(graph)
        if not choice.products:
            return False
        choice.flow(self.regions(graph))
        ctx.count(self.name, _Rewriter(graph, choice).run())
        return True


def is_product(node: Node) -> bool:
    """A product of f32 whose second operand is constant, in a form that has a bf16 op."""
    if node.op not in ("optc.Conv", "MatMul", "Gemm", "optc.MatMul"):
        return False
    x, w, bias = node.operand(0), node.operand(1), node.input(2)
    if x.type.dtype is not DType.F32 or w.data is None or x.type.shape is None:
        return False
    if node.op == "optc.Conv":
        return isinstance(x.type.dims[-1], int) and not is_depthwise(node) and min(_pads(node), default=0) >= 0
    if x.type.rank < 2 or w.type.rank != 2 or attr_int(node, "transA", 0):
        return False
    return bias is None or (attr_float(node, "beta", 1.0) == 1.0 and _is_vector(bias, node.outputs[0]))


def is_depthwise(node: Node) -> bool:
    """An optc.Conv of each channel by itself."""
    x, w = node.operand(0), node.operand(1)
    return x.type.dims[-1] == attr_int(node, "group", 1) == w.type.dims[0] and w.type.dims[1] == 1


def _pads(node: Node) -> tuple[int, ...]:
    pads = node.attrs.get("pads", ())
    return tuple(int(p) for p in pads) if isinstance(pads, tuple) else ()


def _is_vector(bias: Value, out: Value) -> bool:
    """A bias along the last axis."""
    return bias.type.is_static and bias.type.rank > 0 and bias.type.numel == bias.type.dims[-1] == out.type.dims[-1]


class _Choice:
    """Which values are stored in bf16 (`stored`), and which moves go on in it (`moves`)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.products = {node for node in graph.nodes if is_product(node)}
        self.stored: dict[Value, None] = {}
        self.moves: set[Node] = set()
        self._takes: dict[Node, bool] = {}

    def flow(self, regions: Sequence[Region]) -> None:
        """Visits the regions in the order in which they run."""
        for region in regions:
            for node in region.nodes:
                if self._moves_on(node):
                    self.moves.add(node)
            for value in region.outputs:
                if self._is_stored(value, region):
                    self.stored[value] = None

    def _is_stored(self, value: Value, region: Region) -> bool:
        maker = value.producer
        if value.type.dtype is not DType.F32 or maker is None or value.type.shape is None or not value.uses:
            return False
        if maker in self.moves:
            return True
        if value.is_output or len(maker.outputs) > 1:
            return False
        if any(u.user in self.products and u.slot == 0 for u in value.uses):
            return True
        near = not self.products.isdisjoint(region.nodes) or any(v in self.stored for v in region.inputs)
        return near and self._writes(region) and all(map(self.takes, value.uses))

    def takes(self, use: Use) -> bool:
        """Whether a reader reads bf16 as easily as f32."""
        user = use.user
        if not isinstance(user, Node) or user.graph is not self.graph or user.subgraphs:
            return False
        if user in self.products:
            return use.slot == 0
        if op_of(user).pointwise or use.slot in READS_THROUGH.get(user.op, ()):
            return _FORMS.get(user.op, _any_form)(user)
        return use.slot in _moved(user) and self._passes_on(user)

    def _passes_on(self, node: Node) -> bool:
        """Whether a move's results could be bf16: none leaves the graph, and every reader takes them."""
        if node not in self._takes:
            self._takes[node] = all(all(map(self.takes, v.uses)) and not v.is_output for v in node.outputs)
        return self._takes[node]

    def _writes(self, region: Region) -> bool:
        """Whether a Cast behind the region becomes part of it: it ends pointwise or in an anchor that takes more."""
        last = region.last
        return op_of(last).pointwise or last in self.products or last.op in READS_THROUGH

    def _moves_on(self, node: Node) -> bool:
        moved = _moved(node)
        return bool(moved) and self._passes_on(node) and all(node.operand(i) in self.stored for i in moved)


def _any_form(_: Node) -> bool:
    return True


def has_whole_tiles(node: Node) -> bool:
    """An optc.Attention of heads whose sizes tiles of bfloat16 divide."""
    if not is_regular_attention(node):
        return False
    return all(attention_dims(node, i)[3] % HEAD_UNIT == 0 for i in (0, 2))


_FORMS: dict[str, Callable[[Node], bool]] = {"optc.Conv": is_depthwise, "optc.Attention": has_whole_tiles}
"""For ops of READS_THROUGH of which only some read so."""


def _moved(node: Node) -> Sequence[int]:
    """The operands whose elements a node moves."""
    if node.op == "Concat":
        return range(len(node.inputs))
    return (0,) if node.op in MOVES or (op_of(node).view and node.op != "Cast") else ()


class _Rewriter:
    def __init__(self, graph: Graph, choice: _Choice) -> None:
        self.graph, self.choice = graph, choice
        self._short: dict[Value, Value] = {}
        """What is stored in bf16: values moved in it themselves, else what a Cast makes of them."""
        self._rounded: dict[Value, Value] = {}
        """Other operands of products and weights, rounded for them alone."""

    def run(self) -> int:
        """Returns the number of values stored in bf16."""
        for node in list(self.graph.nodes):
            stored = [v in self.choice.stored for v in node.outputs]
            if node in self.choice.moves:
                for slot in _moved(node):
                    self.graph.set_input(node, slot, self._short[node.operand(slot)])
                for value in node.outputs:
                    value.type = value.type.with_dtype(DType.BF16)
                    self._short[value] = value
                continue
            if node in self.choice.products:
                node = self._product(node)
            self._widen_operands(node, 2 if node.op in PRODUCTS else 0)
            for value, is_stored in zip(node.outputs, stored, strict=True):
                if is_stored:
                    self._short[value] = self._cast(value, DType.BF16, node._next)
        return len(self._short)

    def _cast(self, value: Value, to: DType, before: Node | None) -> Value:
        loc = value.producer.loc if value.producer else None
        return self.graph.emit("Cast", [value], {"to": to}, names=[value.name], before=before, loc=loc).output

    def _widen_operands(self, node: Node, first: int) -> None:
        """From operand `first` on. Each reader has its own Cast, right before it, that its kernel can take in."""
        for value in dict.fromkeys(v for v in node.inputs[first:] if v in self._short):
            wide = self._cast(self._short[value], DType.F32, node)
            for slot, operand in enumerate(node.inputs):
                if operand is value and slot >= first:
                    self.graph.set_input(node, slot, wide)

    def _product(self, node: Node) -> Node:
        x, w, bias = node.operand(0), node.operand(1), node.input(2)
        if x not in self._short and x not in self._rounded:
            self._rounded[x] = self._cast(x, DType.BF16, node)
        if w not in self._rounded:
            self._rounded[w] = self.graph.constant(np.asarray(w.data).astype(DType.BF16.numpy), w.name)
        if bias is not None and bias.type.rank != 1:
            bias = self._flat(bias, node)
        op = "optc.ConvBF16" if node.op == "optc.Conv" else "optc.MatMulBF16"
        attrs = {k: v for k, v in node.attrs.items() if k != "beta"}
        operands = [self._short.get(x) or self._rounded[x], self._rounded[w], bias]
        names = [node.output.name]
        new = self.graph.emit(op, operands, attrs, names=names, before=node, loc=node.loc)
        self.graph.replace(node, new.outputs)
        return new

    def _flat(self, bias: Value, node: Node) -> Value:
        """A bias [1, n] as [n]."""
        if bias.data is not None:
            return self.graph.constant(np.asarray(bias.data).reshape(-1), bias.name)
        shape = self.graph.constant(np.array([-1], np.int64))
        return self.graph.emit("Reshape", [bias, shape], before=node, loc=node.loc).output
