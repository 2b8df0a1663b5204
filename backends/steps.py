"""What a target lowers a graph to: steps in order, which program.py writes as one C function.

A step reads and writes IR values; where they live (arguments, weights, planned workspace, heap) is program.py's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..compiler.ir import Graph, Node, Value
from ..compiler.types import Dim
from .base import CCall
from .packing import Packed


@dataclass(frozen=True)
class Scratch:
    """A kernel's workspace parameter of so many bytes."""

    nbytes: Dim


Param: TypeAlias = "Value | np.ndarray | Packed | Scratch"


@dataclass
class Kernel:
    """A call of a TIR function with `params` in order, then `symbols` as int64.

    A param is a value, an array made or packed for this kernel alone, or scratch. `outputs` are the params it writes.
    """

    name: str
    func: Any  # tvm.tirx.PrimFunc
    params: Sequence[Param]
    outputs: Sequence[Value]
    symbols: Sequence[Any] = ()
    provenance: str = "generic"
    work: Dim | None = None
    """Nanoseconds that one thread takes, by estimate; None: long enough for threads."""

    @property
    def inputs(self) -> list[Value]:
        return [p for p in self.params if isinstance(p, Value) and p not in self.outputs]

    @property
    def scratch(self) -> list[Scratch]:
        return [p for p in self.params if isinstance(p, Scratch)]


@dataclass
class CCallStep:
    """A call of a C op for one node."""

    name: str
    node: Node
    call: CCall


@dataclass
class View:
    """`output` is `input`'s bytes under another shape."""

    name: str
    input: Value
    output: Value


@dataclass
class Within:
    """`output` lies in `whole`, from byte `offset` on, where steps to come write it."""

    name: str
    whole: Value
    output: Value
    offset: Dim


@dataclass
class CopyRows:
    """Copies `input` into `whole`, from byte `offset` on: `rows` of `nbytes`, which lie `source_pitch` bytes apart and
    come to lie `pitch` bytes apart."""

    name: str
    input: Value
    whole: Value
    offset: Dim
    rows: Dim
    nbytes: Dim
    pitch: Dim
    source_pitch: Dim


@dataclass
class Check:
    """Fails the run unless each pair of dims, taken to be equal when types were inferred, is equal; a message has a
    %lld for each of the two."""

    name: str
    equal: Sequence[tuple[Dim, Dim, str]]


@dataclass
class Trap:
    """Fails the run with a message: a branch that cannot be run."""

    name: str
    node: Node
    message: str


@dataclass
class HostCall:
    """A node (or group) that the host's own engine runs; `index` is its number in the artifact, `nodes` what a user
    reads about each node in it."""

    name: str
    index: int
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    nodes: Sequence[str]


@dataclass
class If:
    name: str
    node: Node
    branches: dict[str, tuple[Graph, Steps]]


@dataclass
class Loop:
    name: str
    node: Node
    body: Graph
    steps: Steps


@dataclass
class Scan:
    """Scan axes are 0 here; other axes are transposed outside."""

    name: str
    node: Node
    body: Graph
    steps: Steps


Step: TypeAlias = "Kernel | CCallStep | View | Within | CopyRows | Check | Trap | HostCall | If | Loop | Scan"
Steps: TypeAlias = list[Step]


@dataclass
class Lowered:
    """A whole model, ready to be written."""

    graph: Graph
    steps: Steps
    notes: list[str] = field(default_factory=list)
