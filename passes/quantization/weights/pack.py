"""Compresses the weights of products and look-up tables of a float graph.

A W                ->  optc.MatMulPacked(A, codes, scales, ...)        MatMul, Gemm, optc.MatMul; what is added stays
Gather(W, i)       ->  Gather(codes, i) * Gather(scales, i)            rows of 8 bits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ....compiler.ir import Attr, Graph, Node, Value
from ....compiler.ops.base import attr_float, attr_int
from ....compiler.types import DType
from ...base import PassContext, register_pass
from .formats import WeightSpec, parse_spec
from .rounding import Packed, quantize, signal_to_noise
from .tables import emit_table

PRODUCTS = ("MatMul", "Gemm", "optc.MatMul")
_ADDED = {"Gemm": 2, "com.microsoft.MatMulNBits": 5}
"""The operand that is added to a product."""


@dataclass(frozen=True)
class LayerReport:
    """One tensor: the node that reads it, its shape, what it became, its signal-to-noise ratio in decibel, and its
    bytes before and after."""

    name: str
    shape: tuple[int, ...]
    format: str
    snr: float
    bytes: tuple[int, int]


@dataclass
class WeightReport:
    """What compression did. `left` are nodes whose weights stay float, and why."""

    spec: str
    layers: list[LayerReport] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    @property
    def bytes(self) -> tuple[int, int]:
        """Of all compressed tensors, before and after."""
        before, after = (sum(layer.bytes[i] for layer in self.layers) for i in (0, 1))
        return before, after

    def lines(self) -> list[str]:
        """The report as sentences, one a line; the tensors with most noise first."""
        before, after = self.bytes
        lines = [
            f"weights as {self.spec}: {len(self.layers)} tensors, {before / 1e6:.2f} MB -> {after / 1e6:.2f} MB"
            f" ({100 * after / max(before, 1):.1f}%)"
        ]
        for layer in sorted(self.layers, key=lambda layer: layer.snr):
            shape = "x".join(map(str, layer.shape))
            lines.append(f"{layer.name} ({shape}): {layer.format}, signal to noise {layer.snr:.1f} dB")
        return lines + [f"{name}: weights stay float: {why}" for name, why in self.left]


@register_pass
@dataclass(frozen=True)
class PackWeights:
    """`pack_weights` as a pass, for the end of a pipeline."""

    name: ClassVar[str] = "pack-weights"
    spec: str = "int8"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        report = pack_weights(graph, self.spec)
        ctx.notes += report.lines()
        ctx.count(self.name, len(report.layers))
        return bool(report.layers)


def pack_weights(graph: Graph, spec: str) -> WeightReport:
    """Compresses weights, in place, as a spec says (formats.py has the grammar). Raises UsageError for a bad spec.

    Run it on an optimized graph: what could be folded into weights is then folded.
    """
    packer = _Packer(parse_spec(spec), WeightReport(spec))
    for node in list(graph.all_nodes()):
        packer.visit(node)
    return packer.report


class _Packer:
    def __init__(self, spec: WeightSpec, report: WeightReport) -> None:
        self.spec, self.report = spec, report
        self.rule = PackWeights.name
        self._packed: dict[tuple[Value, bool, float], Packed] = {}  # one tensor may serve several nodes
        self._tables: dict[Value, Packed] = {}  # transposed: a column is a row of the table

    def visit(self, node: Node) -> None:
        product, table = node.op in PRODUCTS, node.op == "Gather" and self.spec.tables is not None
        weights = node.input(1 if product else 0)
        if not (product or table) or weights is None or weights.data is None or weights.type.dtype is not DType.F32:
            return
        if weights.data.size < self.spec.smallest:
            return
        why = next(_objections(node, weights.data, product), None)
        if why is not None:
            self.report.left.append((node.name, why))
        elif product:
            self.product(node, weights)
        else:
            self.table(node, weights)

    # --- products ------------------------------------------------------------------------------------------------

    def product(self, node: Node, weights: Value) -> None:
        """alpha A W + beta C."""
        graph, format, exact = node.graph, self.spec.format, np.asarray(weights.data)
        assert graph is not None
        transposed, alpha = bool(attr_int(node, "transB", 0)), attr_float(node, "alpha", 1.0)
        key = (weights, transposed, alpha)
        if key not in self._packed:
            exact = (exact.T if transposed else exact) * np.float32(alpha)
            packed = self._packed[key] = quantize(exact, format)
            self.note(node, exact, packed.values(), format.text, packed.nbytes)
        graph.replace(node, [emit_packed(graph, node, self._packed[key], weights.name, self.rule)])

    # --- tables --------------------------------------------------------------------------------------------------

    def table(self, node: Node, weights: Value) -> None:
        """The rows of a matrix."""
        graph, exact, format = node.graph, np.asarray(weights.data), self.spec.tables
        assert graph is not None
        assert format is not None
        if weights not in self._tables:
            packed = self._tables[weights] = quantize(np.ascontiguousarray(exact.T), format)
            self.note(node, exact, packed.values().T, f"rows of {format.text}", packed.nbytes)
        graph.replace(node, [emit_table(graph, node, self._tables[weights], self.rule)])

    def note(self, node: Node, exact: np.ndarray, rounded: np.ndarray, format: str, nbytes: int) -> None:
        snr = signal_to_noise(exact, rounded)
        self.report.layers.append(LayerReport(node.name, exact.shape, format, snr, (exact.nbytes, nbytes)))


def emit_packed(graph: Graph, node: Node, packed: Packed, name: str, rule: str) -> Value:
    """What a product (MatMul, Gemm, optc.MatMul or MatMulNBits) makes, with these weights, alpha included, as its B."""
    loc = node.loc.merged(rule=rule)

    def emit(op: str, inputs: Sequence[Value | None], attrs: dict[str, Attr] | None = None) -> Value:
        return graph.emit(op, inputs, attrs, before=node, loc=loc).output

    arrays = (packed.codes, packed.scales, packed.codebook, packed.zeros)
    constants = [None if a is None else graph.constant(a, name) for a in arrays]
    while constants[-1] is None:
        constants.pop()
    y = emit("optc.MatMulPacked", [node.operand(0), *constants], {"bits": packed.bits, "block": packed.block})
    added, beta = node.input(_ADDED.get(node.op, len(node.inputs))), attr_float(node, "beta", 1.0)
    if added is not None and beta != 1.0:
        added = emit("Mul", [added, graph.constant(beta, dtype=DType.F32)])
    return y if added is None else emit("Add", [y, added])


def _objections(node: Node, weights: np.ndarray, product: bool) -> Iterator[str]:
    """Why weights cannot be compressed."""
    if weights.ndim != 2:
        yield f"they are no matrix but have shape {list(weights.shape)}"
    if product and attr_int(node, "transA", 0):
        yield "the other operand is transposed"
    x = node.operand(0 if product else 1).type
    if x.shape is None or (product and x.rank < 2):
        yield "the other operand is a vector, or of unknown rank"
    if not product and attr_int(node, "axis", 0) not in (0, -2):
        yield "not rows are looked up"
    if not np.isfinite(weights).all():
        yield "some are not finite"
