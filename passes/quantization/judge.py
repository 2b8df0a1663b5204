"""How near a quantized graph comes to the float one, for as many choices as wanted, with few sessions for all.

Where an output is a decision (a softmax, a sigmoid, an argmax), what it decides on is compared: probabilities near 0
and 1 hide the noise of most samples and show that of few. Samples count alike, in decibels, so that no single one
rules. Grids are arguments of a session; other weights or biases make a new one. Biases are not rounded here: their step
is tiny.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.types import DType
from .execute import Runner, Sample
from .insert import Choice, Weights, bias_place, channel_axis, first_after
from .measure import decibels
from .placement import Placement

_DECISIONS = frozenset({"ArgMax", "LogSoftmax", "Sigmoid", "Softmax"})
_VIEWS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
Arrays = list[np.ndarray]


_BLOCK = 8
"""Samples run between two looks at whether enough is known."""
_SURE = 3.0
"""Standard errors of a mean difference at which it is no chance."""
_ALIKE = 0.05
"""dB of mean difference that do not matter."""


class Judge:
    """Scores quantizations of a float graph, which must not change meanwhile, on samples.

    `equal` is a judge of the same samples whose float graph computes the same: what these give is shared. `threads`
    samples are run at once.
    """

    def __init__(
        self,
        graph: Graph,
        placement: Placement,
        samples: Sequence[Sample],
        equal: Judge | None = None,
        threads: int = 1,
    ) -> None:
        self._graph, self._placement, self.samples = graph, placement, list(samples)
        self._points = deciders(graph)
        self._names = [v.name for v in self._points]
        self._expected: list[Arrays] = [] if equal is None else equal._expected
        self._float: Runner | None = None
        self._threads = max(threads, 1)
        self._sessions: list[_Switched] = []
        self._nearest: dict[tuple[Node, float], Weights] = {}

    def snr(self, choice: Choice) -> float:
        """Mean over outputs and samples of the signal-to-noise ratio in dB."""
        return float(np.mean(self.on(choice).first(len(self.samples)))) if self.samples else 0.0

    def on(self, choice: Choice) -> Scored:
        """The choice with its scores to come."""
        return Scored(self, choice)

    def best(self, choices: Mapping[str, Choice]) -> str:
        """The name of the choice whose outputs are nearest."""
        scored = {name: self.on(choice) for name, choice in choices.items()}
        best = next(iter(scored))
        for name in scored:
            if name != best and scored[name].gain_over(scored[best]) > 0:
                best = name
        return best

    def expected(self, count: int) -> list[Arrays]:
        """What the float graph gives at the points compared, for the first samples."""
        if missing := self.samples[len(self._expected) : count]:
            self._float = self._float or Runner(self._graph, list(dict.fromkeys(self._names)))
            with ThreadPoolExecutor(self._threads) as pool:
                self._expected += [[each[n] for n in self._names] for each in pool.map(self._float.run, missing)]
        return self._expected[:count]

    def scores(self, choice: Choice, start: int, stop: int) -> list[float]:
        """dB of each of the samples from `start` to `stop`, the mean over outputs; 0 if none is of floats."""
        if not self._points:
            return [0.0] * (stop - start)
        weights = {node: self._weights(node, choice) for node in self._placement.layers}
        switched = next((each for each in self._sessions if each.has(weights, choice.shifts)), None)
        if switched is None:
            del self._sessions[1:]  # two choices are compared at a time; memory is for no more
            switched = _Switched(self._graph, self._placement, self._points, weights, choice.shifts)
            self._sessions.insert(0, switched)
        grids = switched.arguments(choice)
        expected = self.expected(stop)[start:]
        with ThreadPoolExecutor(self._threads) as pool:
            got = pool.map(lambda sample: switched.run(sample, grids), self.samples[start:stop])
            return [
                float(np.mean([_snr(a, b) for a, b in zip(*pair, strict=True)]))
                for pair in zip(expected, got, strict=True)
            ]

    def _weights(self, node: Node, choice: Choice) -> Weights:
        """The layer's weights; those rounded to nearest are rounded once. (Where there is a bias, its scale counts.)"""
        if node in choice.weights:
            return choice.weights[node]
        key = node, choice.grids[node.operand(0)].scale if node.input(2) is not None else 0.0
        if key not in self._nearest:
            self._nearest[key] = choice.weights_of(node)
        return self._nearest[key]


