"""What is tuned: a region as a text of its own, the same for all regions that deserve the same kernel.

The text is a graph (compiler/text.py) of the region's nodes with names in order, dims by number and weights at random,
so that it can be lowered, built and timed anywhere, also from a database alone. Numbers that shape no code (scales,
zero points) are made equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.printing import array_text, attr_text, type_text
from ...compiler.types import Dim, TensorType, free_symbols, substitute, symbol
from ...passes.regions import Region
from ..planning import Candidate, Choice
from ..target import Target

RESIDENT = "# weights stay in cache\n"
"""How the text of a region begins whose weights do."""
SCALE, ZERO_POINT = 0.02, 100
"""What stands for all scales but 1 and all bytes but 0."""


@dataclass(frozen=True)
class Task:
    """A region to find a kernel for: `text` is the region, `spec` what its families compute, `candidates` the texts of
    all kernels, the first guess first."""

    text: str
    spec: str = field(compare=False)
    candidates: tuple[str, ...] = field(compare=False, repr=False)

    @cached_property
    def key(self) -> str:
        """The region's name in a database."""
        return region_key(self.text)

    @property
    def name(self) -> str:
        """What people read: its ops and the type of its result."""
        lines = self.text.splitlines()
        ops = [line.partition(" = ")[2].partition("(")[0].removeprefix("optc.") for line in lines[1:-2]]
        ops = [op for op in ops if op and not op.startswith("const")]
        more = "+..." if len(ops) > 4 else ""
        return f"{'+'.join(ops[:4])}{more} {lines[-3].partition(': ')[2].partition(' = ')[0]}"


def region_key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Collector:
    """A planner that takes the first guesses and notes every region it is asked for, with how often. `resident`: see
    `weights_stay`."""

    def __init__(self, *, resident: bool = False) -> None:
        self.resident = resident
        self.counts: dict[Task, int] = {}

    def choose(self, choice: Choice) -> Candidate:
        candidates = list(choice.candidates())
        text = region_text(choice.region, resident=self.resident)
        task = Task(text, str(choice.spec), tuple(map(str, candidates)))
        self.counts[task] = self.counts.get(task, 0) + 1
        return candidates[0]


def weights_stay(graph: Graph, target: Target) -> bool:
    """Whether all weights of a model stay in L2 from one run to the next, so that kernels find them there."""
    return sum(v.data.nbytes for v in graph.constants() if v.data is not None) <= target.l2 // 2


def region_text(region: Region, *, resident: bool = False) -> str:
    """The region by itself, in normal form: equal texts deserve equal kernels. `resident`: its weights are in L2 when
    it begins; else they were, but so much else was read since."""
    return (RESIDENT if resident else "") + _Writer().graph(region)


class _Writer:
    """Names values v0, v1... and dims d0, d1... as it meets them."""

    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.symbols: dict[Any, Dim] = {}
        self.inputs: list[str] = []
        self.lines: list[str] = []

    def graph(self, region: Region) -> str:
        for node in region.nodes:
            self.node(node)
        lines = [f"graph region({', '.join(self.inputs)}) {{", *(f"  {line}" for line in self.lines)]
        return "\n".join([*lines, f"  return %{self.names[region.last.outputs[0]]}", "}"])

    def node(self, node: Node) -> None:
        attrs = dict(node.attrs)
        operands = list(node.inputs)
        if node.op == "optc.Attention" and _hides_later_keys(node):
            operands[3], attrs["causal"] = None, 1
        read = ["_" if v is None else self.operand(node, slot, v) for slot, v in enumerate(operands)]
        results = ", ".join(f"%{self.name(v)}: {self.type(v.type)}" for v in node.outputs)
        settings = ", ".join(f"{k}={attr_text(v)}" for k, v in sorted(attrs.items()))
        self.lines.append(f"{results} = {node.op}({', '.join(read)})" + (f" {{{settings}}}" if settings else ""))

    def operand(self, node: Node, slot: int, value: Value) -> str:
        if value not in self.names:
            typed = f"%{self.name(value)}: {self.type(value.type)}"
            if value.data is None:
                self.inputs.append(typed)
            else:
                self.lines.append(f"{typed} = const {_elements(node, slot, value.data)}")
        return f"%{self.names[value]}"

    def name(self, value: Value) -> str:
        return self.names.setdefault(value, f"v{len(self.names)}")

    def type(self, type: TensorType) -> str:
        for fresh in sorted(free_symbols(type.dims) - set(self.symbols), key=str):
            self.symbols[fresh] = symbol(f"d{len(self.symbols)}")
        return type_text(type.with_shape(substitute(type.dims, self.symbols)))


def _hides_later_keys(node: Node) -> bool:
    """Whether the elements of the mask matter to the template, which then does without."""
    from ..templates.attention import has_causal_mask

    return has_causal_mask(node)


def _elements(node: Node, slot: int, data: np.ndarray) -> str:
    """A constant's elements as text: numbers that stand in the code as they are, tables of them at random."""
    if data.size > 1 and data.dtype != np.int64:  # 64 bits hold axes and shapes
        return "zeros" if node.op == "optc.MatMulPacked" and slot == 1 else "random(1)"  # zero is a code of any width
    if data.size == 1 and node.op in ("QuantizeLinear", "DequantizeLinear") and slot == 1:
        return "1.0" if data.reshape(-1)[0] == 1 else str(SCALE)
    if data.size == 1 and data.dtype in (np.uint8, np.int8):
        return str(ZERO_POINT if data.reshape(-1)[0] else 0)
    return array_text(data, "full")


def sizes(types: Sequence[TensorType]) -> dict[Any, int]:
    """A size for each symbol of these types, to measure with: one image, but rows enough to be worth a tile."""
    from ..kernels.matmul import GUESS

    found: dict[Any, int] = {}
    for type in types:
        for axis, dim in enumerate(type.dims):
            for each in sorted(free_symbols([dim]), key=str):
                found.setdefault(each, 1 if axis == 0 and type.rank > 2 else GUESS)
    return found
