"""What a quantization costs, measured on a few samples: at single nodes, and at the graph's outputs.

A trial computes a node a second time beside the float graph, some operands quantized or replaced, and compares. Many
trials share one run of the float graph, and only sums leave it, so that thousands of choices cost little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.types import DType
from .execute import Runner, Sample
from .insert import Affine, Weights, channel_axis

_BEST = 100.0
"""Decibels at which two results count as equal."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """An operand times `by`, then on a grid."""

    by: np.ndarray
    grid: Affine


@dataclass(frozen=True)
class Trial:
    """A node of the float graph, some of its operands on a grid or replaced by integer weights, by slot."""

    node: Node
    operands: Mapping[int, Affine | Scaled | Weights]


@dataclass
class Outcome:
    """Sums over samples and elements: of the float output's squares, of the error's squares and, by channel (f64
    [channels]), of the error (float minus trial). `count` is the number of elements of a channel."""

    signal: float
    noise: float
    error: np.ndarray
    count: float = 0.0

    @property
    def shift(self) -> np.ndarray:
        """Mean error by channel, f64 [channels]."""
        return np.asarray(self.error / max(self.count, 1.0))

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio in dB."""
        return decibels(self.signal, self.noise)

    @property
    def relative(self) -> float:
        """Noise as a share of the signal."""
        return self.noise / self.signal if self.signal > 0 else self.noise

    def shifted(self, by: np.ndarray) -> Outcome:
        """The outcome had `by` [channels] been added to what the trial gave."""
        noise = self.noise + float((by * (self.count * by - 2 * self.error)).sum())
        return Outcome(self.signal, max(noise, 0.0), self.error - self.count * by, self.count)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), at most 100; 0 where there is noise only."""
    if noise <= signal * 10 ** (-_BEST / 10):
        return _BEST
    return float(10 * np.log10(signal / noise)) if signal > 0 else 0.0


# --- at nodes ----------------------------------------------------------------------------------------------------


def channel_of(node: Node) -> int:
    """The axis of a layer's output that counts its channels."""
    return 1 if node.op in ("Conv", "ConvTranspose") else node.outputs[0].type.rank - 1


def measure(graph: Graph, trials: Sequence[Trial], samples: Iterable[Sample]) -> list[Outcome]:
    """The outcome of each trial over the samples (empty outcomes without samples). `graph` is not changed."""
    copies: dict[Value, Value] = {}
    copy = graph.clone(copies)
    builder = _Builder(copy, copies)
    names = [builder.add(trial) for trial in trials]
    wanted = list(dict.fromkeys(name for each in names for name in each))
    outcomes = [Outcome(0.0, 0.0, np.zeros(1)) for _ in trials]
    if trials:
        runner = Runner(copy, wanted, brief=True)
        for sample in samples:
            _take(outcomes, names, runner.run(sample))
    return outcomes


def _take(outcomes: Sequence[Outcome], names: Sequence[tuple[str, str, str, str]], results: Sample) -> None:
    """Adds what one sample gave."""
    for outcome, (size, signal, noise, error) in zip(outcomes, names, strict=True):
        outcome.signal += float(results[signal])
        outcome.noise += float(results[noise])
        outcome.error = outcome.error + results[error].astype(np.float64)
        outcome.count += int(results[size]) / max(results[error].size, 1)


class _Builder:
    """Adds trials to a copy of a graph."""

    def __init__(self, graph: Graph, copies: Mapping[Value, Value]) -> None:
        self._graph, self._copies = graph, copies
        self._facts: dict[Value, tuple[str, str]] = {}
        self._quantized: dict[tuple[Value, Affine | Scaled], Value] = {}

    def add(self, trial: Trial) -> tuple[str, str, str, str]:
        """Names of the values that hold the output's size, the signal, the noise and the error by channel."""
        original, graph = trial.node, self._graph
        result = self._copies[original.outputs[0]]
        inputs = [None if v is None else self._copies.get(v, v) for v in original.inputs]
        inputs += [None] * (max(trial.operands, default=0) + 1 - len(inputs))
        for slot, operand in trial.operands.items():
            inputs[slot] = self._operand(original, inputs[slot], operand)
        again = graph.emit(original.op, inputs, original.attrs, types=[v.type for v in original.outputs]).outputs[0]
        error = graph.emit("Sub", [result, again]).output
        if result not in self._facts:
            self._facts[result] = graph.emit("Size", [result]).output.name, self._reduced("ReduceSumSquare", result)
        others = [i for i in range(result.type.rank) if i != channel_of(original)]
        return *self._facts[result], self._reduced("ReduceSumSquare", error), self._reduced("ReduceSum", error, others)

    def _operand(self, node: Node, value: Value | None, operand: Affine | Scaled | Weights) -> Value:
        if isinstance(operand, Weights):
            constants = [self._graph.constant(operand.data), self._graph.constant(operand.scale)]
            return self._graph.emit("DequantizeLinear", constants, {"axis": channel_axis(node)}).output
        assert value is not None
        key = (value, operand)
        if key not in self._quantized:
            grid = operand
            if isinstance(grid, Scaled):
                value, grid = self._graph.emit("Mul", [value, self._graph.constant(grid.by)]).output, grid.grid
            self._quantized[key] = _rounded(self._graph, value, grid)
        return self._quantized[key]

    def _reduced(self, op: str, value: Value, axes: Sequence[int] = ()) -> str:
        """Over `axes`; over all without any."""
        operands = [value, self._graph.constant(np.array(axes, np.int64))] if axes else [value]
        return self._graph.emit(op, operands, {"keepdims": 0}).output.name


def _rounded(graph: Graph, value: Value, grid: Affine) -> Value:
    """The value to the grid and back."""
    scale, zero = graph.constant(np.float32(grid.scale)), graph.constant(np.uint8(grid.zero_point))
    q = graph.emit("QuantizeLinear", [value, scale, zero]).output
    return graph.emit("DequantizeLinear", [q, scale, zero]).output


# --- at the outputs ----------------------------------------------------------------------------------------------

Results = list[dict[str, np.ndarray]]


def outputs_of(graph: Graph, samples: Iterable[Sample]) -> Results:
    """What the graph gives for each sample."""
    runner = Runner(graph)
    return [runner.run(sample) for sample in samples]


def agreement(graph: Graph, expected: Results, got: Results) -> float:
    """Mean over the float outputs of the signal-to-noise ratio in dB; `expected` is the float graph's."""
    floats = [n for n, v in zip(graph.output_names, graph.outputs, strict=True) if v.type.dtype is DType.F32]
    return float(np.mean([_snr(name, expected, got) for name in floats])) if floats else 0.0


def _snr(name: str, expected: Results, got: Results) -> float:
    signal = noise = 0.0
    for a, b in zip(expected, got, strict=True):
        x, y = a[name].astype(np.float64), b[name].astype(np.float64)
        x = np.where(np.isfinite(x), x, 0.0)
        signal += float((x * x).sum())
        noise += float(((x - np.where(np.isfinite(y), y, 0.0)) ** 2).sum() if x.shape == y.shape else (x * x).sum())
    return decibels(signal, noise)
