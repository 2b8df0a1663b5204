"""Where values live while a program runs: arguments, weights, the planned workspace, or the heap.

Every step gets a position; a planned buffer lives from the position that writes it to the last that reads it, and what
a loop reads from outside lives until the loop ends. The runtime turns lifetimes and sizes into offsets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler.ir import Graph, Node, Value
from ..compiler.types import Dim, free_symbols
from .cexpr import c_dim
from .packing import Box, Packed
from .steps import Check, CopyRows, HostCall, If, Kernel, Loop, Scan, Step, Steps, View, Within


@dataclass
class Buffer:
    """One planned piece of workspace: bytes as a dim, lifetime in positions (both included)."""

    nbytes: Dim
    first: int
    last: int


@dataclass(frozen=True)
class Unpacked:
    """A weight that loading makes: `boxes` copy elements of `itemsize` bytes from `offset` of the blob to `to` in
    memory; both in bytes."""

    to: int
    offset: int
    itemsize: int
    boxes: Sequence[Box]


class Weights:
    """The weight blob, and what loading makes of it: arrays at 64-byte aligned offsets, equal ones stored once."""

    ALIGNMENT = 64

    def __init__(self) -> None:
        self.arrays: list[tuple[str, np.ndarray]] = []
        self.nbytes = 0
        self.unpacked: list[Unpacked] = []
        self.unpacked_bytes = 0
        self._by_id: dict[int, str] = {}
        self._by_digest: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self._unpacked_by_digest: dict[bytes, int] = {}

    def place(self, name: str, weight: np.ndarray | Packed) -> str:
        """C expression of the weight's address, of type char*."""
        if id(weight) not in self._by_id:
            self._by_id[id(weight)] = f"(char*)({self._place(name, weight)})"
        return self._by_id[id(weight)]

    def _place(self, name: str, weight: np.ndarray | Packed) -> str:
        if not isinstance(weight, Packed):
            return f"W + {self.add(name, weight)}"
        boxes = weight.boxes()
        return f"W + {self.add(name, weight.array)}" if boxes is None else f"U + {self._unpack(name, weight, boxes)}"

    def add(self, name: str, array: np.ndarray) -> int:
        """The offset (bytes) of this array in the blob."""
        key = (str(array.dtype), array.shape, _digest(array))
        if key not in self._by_digest:
            self._by_digest[key] = self._align(self.nbytes)
            self.arrays.append((f"{name}.{len(self.arrays)}", array))
            self.nbytes = self._by_digest[key] + array.nbytes
        return self._by_digest[key]

    def _unpack(self, name: str, weight: Packed, boxes: Sequence[Box]) -> int:
        """The offset (bytes) of this weight in the memory that loading fills."""
        digest = _digest(weight.array)
        if digest not in self._unpacked_by_digest:
            to = self._unpacked_by_digest[digest] = self._align(self.unpacked_bytes)
            self.unpacked.append(Unpacked(to, self.add(name, weight.source), weight.source.itemsize, boxes))
            self.unpacked_bytes = to + weight.array.nbytes
        return self._unpacked_by_digest[digest]

    def _align(self, offset: int) -> int:
        return -(-offset // self.ALIGNMENT) * self.ALIGNMENT


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()


class Storage:
    """Assigns a place to every value of a lowered graph. `place(value)` is a C expression of type char*."""

    def __init__(self, graph: Graph, steps: Steps, weights: Weights) -> None:
        self.graph, self.weights = graph, weights
        self.bound = free_symbols(d for v in graph.inputs for d in v.type.dims)
        self.buffers: list[Buffer] = []
        self.heap: dict[Value, int] = {}  # values on the heap and the number of their tensor variable
        self.positions: dict[int, tuple[int, int]] = {}  # id(step) -> first and last position
        self.scratch: dict[int, list[int | None]] = {}  # id(step) -> its scratch buffers, None: allocated while running
        self._place: dict[Value, str] = {}
        self._buffer_of: dict[Value, int] = {}
        self._alias: dict[Value, tuple[Value, Dim]] = {}  # whose bytes these are, from which byte on
        self._clock = 0
        for index, value in enumerate(graph.inputs):
            self._place[value] = f"((char*)in[{index}].data)"
        self._number(steps)
        self._reserve_outputs(steps)
        self._allocate(steps, None)
        self._extend(steps)
        for value in graph.outputs:
            self._touch(value, self._clock)

    # --- positions -----------------------------------------------------------------------------------------------

    def _number(self, steps: Steps) -> None:
        for step in steps:
            first = self._tick()
            for _, inner in nested(step):
                self._number(inner)
            self.positions[id(step)] = (first, self._tick())

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    # --- places --------------------------------------------------------------------------------------------------

    def root(self, value: Value) -> Value:
        """The value whose bytes these are (through views and slices)."""
        return self._resolve(value)[0]

    def _resolve(self, value: Value) -> tuple[Value, Dim]:
        """The root of a value and the byte of it where the value starts."""
        offset: Dim = 0
        while value in self._alias:
            value, more = self._alias[value]
            offset = offset + more
        return value, offset

    def place(self, value: Value) -> str:
        """C expression of the address of the value's first byte."""
        root, offset = self._resolve(value)
        return self._base(root) if offset == 0 else f"({self._base(root)} + {c_dim(offset)})"

    def _base(self, value: Value) -> str:
        if value.data is not None:
            return self.weights.place(value.name, value.data)
        if value in self.heap:
            return f"((char*)t{self.heap[value]}.data)"
        return self._place[value]

    def is_heap(self, value: Value) -> bool:
        return self.root(value) in self.heap

    def is_sized(self, value: Value) -> bool:
        """True if the input shapes alone tell its size."""
        return free_symbols(value.type.dims) <= self.bound

    def alias(self, value: Value, to: Value, offset: Dim = 0) -> None:
        """Makes `value` the bytes of `to` from `offset` on."""
        self._alias[value] = to, offset

    def _reserve_outputs(self, steps: Steps) -> None:
        """A value that a top-level step computes and the graph returns is written where the caller wants it."""
        produced = {v for s in steps if not isinstance(s, View) for v in outputs_of(s)}
        produced -= {s.output for s in steps if isinstance(s, Within)}
        views = {s.output: s.input for s in steps if isinstance(s, View)}
        for index, value in enumerate(self.graph.outputs):
            while value in views:
                value = views[value]
            if value in produced and value not in self._place and self.is_sized(value):
                self._place[value] = f"o{index}"

    def _allocate(self, steps: Steps, loop: tuple[int, int] | None) -> None:
        for step in steps:
            first, last = self.positions[id(step)]
            if isinstance(step, View):
                self.alias(step.output, step.input)
                continue
            if isinstance(step, Within):
                self.alias(step.output, step.whole, step.offset)
            for graph, inner in nested(step):
                span = (first, last) if isinstance(step, (Loop, Scan)) else loop
                for value in graph.inputs:
                    self._give(value, first, last)
                self._allocate(inner, span)
            if isinstance(step, Loop):
                for out, state in zip(step.node.outputs, step.body.inputs[2:], strict=False):
                    self._share_state(out, state, first, last)
            elif isinstance(step, Scan):
                states = step.body.inputs[: len(step.body.inputs) - num_scan_inputs(step.node)]
                for out, state in zip(step.node.outputs, states, strict=False):
                    self._share_state(out, state, first, last)
            for value in outputs_of(step):
                if value not in self._alias:
                    self._give(value, first, last)
            if isinstance(step, Kernel):
                self.scratch[id(step)] = [
                    self._new_buffer(s.nbytes, first, last) if free_symbols([s.nbytes]) <= self.bound else None
                    for s in step.scratch
                ]

    def _share_state(self, out: Value, state: Value, first: int, last: int) -> None:
        """The final state is where the loop kept it (unless the caller wants it elsewhere: then it is copied)."""
        if out not in self._place and self.is_sized(out) == (state not in self.heap):
            self.alias(out, state)

    def _give(self, value: Value, first: int, last: int) -> None:
        if value in self._place:
            return
        if not self.is_sized(value):
            self.heap[value] = len(self.heap)
            return
        self._buffer_of[value] = self._new_buffer(value.type.numel * value.type.dtype.itemsize, first, last)
        self._place[value] = f"B[{self._buffer_of[value]}]"

    def _new_buffer(self, nbytes: Dim, first: int, last: int) -> int:
        self.buffers.append(Buffer(nbytes, first, last))
        return len(self.buffers) - 1

    # --- lifetimes -----------------------------------------------------------------------------------------------

    def _touch(self, value: Value, position: int) -> None:
        index = self._buffer_of.get(self.root(value))
        if index is not None:
            self.buffers[index].last = max(self.buffers[index].last, position)

    def _extend(self, steps: Steps) -> None:
        for step in steps:
            _, last = self.positions[id(step)]
            for value in reads_of(step):
                self._touch(value, last)
            for _, inner in nested(step):
                self._extend(inner)


def nested(step: Step) -> Iterator[tuple[Graph, Steps]]:
    """The subgraphs of a control-flow step with their steps."""
    if isinstance(step, If):
        yield from step.branches.values()
    elif isinstance(step, (Loop, Scan)):
        yield step.body, step.steps


def outputs_of(step: Step) -> tuple[Value, ...]:
    if isinstance(step, (Kernel, HostCall)):
        return tuple(step.outputs)
    if isinstance(step, View):
        return (step.output,)
    if isinstance(step, (Within, CopyRows)):
        return (step.whole,)
    return () if isinstance(step, Check) else step.node.outputs


def reads_of(step: Step) -> set[Value]:
    """Every value a step reads, those its subgraphs read (from anywhere) included."""
    if isinstance(step, (Kernel, HostCall)):
        return set(step.inputs)
    if isinstance(step, (View, CopyRows)):
        return {step.input}
    if isinstance(step, (Check, Within)):
        return set()
    values = {v for v in step.node.inputs if v is not None}
    if isinstance(step, (If, Loop, Scan)):
        for graph, inner in nested(step):
            values |= set(graph.outputs) | {v for s in inner for v in reads_of(s)}
    return values


def num_scan_inputs(node: Node) -> int:
    count = node.attrs["num_scan_inputs"]
    assert isinstance(count, int)
    return count


def all_steps(steps: Iterable[Step]) -> Iterator[Step]:
    """Depth first, a step before what it holds."""
    for step in steps:
        yield step
        for _, inner in nested(step):
            yield from all_steps(inner)
