"""What quantization does to each layer, why, and what would help: measured, not guessed.

Every layer is compared with the float model's twice: within the whole int8 model, and alone, given float inputs. The
cause is read from the distribution of the layer's input, its weights and the two figures. For the worst layers the
fixes that might help are tried, each in the whole model with all other layers as they are, and the best is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...compiler.ir import Node
from .causes import Facts, cause_of, facts_of
from .equalize import scaled_weights, weight_range
from .execute import Runner, Sample
from .insert import Affine, channel_axis, nearest
from .measure import Trial, decibels
from .observers import Range
from .placement import Placement
from .ranges import CANDIDATES, grids_of
from .record import JUDGED, Recorded
from .whatif import FLOAT, Fix, WhatIf, floats_of, output_channels

if TYPE_CHECKING:
    from .quantize import Study

WORST = 5
"""Layers for which fixes are tried."""
_PROBES = 3
"""Samples on which all this is measured."""
_WORTH = 0.5
"""Decibels that a fix must gain to be named."""
_SENSITIVE = 1.0
"""Decibels at the model's output that the noise of an exact layer costs for it to be told."""
KEEP_FLOAT = "keep float"
_OF_THE_RANGE = frozenset({"channel spread", "clipped tail", "outlier range", "rounding of the input"})
_OF_THE_WEIGHTS = frozenset({"bias overflow", "weight rounding"})
"""Causes that another range, or equalized channels, may help against."""


@dataclass(frozen=True)
class Row:
    """A layer's signal-to-noise ratios in dB in the whole model and alone, the cause of its noise, and the best fix of
    those tried with what it gains at the layer's output and at the model's, in dB."""

    layer: str
    op: str
    snr_db: float
    alone_db: float
    cause: str
    detail: str = ""
    fix: str = ""
    gain_db: float = 0.0
    output_gain_db: float = 0.0

    def line(self) -> str:
        """In short."""
        fix = f"; {self.fix}: {self.gain_db:+.1f} dB" if self.fix else ""
        return f"{self.layer}: {self.snr_db:.1f} dB ({self.alone_db:.1f} alone), {self.cause}{fix}"


