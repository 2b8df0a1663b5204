"""Which nodes have a hot template, and how a region around one becomes a kernel call.

ADD A TEMPLATE: a function `(Anchor) -> Kernel | None` under `@template(op)` in a file of its family, listed in
__init__.py. It returns None where this node's form has no template (the general ways serve it then).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...compiler.errors import OptcError
from ...compiler.ir import Node, Value
from ...passes.regions import Region
from ..codegen import signature
from ..kernels.builder import itemsize, static
from ..kernels.dims import DimVars, dim_of
from ..kernels.epilogue import NodeEpilogue
from ..planning import Candidate, Choice, Family, FirstGuess, Planner
from ..steps import Kernel, Param, Scratch
from ..target import Target


@dataclass
class Anchor:
    """A region with an anchor about to be built."""

    region: Region
    node: Node
    target: Target
    dims: DimVars
    planner: Planner = field(default_factory=FirstGuess)
    pitches: Mapping[Value, int] = field(default_factory=dict)
    """Elements from row to row of values whose rows do not follow each other (slices.py)."""

    @property
    def output(self) -> Value:
        """What the kernel stores: the region's result."""
        return self.region.last.outputs[0]

    def shape(self, value: Value) -> list[Any]:
        return [plain(d) for d in self.dims.shape(value.type.dims)]

    def choose(self, spec: Any, *families: Family) -> Candidate:
        """The family and plan to compute `spec` with, of those that can, the likely best family first."""
        return self.planner.choose(Choice(self.region, spec, families, self.target))

    def plan(self, family: Family, spec: Any) -> Any:
        """The plan to use where only one family computes `spec`."""
        return self.choose(spec, family).plan

    def epilogue(self, bias: Value | None = None, scale: float = 1.0) -> Any:
        """A scale, a bias along the last axis, and what follows in the region, as the template's epilogue; None if
        empty."""
        if bias is None and scale == 1.0 and not self.region.after and self.output not in self.pitches:
            return None
        return NodeEpilogue(self.region.after, self.node.outputs[0], bias, self.dims, scale, self.pitches)

    def kernel(self, func: Any, params: Sequence[Param], epilogue: Any, provenance: str) -> Kernel:
        """The call: `params`, what the epilogue reads, the output, and scratch if the template asks for it."""
        known = signature(func)
        written = known.buffers[-1 if known.workspace is None else -2]
        if self.output in self.pitches and static(written.shape[-1]) != self.pitches[self.output]:
            raise OptcError(f"{provenance} does not store rows that lie apart", node=self.node.name)
        names = dict(zip(self.dims.vars, self.dims.symbols, strict=True))
        full: list[Param] = [*params, *(epilogue.values if epilogue else ()), self.output]
        if known.workspace is not None:
            nbytes: Any = itemsize(str(known.workspace.dtype))
            for extent in known.workspace.shape:
                nbytes = nbytes * dim_of(extent, names)
            full.append(Scratch(nbytes))
        symbols = [next(s for v, s in names.items() if v.same_as(dim)) for dim in known.dims]
        return Kernel(self.region.name, func, full, [self.output], symbols, provenance)


Template = Callable[[Anchor], "Kernel | None"]
TEMPLATES: dict[str, Template] = {}
FORMS: dict[str, Callable[[Node], bool]] = {}
"""For templates that take an epilogue: whether they take a node of this form."""


PITCHED: set[str] = set()
"""Ops whose templates store rows at the pitch of their epilogue."""


def template(
    *ops: str, form: Callable[[Node], bool] | None = None, pitched: bool = False
) -> Callable[[Template], Template]:
    """Registers a template; `form` says that it takes an epilogue, and for which nodes; `pitched`, that it stores rows
    as far apart as its epilogue says."""

    def add(function: Template) -> Template:
        TEMPLATES.update(dict.fromkeys(ops, function))
        if form is not None:
            FORMS.update(dict.fromkeys(ops, form))
        if pitched:
            PITCHED.update(ops)
        return function

    return add


def has_template(node: Node) -> bool:
    """True if this node's form has a template with an epilogue, so that a region may form behind it."""
    check = FORMS.get(node.op)
    return check is not None and check(node)


def plain(dim: Any) -> Any:
    """Ints as Python ints: templates fold arithmetic over them."""
    return int(dim) if hasattr(dim, "value") and isinstance(dim.value, int) else dim
