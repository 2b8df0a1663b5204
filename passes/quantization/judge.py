"""How near a quantized graph comes to the float one, for as many choices as wanted, with one session for all.

Where an output is a decision (a softmax, a sigmoid, an argmax), what it decides on is compared: probabilities near 0
and 1 hide the noise of most samples and show that of few. Samples count alike, in decibels, so that no single one
rules. Scales, weights and biases are arguments of the session. Biases are not rounded here: their step is tiny.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.types import DType
from .execute import Runner, Sample
from .insert import Choice, bias_place, channel_axis, first_after
from .measure import decibels
from .placement import Placement

_DECISIONS = frozenset({"ArgMax", "LogSoftmax", "Sigmoid", "Softmax"})
_VIEWS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
Arrays = list[np.ndarray]


class Judge:
    """Scores quantizations of a float graph on samples. Later changes to the graph are not seen."""

    def __init__(
        self, graph: Graph, placement: Placement, samples: Sequence[Sample], expected: Sequence[Arrays] | None = None
    ) -> None:
        """`expected`, what the float graph gives for each sample, may come from a judge of an equal function."""
        found = deciders(graph)
        self.samples = list(samples)
        self._points = [v.name for v in found]
        self._float = Runner(graph, list(dict.fromkeys(self._points)), brief=True) if expected is None else None
        self._expected = list(expected) if expected is not None else None
        self._switched = _Switched(graph, placement, found)

    @property
    def expected(self) -> list[Arrays]:
        """What the float graph gives at the points compared, for each sample."""
        if self._expected is None:
            assert self._float is not None
            results = [self._float.run(sample) for sample in self.samples]
            self._expected = [[each[name] for name in self._points] for each in results]
        return self._expected

    def on(self, samples: Sequence[Sample]) -> Judge:
        """The same judge, on other samples; not of one that was told what to expect."""
        other = copy.copy(self)
        other.samples, other._expected = list(samples), None
        return other

    def snr(self, choice: Choice) -> float:
        """Mean over outputs and samples of the signal-to-noise ratio in dB."""
        constants = self._switched.constants(choice)
        got = [self._switched.run(sample, constants) for sample in self.samples]
        pairs = [p for a, b in zip(self.expected, got, strict=True) for p in zip(a, b, strict=True)]
        return float(np.mean([_snr(a, b) for a, b in pairs])) if pairs else 0.0


def deciders(graph: Graph) -> list[Value]:
    """The values to compare, one for each output that depends on floats: what decisions are made on."""
    found = []
    for value in graph.outputs:
        while value.producer is not None and value.producer.op in _DECISIONS | _VIEWS:
            value = value.producer.operand(0)
        if value.type.dtype is DType.F32 and not value.is_constant:
            found.append(value)
    return found


class _Switched:
    """The quantized graph with all numbers of the quantization as arguments."""

    def __init__(self, graph: Graph, placement: Placement, points: Sequence[Value]) -> None:
        copies: dict[Value, Value] = {}
        self._graph = graph.clone(copies)
        self._nodes = dict(zip(graph.nodes, self._graph.nodes, strict=True))
        self._read: dict[Value, Value] = {}
        self._grids = {value: self._round(value, copies[value], placement) for value in placement.values}
        self._layers = {node: self._free(self._nodes[node], 1, node.operand(1).data) for node in placement.layers}
        self._biases: dict[Node, tuple[str, np.ndarray]] = {}
        for node in placement.layers:
            if (place := bias_place(node)) is not None:
                old = place[0].input(place[1])
                data = np.zeros(_channels(node), np.float32) if old is None or old.data is None else old.data
                self._biases[node] = self._free(self._nodes[place[0]], place[1], data), data
        free = [*(n for names in self._grids.values() for n in names), *self._layers.values()]
        free += [name for name, _ in self._biases.values()]
        whole = set(graph.outputs)
        self._points = [(copies[v] if v in whole else self._read.get(v, copies[v])).name for v in points]
        self._runner = Runner(self._graph, list(dict.fromkeys(self._points)), free=free, brief=True)

    def _round(self, value: Value, copied: Value, placement: Placement) -> tuple[str, str]:
        graph, before = self._graph, first_after(self._graph, copied)
        scale, zero = graph.constant(np.float32(1), "scale"), graph.constant(np.uint8(0), "zero_point")
        q = graph.emit("QuantizeLinear", [copied, scale, zero], before=before).output
        rounded = graph.emit("DequantizeLinear", [q, scale, zero], before=before).output
        for use in placement.readers[value]:
            if isinstance(use.user, Node):
                graph.set_input(self._nodes[use.user], use.slot, rounded)
                self._read[value] = rounded
        return scale.name, zero.name

    def _free(self, node: Node, slot: int, data: np.ndarray | None) -> str:
        assert data is not None
        constant = self._graph.constant(np.asarray(data, np.float32), "free")
        self._graph.set_input(node, slot, constant)
        return constant.name

    def constants(self, choice: Choice) -> dict[str, np.ndarray]:
        """The session's arguments for a choice."""
        given: dict[str, np.ndarray] = {}
        for value, (scale, zero) in self._grids.items():
            grid = choice.grids[value]
            given |= {scale: np.array(grid.scale, np.float32), zero: np.array(grid.zero_point, np.uint8)}
        for node, name in self._layers.items():
            given[name] = choice.weights_of(node).floats(channel_axis(node))
        for node, (name, data) in self._biases.items():
            shift = choice.shifts.get(node)
            given[name] = data if shift is None else (data + shift.reshape(data.shape)).astype(np.float32)
        return given

    def run(self, sample: Sample, constants: Sample) -> Arrays:
        results = self._runner.run(sample, constants)
        return [results[name] for name in self._points]


def _channels(node: Node) -> int:
    return int(node.operand(1).type.static_shape[channel_axis(node)])


def _snr(expected: np.ndarray, got: np.ndarray) -> float:
    """In dB; what is not finite in the float graph's result does not count."""
    if expected.shape != got.shape:  # a size that depends on data
        return 0.0
    held = np.isfinite(expected)
    x = np.where(held, expected, 0).astype(np.float64)
    y = np.where(held & np.isfinite(got), got, 0).astype(np.float64)
    return decibels(float((x * x).sum()), float(np.square(x - y).sum()))