@dataclass(frozen=True)
class Diagnosis:
    """The layers, the worst first, and the model's outputs in dB."""

    rows: tuple[Row, ...]
    outputs_db: Mapping[str, float]

    def lines(self, count: int = 3) -> list[str]:
        """The worst layers, for the summary of a compilation."""
        outputs = ", ".join(f"{name} {db:.1f} dB" for name, db in self.outputs_db.items())
        return [f"error: {outputs}", *(f"error: {row.line()}" for row in self.rows[:count])]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and JSON."""
        return {"outputs_db": dict(self.outputs_db), "layers": [asdict(row) for row in self.rows]}


def diagnose(
    study: Study, float_layers: Collection[str] = (), harm: Mapping[str, float] | None = None, worst: int = WORST
) -> Diagnosis:
    """The diagnosis of a quantization; `float_layers` are those left float beside the study's own.

    `harm` is what each layer costs at the outputs, in dB, if known (see budget.py): the worst layers are those of most
    harm, or else those of most noise of their own.

    Takes a run of the model for each of a few samples, and a handful more for each of the `worst` layers.
    """
    placement = study.placed(float_layers)
    layers, samples = placement.layers, list(study.samples[:_PROBES])
    if not layers or not samples:
        return Diagnosis((), {})
    alone, harm = _alone(study, layers, samples), harm or {}
    order = sorted(layers, key=lambda n: (-harm.get(n.name, 0.0), alone[n][0]))
    whole = _Whole(study, placement, samples, order[:worst])
    facts = facts_of(study, layers, samples)
    rows = []
    for node in order:
        known = replace(facts[node], snr=whole.snr(node.outputs[0].name), alone=alone[node][0])
        known = replace(known, input_only=alone[node][1], weights_only=alone[node][2])
        cause, detail = cause_of(known)
        rows.append((node, known, Row(node.name, node.op, known.snr, known.alone, cause, detail)))
    tried = [whole.best_fix(row, node, known) for node, known, row in rows[:worst]]
    outputs = {name: whole.snr(name) for name in whole.outputs}
    return Diagnosis((*tried, *(row for _, _, row in rows[worst:])), outputs)


def _alone(study: Study, layers: Sequence[Node], samples: Sequence[Sample]) -> dict[Node, tuple[float, float, float]]:
    """dB of each layer given float inputs: quantized as a whole, its input only, its weights only."""
    trials = []
    for node in layers:
        grid, weights = study.choice.grids[node.operand(0)], study.choice.weights_of(node)
        trials += [Trial(node, {0: grid, 1: weights}), Trial(node, {0: grid}), Trial(node, {1: weights})]
    outcomes = iter(Recorded(study.graph, layers, samples, rows=JUDGED).measure(trials))
    found = {}
    for node in layers:
        both, x, w = next(outcomes), next(outcomes), next(outcomes)
        if node in study.choice.shifts:
            both = both.shifted(study.choice.shifts[node])
        found[node] = both.snr, x.snr, w.snr
    return found


class _Whole:
    """The whole int8 model beside the float one, every layer's output watched."""

    def __init__(self, study: Study, placement: Placement, samples: Sequence[Sample], asked: Sequence[Node]) -> None:
        self._study, self._samples = study, samples
        graph = study.graph
        watch = [n.outputs[0] for n in placement.layers]
        self.outputs = list(graph.output_names)
        runner = Runner(graph, list(dict.fromkeys([*(v.name for v in graph.outputs), *(v.name for v in watch)])))
        named = dict(zip(graph.output_names, (v.name for v in graph.outputs), strict=True))
        self._expected = []
        for sample in samples:
            results = runner.run(sample)
            self._expected.append(results | {name: results[value] for name, value in named.items()})
        self._switch = WhatIf(graph, placement, study.choice, watch, asked)
        self._found = [self._switch.run(s) for s in samples]
        self._by_method = {m: grids_of(placement, study.histograms, m) for m in CANDIDATES}

    def snr(self, name: str, found: Sequence[Mapping[str, np.ndarray]] | None = None) -> float:
        """dB of an output or a layer's result."""
        signal = noise = 0.0
        for expected, got in zip(self._expected, found or self._found, strict=True):
            x, y = expected[name].astype(np.float64), got[name].astype(np.float64)
            if x.shape != y.shape:
                return 0.0
            finite = np.isfinite(x)
            signal += float((x[finite] ** 2).sum())
            noise += float((np.where(np.isfinite(y), y - x, x)[finite] ** 2).sum())
        return decibels(signal, noise)

    def best_fix(self, row: Row, node: Node, facts: Facts) -> Row:
        """The row with the fix that serves the layer best: 8 bits where they gain half of what float does."""
        layer, output = node.outputs[0].name, self.outputs[0]
        before = self.snr(output)
        tried: list[tuple[float, float, str]] = []
        for name, fix in self._fixes(row.cause, node, facts):
            found = [self._switch.run(s, {node: fix}) for s in self._samples]
            gain = self.snr(layer, found) - row.snr_db
            tried.append((gain, self.snr(output, found) - before, name))
        float_ = tried.pop()  # the last one
        best = max(tried, default=float_)
        chosen = best if best[0] >= max(_WORTH, float_[0] / 2) else float_
        if chosen[0] < _WORTH or chosen[1] <= 0:
            return row
        if row.cause == "none" and chosen[1] >= _SENSITIVE:
            row = replace(row, cause="sensitive", detail=f"{row.detail}, but what follows amplifies its error")
        return replace(row, fix=chosen[2], gain_db=chosen[0], output_gain_db=chosen[1])

    def _fixes(self, cause: str, node: Node, facts: Facts) -> Iterator[tuple[str, Fix]]:
        """What may help against the cause, float last. A mean that was corrected for the old quantization is not for
        another."""
        value, none = node.operand(0), np.zeros(output_channels(node))
        seen = {self._study.choice.grids[value]}
        for method, grids in self._by_method.items() if cause in _OF_THE_RANGE else ():
            if value in grids and grids[value] not in seen:
                seen.add(grids[value])
                yield f"range by {method}", Fix(grid=grids[value], shift=none)
        divisor = equalizer(node, facts.channels) if cause in _OF_THE_RANGE | _OF_THE_WEIGHTS else None
        if divisor is not None:
            grid, weights = _equalized(node, facts, divisor)
            yield "equalize channels", Fix(grid, weights, divisor, none)
        yield KEEP_FLOAT, FLOAT


def equalizer(node: Node, maxima: np.ndarray) -> np.ndarray | None:
    """What to divide a layer's input channels by, f32 [channels]; None where the layer reads zeros only.

    s_c = sqrt(max |x_c| / max |w_c|), which evens out the ranges of both (Xiao et al., SmoothQuant, 2023, equation 4,
    with alpha = 1/2).
    """
    weights = weight_range(node).astype(np.float64)
    live = (maxima > 0) & (weights > 0)
    if not live.any():
        return None
    ratio = np.sqrt(np.where(live, maxima, 1.0) / np.where(live, weights, 1.0))
    return np.where(live, ratio, 1.0).astype(np.float32)


def _equalized(node: Node, facts: Facts, divisor: np.ndarray) -> tuple[Affine, np.ndarray]:
    """The grid of the divided input (of all that was seen), and the multiplied weights as their integers stand for."""
    low, high = float((facts.lowest / divisor).min()), float((facts.highest / divisor).max())
    scale, zero = Range(min(low, 0.0), max(high, 0.0)).affine()
    weights = nearest(scaled_weights(node, divisor), channel_axis(node))
    return Affine(float(scale), zero), floats_of(node, weights)
