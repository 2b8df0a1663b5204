"""Pointwise groups: a DAG of nodes with index definitions becomes one kernel, a loop nest a shape and part.

Groups may hold any op that has an index definition (kernels/index/): pointwise ops, movement, gathers, resizing. What
lies between the group's inputs and outputs is never stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import tvm
from tvm import sym, tirx

from ...compiler.ir import Node, Value
from ...compiler.ops import quantize as quantization
from ...compiler.types import Dim, Shape
from ..target import Target
from . import exprs
from .builder import KernelBuilder, buffer, i64, static
from .compose import SCALAR_BYTES, Guard, Scope
from .dims import DimVars
from .index import load_all
from .index.base import stores_rounded
from .nest import Axis, Nest, Store

BYTES_PER_SECOND = 8e9
FLOPS_PER_SECOND = 10e9
PARALLEL_SECONDS = 20e-6
"""A kernel that takes one thread longer than this by estimate runs on all threads."""
MOST_PARTS = 64
"""A nest is split into at most this many nests by the conditions in its body."""
UNKNOWN_EXTENT = 256
"""What estimates take a symbolic dim for."""
_COSTLY = frozenset(
    [
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Celu",
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "Log",
        "Mish",
        "Pow",
        "Selu",
        "Sigmoid",
        "Sin",
        "Sinh",
        "Softplus",
        "Swish",
        "Tan",
        "Tanh",
    ]
)


@dataclass(frozen=True)
class PointwiseKernel:
    """`func` takes buffers for `inputs`, then `outputs`, then one int64 a symbol; `bytes` moved and `flops` done are
    estimates with UNKNOWN_EXTENT for symbolic dims."""

    func: Any  # tvm.tirx.PrimFunc
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    symbols: tuple[Any, ...]
    flops: float
    bytes: float

    @property
    def seconds(self) -> float:
        """Estimated time on one thread."""
        return max(self.bytes / BYTES_PER_SECOND, self.flops / FLOPS_PER_SECOND)


def build_group(
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    target: Target,
    *,
    parallel: bool | None = None,
    pitches: Mapping[Value, int] = MappingProxyType({}),
) -> PointwiseKernel:
    """One kernel that computes `outputs` from `inputs` through `nodes` (topologically ordered).

    Constant inputs of up to SCALAR_BYTES and one element are written into the code and dropped from the kernel's
    inputs. `parallel` overrides the choice made by estimate, `pitches` are the elements from row to row of
    inputs and outputs whose rows do not follow each other. Raises UnsupportedError if a node has no index definition
    in its form.
    """
    load_all()
    group = Group(nodes, inputs, outputs, target, pitches)
    flops, moved = group.estimate()
    if parallel is None:
        parallel = max(moved / BYTES_PER_SECOND, flops / FLOPS_PER_SECOND) > PARALLEL_SECONDS
    func = group.build(parallel)
    return PointwiseKernel(func, tuple(group.inputs), tuple(outputs), tuple(group.dims.symbols), flops, moved)


class Group:
    """A region being made a kernel; a target may put other loops around the elements (`emit_shape`)."""

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        target: Target,
        pitches: Mapping[Value, int] = MappingProxyType({}),
    ) -> None:
        self.nodes, self.outputs, self.target = list(nodes), list(outputs), target
        self.inputs = [v for v in inputs if not _is_immediate(v)]
        self.dims, self.kb, self.pitches = DimVars(), KernelBuilder(), pitches
        self.params = {v: self._param(f"in{n}", v) for n, v in enumerate(self.inputs)}
        self.results = [self._param(f"out{n}", v) for n, v in enumerate(self.outputs)]
        self.views = {v: self.kb.flat(p) for v, p in self.params.items()}

    def _param(self, name: str, value: Value) -> Any:
        shape = self.dims.memory(value.type.dims, self.pitches.get(value))
        return buffer(name, shape or [1], exprs.tir_dtype(value.type.dtype))

    def estimate(self) -> tuple[float, float]:
        """FLOPs and bytes moved."""
        largest = max((_extent(v.type.numel) for v in self.outputs), default=0)
        flops = sum(_extent(n.outputs[0].type.numel) * (20 if n.op in _COSTLY else 1) for n in self.nodes)
        moved = sum(_extent(v.type.numel) * v.type.dtype.itemsize for v in self.outputs)
        moved += sum(min(_extent(v.type.numel), largest) * v.type.dtype.itemsize for v in self.inputs)
        return float(flops), float(moved)

    def build(self, parallel: bool) -> Any:
        """The function."""
        shapes: dict[Shape, list[int]] = {}
        for number, value in enumerate(self.outputs):
            shapes.setdefault(value.type.dims, []).append(number)
        for shape, numbers in shapes.items():
            if not any(isinstance(d, int) and d == 0 for d in shape):
                self.emit_shape(shape, numbers, parallel)
        func = self.kb.finish([*self.params.values(), *self.results, *self.dims.vars])
        if any(n.op in quantization.OPS for n in self.nodes):
            func = func.with_body(exprs.products_rounded(func.body))
        module = tirx.transform.ConvertSSA()(tvm.IRModule({"main": func}))
        return module["main"]

    def emit_shape(self, shape: Shape, numbers: Sequence[int], parallel: bool) -> None:
        """The loops over the elements of one shape, and in them the outputs of these numbers."""
        extents = self.dims.shape(shape)
        whole = [(i64(0), e) for e in extents]
        nest, guards = self.compose(shape, numbers, whole)
        parts = split(whole, guards, nest.scope.analyzer, [a.var for a in self._all_axes]) if guards else [whole]
        if len(parts) == 1:
            nest.emit(self.kb, parallel)
            return
        for part in parts:
            self.compose(shape, numbers, part)[0].emit(self.kb, parallel and _is_large(part))

    def compose(
        self, shape: Shape, numbers: Sequence[int], part: Sequence[tuple[Any, Any]]
    ) -> tuple[Nest, list[Guard]]:
        """The nest over one part, (start, extent) an axis, of the outputs of one shape."""
        scope = Scope(self.dims, self.views, pitches=self.pitches)
        axes, index = [], []
        for number, (start, extent) in enumerate(part):
            var = tirx.Var(f"i{number}", "int64")
            axes.append(Axis(var, static(extent) if static(extent) is not None else extent))
            scope.extent(var, i64(0), extent)
            index.append(start if static(extent) == 1 else scope.analyzer.simplify(var + start))
        self._all_axes = axes
        stores = []
        for number in numbers:
            value = self.outputs[number]
            maker = value.producer
            source = maker.operand(0) if maker in self.nodes and stores_rounded(maker) else value
            element = scope.named(exprs.to_memory(scope.element(source, index), value.type.dtype))
            offset = scope.analyzer.simplify(scope.offset(value, index))
            stores.append(Store(self.kb.flat(self.results[number]), offset, element))
        looped = [a for a in axes if not (isinstance(a.extent, int) and a.extent == 1)]
        return Nest(looped, scope, stores, self.target), scope.guards


def split(whole: Sequence[tuple[Any, Any]], guards: Sequence[Guard], analyzer: Any, axes: Sequence[Any]) -> list[Any]:
    """The parts of an iteration space in which guards that depend on one axis alone are decided.

    Gives [(start, extent) an axis] a part; the whole if nothing can be split or the parts would be too many.
    """
    cuts: list[list[Any]] = [[] for _ in whole]
    for guard in guards:
        for number, axis in enumerate(axes):
            terms = sym.detect_linear_equation(guard.index, [axis])
            if len(terms) != 2 or static(terms[0]) != 1 or _mentions(terms[1], axes):
                continue
            for bound in (guard.low, guard.high):
                if bound is not None and not _mentions(bound, axes):
                    cuts[number].append(analyzer.simplify(bound - terms[1]))
    pieces = [_between(start, extent, places, analyzer) for (start, extent), places in zip(whole, cuts, strict=True)]
    if math.prod(len(p) for p in pieces) > MOST_PARTS:
        return [list(whole)]
    return [list(part) for part in itertools.product(*pieces)]


def _between(start: Any, extent: Any, places: Sequence[Any], analyzer: Any) -> list[tuple[Any, Any]]:
    """[start, start + extent) cut at places; not cut at places whose order is unknown."""
    ordered = [start, start + extent]
    for place in places:
        for position in range(len(ordered) - 1):
            low, high = ordered[position], ordered[position + 1]
            if analyzer.can_prove_equal(place, low) or analyzer.can_prove_equal(place, high):
                break
            if analyzer.can_prove(place >= low) and analyzer.can_prove(place <= high):
                ordered.insert(position + 1, place)
                break
    return [(a, analyzer.simplify(b - a)) for a, b in itertools.pairwise(ordered)]


def _mentions(expr: Any, variables: Sequence[Any]) -> bool:
    found = list(tirx.analysis.undefined_vars(expr)) if not isinstance(expr, tirx.IntImm) else []
    return any(v.same_as(x) for v in variables for x in found)


def _is_immediate(value: Value) -> bool:
    return value.data is not None and value.data.size == 1 and value.data.nbytes <= SCALAR_BYTES


def _is_large(part: Sequence[tuple[Any, Any]]) -> bool:
    """Whether a part is worth threads, supposing the whole is."""
    count = math.prod(static(extent) or UNKNOWN_EXTENT for _, extent in part)
    return count > 1 << 14


def _extent(dim: Dim) -> int:
    if isinstance(dim, int):
        return dim
    return max(0, int(dim.subs({s: UNKNOWN_EXTENT for s in dim.free_symbols})))
