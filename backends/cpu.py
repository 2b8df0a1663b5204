"""The CPU backend: from a graph to steps, then to the code of an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..compiler.errors import OptcError, UnsupportedError
from ..compiler.ir import Graph, Node, Value
from ..compiler.ops import quantize as quantization
from ..compiler.ops.base import attr_str, op_of
from ..compiler.types import Dim, DType, as_dim, free_symbols
from ..passes.base import Pass, PassContext, run_passes
from ..passes.fusion.dequantize import READS_BYTES, DequantizeAtReaders
from ..passes.fusion.expand import ExpandFused
from ..passes.fusion.requantize import UnitSteps
from ..passes.fusion.tables import ByteTables
from ..passes.layout import ChannelsLast
from ..passes.pipelines import ON_BYTES, OPTIMIZE
from ..passes.precision import MOVES, READS_THROUGH, StoreBF16
from ..passes.quantization.forms.normalize import NormalizeQuantized
from ..passes.quantization.integers import IntegerProducts
from ..passes.quantization.weights import CompressedWeights
from ..passes.recurrent import PackRecurrent
from ..passes.regions import Region, partition
from ..passes.rewrite import Rewrite
from ..passes.scan_axes import ScanAxes
from ..passes.simplify.dead_code import DeadCode
from ..passes.simplify.fold import FoldConstants
from ..passes.tails import DuplicateTails
from .assumptions import Pair, assumptions
from .base import C_OPS, INDEX_DEFINITIONS, KERNEL_BUILDERS
from .cexpr import c_format
from .fallback import Fallback
from .planning import FirstGuess, Planner
from .slices import Part, Slices, is_concat
from .steps import CCallStep, Check, CopyRows, If, Kernel, Loop, Lowered, Scan, Step, Steps, Trap, View, Within
from .target import LEVELS, Target
from .templates import PITCHED, TEMPLATES, Anchor, Template, has_template
from .work import integers_pay, nanoseconds

_PITCHED_TYPES = frozenset((DType.F32, DType.U8, DType.BF16))
"""What templates read that store at a pitch."""

PIPELINE: tuple[Pass, ...] = (
    NormalizeQuantized(),
    DuplicateTails(),
    ScanAxes(),
    *OPTIMIZE,
    PackRecurrent(),
    ChannelsLast(),
    Rewrite(ON_BYTES),
    IntegerProducts(),
    CompressedWeights(),
    FoldConstants(dequantize=True),
    DeadCode(),
    ExpandFused(keep=("optc.MatMul",), keep_regular=True),
    ByteTables(),
    DequantizeAtReaders(),
    UnitSteps(),
)
"""The passes this backend wants before `lower`, where every quantized product is done in integers."""


def pipeline(target: Target) -> tuple[Pass, ...]:
    """The same, with those products left in float that the target does no faster in integers."""
    integers = IntegerProducts(pays=lambda layer: integers_pay(layer, target))
    return tuple(integers if isinstance(step, IntegerProducts) else step for step in PIPELINE)


def lower(graph: Graph, target: Target, fallback: Fallback | None = None, planner: Planner | None = None) -> Lowered:
    """Steps for a whole graph; what no registry can lower goes to `fallback`; `planner` picks plans (default: the
    first guess of each family).

    Without one, raises UnsupportedError naming every such node.
    """
    load_registries()
    return Lowering(target, graph, fallback, planner or FirstGuess()).lowered(graph)


def store_bf16(graph: Graph, target: Target, ctx: PassContext) -> None:
    """Mixed precision for `--bf16`, in place, after PIPELINE. Raises UnsupportedError if the target has none."""
    if not target.has("avx512bf16"):
        able = [level.name for level in LEVELS.values() if level.has("avx512bf16")]
        raise UnsupportedError(
            f"{target.name} does not multiply bfloat16", expected=" or ".join(able), hint="Compile without bf16."
        )
    load_registries()
    run_passes(graph, [StoreBF16(Lowering(target, graph, None, FirstGuess()).regions)], ctx)


def load_registries() -> None:
    """Registers every index definition, kernel builder and C op."""
    from .kernels import builders, c_ops, index  # noqa: F401  (c_ops registers when imported)

    index.load_all()
    builders.load_all()


class Lowering:
    """Chooses each region's step: a template's kernel, a group of index definitions, a builder's kernel, a C op."""

    templates: Mapping[str, Template] = TEMPLATES
    has_template = staticmethod(has_template)
    in_place = True
    """Whether kernels store and read rows that lie apart, so that a Concat need not copy."""

    def __init__(self, target: Target, graph: Graph, fallback: Fallback | None, planner: Planner) -> None:
        self.target, self.fallback, self.planner = target, fallback, planner
        self.refused: list[str] = []
        self.bound = free_symbols(d for v in graph.inputs for d in v.type.dims)
        self.checked: set[Pair] = set()
        self.pitches: dict[Value, int] = {}

    def lowered(self, graph: Graph) -> Lowered:
        """The whole graph. Raises UnsupportedError naming every node that cannot be lowered."""
        steps = self.graph_steps(graph)
        if self.refused:
            raise UnsupportedError(
                f"{len(self.refused)} node(s) cannot be compiled for {self.target.name}: " + "; ".join(self.refused),
                hint="Run them on ONNX Runtime with --fallback onnxruntime",
            )
        return Lowered(graph, steps)

    def graph_steps(self, graph: Graph) -> Steps:
        steps: Steps = []
        regions = self.regions(graph)
        slices = Slices(regions if self.in_place else [], self.stores, self.reads)
        self.pitches.update(slices.pitches)
        for region in regions:
            steps.extend(self.checks(region))
            steps.extend(self.slice_of(value, slices) for value in region.outputs if value in slices.places)
            parts = slices.parts(region.last) if is_concat(region) else []
            steps.extend(self.copy(part, region) for part in parts if not slices.is_in_place(part))
            if not parts:
                steps.extend(self.region_steps(region))
        for step in steps:
            if isinstance(step, Kernel):
                step.work = nanoseconds(step, self.target)
        return steps

    def regions(self, graph: Graph) -> list[Region]:
        """How this backend cuts a graph."""
        return partition(graph, self.is_pointwise, self.has_template, free=self.is_free, gather=self.is_gather)

    def slice_of(self, value: Value, slices: Slices) -> Within:
        place = slices.places[value]
        return Within(value.name, place.whole, value, place.offset * value.type.dtype.itemsize)

    def copy(self, part: Part, region: Region) -> CopyRows:
        """A part of a Concat that is not where it should be."""
        value, place, size = part.value, part.place, part.value.type.dtype.itemsize
        source = self.pitches.get(value)
        row, rows = value.type.numel, as_dim(1)
        if source is not None or place.pitch is not None:
            row, rows = value.type.dims[-1], value.type.with_shape(value.type.dims[:-1]).numel
        pitch, source_pitch = (place.pitch or row) * size, (source or row) * size
        return CopyRows(region.name, value, place.whole, place.offset * size, rows, row * size, pitch, source_pitch)

    def stores(self, region: Region, value: Value, pitch: int | None) -> bool:
        """Whether the region can write its output `value` anywhere, its rows `pitch` elements apart."""
        if region.last.subgraphs or self._is_lone_view(region) or not free_symbols(value.type.dims) <= self.bound:
            return False
        if pitch is None:
            return True
        if region.anchor is not None:
            return region.anchor.op in PITCHED and region.anchor.operand(0).type.dtype in _PITCHED_TYPES
        return self._reads_elements(region)

    def reads(self, region: Region, value: Value) -> bool:
        """Whether the region can read `value` if its rows lie apart: by a loop nest or in a template's epilogue."""
        if region.anchor is not None:
            return all(value not in node.inputs for node in (*region.before, region.anchor))
        return self._reads_elements(region)

    def _reads_elements(self, region: Region) -> bool:
        """Whether the region becomes a nest of index definitions."""
        alone = region.last if len(region.nodes) == 1 else None
        if self._is_lone_view(region) or (alone is not None and alone.op in self.templates):
            return False
        return self.is_group(region) and all(_has_elements(node) for node in region.nodes)

    def _is_lone_view(self, region: Region) -> bool:
        return len(region.nodes) == 1 and self.is_view(region.last)

    def checks(self, region: Region) -> Iterator[Check]:
        """A comparison of the dims that the region's nodes take to be equal, each pair once."""
        fresh: list[tuple[Dim, Dim, str]] = []
        for node in region.nodes:
            for pair in assumptions(node):
                if pair not in self.checked:
                    self.checked.add(pair)
                    dims = " and ".join(f"{d} = %lld" for d in pair)
                    fresh.append((*pair, f"{c_format(node.name)}: {node.op} needs equal dims, found {dims}"))
        if fresh:
            yield Check(region.name, fresh)

    def is_pointwise(self, node: Node) -> bool:
        plain = quantization.broadcasts(node) if node.op in quantization.OPS else op_of(node).pointwise
        return plain and node.op in INDEX_DEFINITIONS and _known_shapes(node)

    def is_free(self, node: Node) -> bool:
        """Reading a byte or a bfloat16 as a float is no more work than reading it."""
        if node.op == "Cast":
            return (node.operand(0).type.dtype, node.outputs[0].type.dtype) == (DType.BF16, DType.F32)
        return node.op == "DequantizeLinear" and node.operand(0).type.dtype.itemsize == 1 and self.is_pointwise(node)

    def is_gather(self, node: Node) -> bool:
        """A Resize, mean... of what is never stored as floats; a move of floats that are stored as bfloat16."""
        if node.op in MOVES and _is_rounded(node):
            return _known_shapes(node) and node.op in INDEX_DEFINITIONS
        maker = node.operand(0).producer if node.op in READS_BYTES or node.op in READS_THROUGH else None
        if maker is None or not self.is_free(maker) or not _known_shapes(node):
            return False
        return node.op in (READS_BYTES if maker.op == "DequantizeLinear" else READS_THROUGH)

    def region_steps(self, region: Region) -> Iterator[Step]:
        node = region.last
        if region.anchor is None and len(region.nodes) == 1:
            yield from self.node_steps(node)
            return
        step: Step | None
        if region.anchor is not None:
            step = self.template(region, region.anchor)
            if step is not None:
                yield step
                return
            for each in region.before:
                yield from self.node_steps(each)
            yield from self.node_steps(region.anchor, skip_template=len(region.nodes) == 1)
            if region.after:
                yield from self.region_steps(Region(region.after, None))
            return
        step = self.group(region)
        if step is not None:
            yield step
            return
        for single in region.nodes:
            yield from self.node_steps(single)

    def node_steps(self, node: Node, *, skip_template: bool = False) -> Iterator[Step]:
        """One node by itself: a view, control flow, or the first registry that takes it."""
        inside = [v for g in node.subgraphs.values() for v in (*g.inputs, *g.outputs)]
        if any(v.type.shape is None for v in (*node.outputs, *inside)):
            yield from self.refuse(node, "the rank of its output is not known")
            return
        if node.subgraphs:
            yield self.control_flow(node)
            return
        if node.op == "optc.Trap":
            yield Trap(node.name, node, attr_str(node, "message", ""))
            return
        if self.is_view(node):
            yield View(node.name, node.operand(0), node.outputs[0])
            return
        step: Step | None = None
        if not skip_template and node.op in self.templates:
            step = self.template(Region((node,), node), node)
        step = step or self.group(Region((node,), None)) or self.builder(node) or self.c_call(node)
        if step is None:
            yield from self.refuse(node, "no kernel for this form of the op")
            return
        self.bound |= free_symbols(d for v in node.outputs for d in v.type.dims)
        yield step

    def refuse(self, node: Node, why: str) -> Iterator[Step]:
        if self.fallback is None or any(v.type.shape is None for v in node.outputs):
            self.refused.append(f"{node.name} ({node.op}: {why})")
        else:
            self.bound |= free_symbols(d for v in node.outputs for d in v.type.dims)
            yield self.fallback.call(node)

    def is_view(self, node: Node) -> bool:
        """The output is the input's bytes, and its shape follows from what is known before the node runs."""
        return op_of(node).view and free_symbols(node.outputs[0].type.dims) <= self.bound

    def template(self, region: Region, anchor: Node) -> Kernel | None:
        from .kernels.dims import DimVars
        from .kernels.epilogue import fits_registers

        if not self._computable(anchor) or not fits_registers(region.after):
            return None
        return self.templates[anchor.op](Anchor(region, anchor, self.target, DimVars(), self.planner, self.pitches))

    def _computable(self, node: Node) -> bool:
        """The output dims are known before the node runs."""
        return all(free_symbols(v.type.dims) <= self.bound for v in node.outputs if v.type.shape is not None)

    def is_group(self, region: Region) -> bool:
        """Whether index definitions compute the whole region, in shapes known before it runs."""
        return all(n.op in INDEX_DEFINITIONS and self._computable(n) for n in region.nodes)

    def group(self, region: Region) -> Kernel | None:
        """The region as one loop nest of index definitions."""
        from .kernels.pointwise import build_group

        if not self.is_group(region):
            return None
        try:
            built = build_group(region.nodes, region.inputs, region.outputs, self.target, pitches=self.pitches)
        except UnsupportedError:
            return None
        params: list[Value] = [*built.inputs, *built.outputs]
        return Kernel(region.name, built.func, params, list(built.outputs), built.symbols, "group")

    def builder(self, node: Node) -> Kernel | None:
        from .codegen import signature
        from .kernels.context import BuildContext

        if node.op not in KERNEL_BUILDERS or not self._computable(node):
            return None
        context = BuildContext(self.target)
        func = KERNEL_BUILDERS[node.op](node, context)
        if func is None:
            return None
        names = dict(zip(context.dims.vars, context.dims.symbols, strict=True))
        symbols = [next(s for v, s in names.items() if v.same_as(dim)) for dim in signature(func).dims]
        params = [v for v in (*node.inputs, *node.outputs) if v is not None]
        return Kernel(Region((node,), None).name, func, params, list(node.outputs), symbols, "builder")

    def c_call(self, node: Node) -> CCallStep | None:
        call = C_OPS[node.op](node) if node.op in C_OPS else None
        return None if call is None else CCallStep(Region((node,), None).name, node, call)

    def control_flow(self, node: Node) -> Step:
        before, checked, inner = self.bound, self.checked, {}
        for name, sub in node.subgraphs.items():
            self.bound = before | free_symbols(d for v in sub.inputs for d in v.type.dims)
            self.checked = set(checked)
            inner[name] = (sub, self.graph_steps(sub))
        self.bound = before | free_symbols(d for v in node.outputs for d in v.type.dims)
        self.checked = checked
        if node.op == "If":
            return If(node.name, node, inner)
        body, steps = inner["body"]
        if node.op == "Loop":
            return Loop(node.name, node, body, steps)
        if node.op == "Scan":
            return Scan(node.name, node, body, steps)
        raise OptcError(f"{node.op} holds subgraphs but is no control flow", node=node.name)


def _is_rounded(node: Node) -> bool:
    """Whether all that is done with a node's only output is storing it as bfloat16."""
    users = node.outputs[0].users
    return (
        len(node.outputs) == len(users) == 1
        and users[0].op == "Cast"
        and (users[0].outputs[0].type.dtype is DType.BF16 and not node.outputs[0].is_output)
    )


def _has_elements(node: Node) -> bool:
    """Whether the index definition of the node's op takes it in this form."""
    from .kernels.compose import Scope
    from .kernels.dims import DimVars

    try:
        Scope(DimVars(), {}).define(node)
    except UnsupportedError:
        return False
    return True


def _known_shapes(node: Node) -> bool:
    return all(v.type.shape is not None for v in (*node.inputs, *node.outputs) if v is not None)