class Scored:
    """A choice and its scores by a judge, computed as far as they are asked for."""

    def __init__(self, judge: Judge, choice: Choice) -> None:
        self._judge, self.choice = judge, choice
        self._scores: list[float] = []

    def first(self, count: int) -> np.ndarray:
        """dB of the first samples, f64 [count]."""
        if count > len(self._scores):
            self._scores += self._judge.scores(self.choice, len(self._scores), count)
        return np.array(self._scores[:count])

    def gain_over(self, other: Scored) -> float:
        """By how many dB this is nearer to the float graph than the other, in the mean over the samples.

        Both judges must have the same samples. Fewer are run where the difference is sure to be more than chance.
        """
        total = len(self._judge.samples)
        mean = 0.0
        for count in (*range(_BLOCK, total, _BLOCK), total) if total else ():
            gains = -other.first(count) + self.first(count)  # the other's float results serve both
            mean, error = float(gains.mean()), float(gains.std()) / max(count - 1, 1) ** 0.5
            if _SURE * error < max(abs(mean), _ALIKE):
                break
        return mean


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
    """A quantized graph with the grids as arguments."""

    def __init__(
        self,
        graph: Graph,
        placement: Placement,
        points: Sequence[Value],
        weights: Mapping[Node, Weights],
        shifts: Mapping[Node, np.ndarray],
    ) -> None:
        self._weights, self._shifts = weights, shifts
        copies: dict[Value, Value] = {}
        self._graph = graph.clone(copies)
        self._nodes = dict(zip(graph.nodes, self._graph.nodes, strict=True))
        self._read: dict[Value, Value] = {}
        self._grids = {value: self._round(value, copies[value], placement) for value in placement.values}
        for node, shift in shifts.items():
            if (place := bias_place(node)) is not None:
                old = place[0].input(place[1])
                data = shift if old is None or old.data is None else old.data + shift.reshape(old.data.shape)
                self._set(self._nodes[place[0]], place[1], data)
        for node, each in weights.items():
            self._set(self._nodes[node], 1, each.floats(channel_axis(node)))
        whole = set(graph.outputs)
        self._points = [(copies[v] if v in whole else self._read.get(v, copies[v])).name for v in points]
        free = [n for names in self._grids.values() for n in names]
        self._runner = Runner(self._graph, list(dict.fromkeys(self._points)), free=free)

    def has(self, weights: Mapping[Node, Weights], shifts: Mapping[Node, np.ndarray]) -> bool:
        """Whether these are the weights and what is added to the biases."""
        same = all(_equal(self._weights[node], each) for node, each in weights.items())
        return same and shifts.keys() == self._shifts.keys() and all(shifts[n] is self._shifts[n] for n in shifts)

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

    def _set(self, node: Node, slot: int, data: np.ndarray) -> None:
        self._graph.set_input(node, slot, self._graph.constant(np.asarray(data, np.float32), "judged"))

    def arguments(self, choice: Choice) -> dict[str, np.ndarray]:
        """The session's arguments for a choice's grids."""
        given: dict[str, np.ndarray] = {}
        for value, (scale, zero) in self._grids.items():
            grid = choice.grids[value]
            given |= {scale: np.array(grid.scale, np.float32), zero: np.array(grid.zero_point, np.uint8)}
        return given

    def run(self, sample: Sample, grids: Sample) -> Arrays:
        results = self._runner.run(sample, grids)
        return [results[name] for name in self._points]


def _equal(a: Weights, b: Weights) -> bool:
    return a is b or (np.array_equal(a.scale, b.scale) and np.array_equal(a.data, b.data))


def _snr(expected: np.ndarray, got: np.ndarray) -> float:
    """In dB; what is not finite in the float graph's result does not count."""
    if expected.shape != got.shape:  # a size that depends on data
        return 0.0
    held = np.isfinite(expected)
    x = np.where(held, expected, 0).astype(np.float64)
    y = np.where(held & np.isfinite(got), got, 0).astype(np.float64)
    return decibels(float((x * x).sum()), float(np.square(x - y).sum()))
