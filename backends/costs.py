"""What a step must do at least: its multiply-adds and the bytes it reads and writes, for rooflines.

Bytes are those of every operand and result once, as if each were read or written exactly once: what no order of the
work can avoid. Of a table that is only looked up, it is what is taken. Steps in a loop have no cost here, since only a
run tells how often they take their turn. Multiply-adds are those of the definition: a Winograd kernel does fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler.ir import Node, Value
from ..compiler.macs import macs
from ..compiler.ops.base import attr_int
from ..compiler.types import Dim, DType, dim_text
from .packing import Packed
from .steps import CCallStep, HostCall, Kernel, Loop, Scan, Scratch, Step, Steps
from .storage import all_steps

PICKS = ("Gather", "GatherElements", "GatherND", "Slice", "Split")
"""These read no more of their first operand than they write."""


@dataclass(frozen=True)
class Cost:
    """`kind` is what the products are made of: "f32", "bf16" or "int8"; `op` is what multiplies: "Conv", "Depthwise",
    "MatMul", "Attention"...; both are "" where nothing does."""

    kind: str
    op: str
    macs: Dim
    nbytes: Dim

    def as_list(self) -> list[str | int]:
        """For JSON: kind, op, multiply-adds, bytes; symbolic dims as text."""
        return [self.kind, self.op, *(d if isinstance(d, int) else dim_text(d) for d in (self.macs, self.nbytes))]


def costs(numbered: Sequence[Step], steps: Steps) -> list[Cost | None]:
    """The cost of each of these steps of a program; None for those that run in a loop."""
    loops = [s for s in all_steps(steps) if isinstance(s, (Loop, Scan))]
    repeated = {id(inner) for loop in loops for inner in all_steps(loop.steps)}
    return [None if id(step) in repeated else cost(step) for step in numbered]


def cost(step: Step) -> Cost:
    """The cost of one turn of a step that computes."""
    if isinstance(step, Kernel):
        operands = [p.source if isinstance(p, Packed) else p for p in step.params if not isinstance(p, Scratch)]
        nodes = nodes_of(step)
    elif isinstance(step, CCallStep):
        operands = [v for v in (*step.node.inputs, *step.node.outputs) if v is not None]
        nodes = [step.node]
    elif isinstance(step, HostCall):
        operands, nodes = [*step.inputs, *step.outputs], []
    else:
        return Cost("", "", 0, 0)
    nbytes = _bytes(operands, nodes)
    parts = [(node, macs(node)) for node in nodes]
    total: Dim = sum((part for _, part in parts), start=0)
    if total == 0:
        return Cost("", "", 0, nbytes)
    return Cost(_kind(nodes, operands), next(_name(node) for node, part in parts if part != 0), total, nbytes)


def nodes_of(kernel: Kernel) -> list[Node]:
    """The nodes that a kernel computes: what lies between its inputs and its outputs."""
    inputs, nodes = set(kernel.inputs), dict[Node, None]()
    open_values = list(kernel.outputs)
    while open_values:
        value = open_values.pop()
        node = value.producer
        if value not in inputs and node is not None and node not in nodes:
            nodes[node] = None
            open_values += [v for v in node.inputs if v is not None]
    return list(nodes)


def _name(node: Node) -> str:
    """The op, whatever it multiplies; a convolution of each channel by itself reuses nothing it loads, so it has a
    name of its own."""
    name = node.op.removeprefix("optc.").removesuffix("Integer").removesuffix("BF16")
    alone = name == "Conv" and node.operand(1).type.dims[1] == 1 and attr_int(node, "group", 1) > 1
    return "Depthwise" if alone else name


def _kind(nodes: Iterable[Node], operands: Iterable[Value | np.ndarray]) -> str:
    if any(node.op.endswith("Integer") for node in nodes):
        return "int8"
    dtypes = {o.type.dtype if isinstance(o, Value) else DType.from_numpy(o.dtype) for o in operands}
    return "bf16" if DType.BF16 in dtypes else "f32"


def _bytes(operands: Iterable[Value | np.ndarray], nodes: Sequence[Node]) -> Dim:
    total: Dim = 0
    for operand in {id(o): o for o in operands}.values():
        total = total + (operand.nbytes if isinstance(operand, np.ndarray) else _touched(operand, nodes))
    return total


def _touched(value: Value, nodes: Sequence[Node]) -> Dim:
    """Bytes of a value that the nodes read or write."""
    readers = [node for node in nodes if value in node.inputs]
    picked = bool(readers) and all(node.op in PICKS and node.inputs.index(value) == 0 for node in readers)
    places = [v for node in readers for v in node.outputs] if picked else [value]
    return sum((v.type.numel * v.type.dtype.itemsize for v in places if v.type.shape is not None), start=0)
