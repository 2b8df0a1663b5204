"""From a float graph and calibration samples to a graph in standard QDQ form.

`quantize` does it all in place. `study` calibrates and decides only, and its result quantizes copies of the float
graph at will, with any layers left float, without looking at the data again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...compiler.errors import CalibrationError
from ...compiler.ir import Graph, Node, Value
from ...compiler.options import Calibration
from ..base import PassContext
from ..pipelines import simplify
from .bias import Kept, shifts_of
from .calibrate import Collected, Progress, collect
from .execute import Sample
from .histogram import Histogram
from .insert import Choice, applied, insert
from .observers import Method
from .placement import Placement, place
from .ranges import best_grids, grids_of
from .samples import checked
from .synthetic import Synthetic

STUDIED = 16
"""Samples on which choices are measured; calibration proper sees all."""


@dataclass(frozen=True)
class Recipe:
    """How to quantize. `method` chooses ranges (see observers.py; "auto": what costs least); layers named in
    `float_layers` stay float; `correct_bias` is an algorithm that may be switched off; `budget` is the share of the
    float model's score that int8 may cost, None: whatever it costs; `memory` bounds calibration, in bytes."""

    method: Method | Literal["auto"] = "auto"
    float_layers: frozenset[str] = frozenset()
    correct_bias: bool = True
    budget: float | None = None
    memory: int = 2 << 30
    threads: int = 1


@dataclass
class QuantizeReport:
    """What was done, for the summary."""

    layers: list[str]
    values: int
    samples: int
    synthetic: bool = False
    float_layers: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    steps: dict[str, dict[str, Kept]] = field(default_factory=dict)
    """What each algorithm did, by layer and by the algorithm's name."""

    def record(self, algorithm: str, steps: Mapping[Node, Kept]) -> None:
        """Notes what an algorithm did to layers."""
        for node, step in steps.items():
            self.steps.setdefault(node.name, {})[algorithm] = step
        gains = [s.after - s.before for s in steps.values() if s.kept]
        if gains:
            text = f"{algorithm}: kept in {len(gains)} of {len(steps)} layers"
            self.notes.append(f"{text}, {np.mean(gains):+.1f} dB in the mean")

    def lines(self) -> list[str]:
        """For people."""
        data = "synthetic samples: ACCURACY IS UNCHECKED, pass real ones" if self.synthetic else "samples"
        return [
            f"int8: {len(self.layers)} layers, {self.values} values, calibrated on {self.samples} {data}",
            *self.notes,
        ]


@dataclass(frozen=True)
class Study:
    """A float graph, where and how it is to be quantized, and the samples on which that was decided."""

    graph: Graph
    placement: Placement
    choice: Choice
    samples: tuple[Sample, ...]
    report: QuantizeReport

    def quantized(self, float_layers: Collection[str] = ()) -> Graph:
        """A quantized copy in which the layers of these names stay float too."""
        placement = place(self.graph, {*self.report.float_layers, *float_layers}) if float_layers else self.placement
        return applied(self.graph, placement, self.choice)


def quantize(
    graph: Graph,
    calibration: Calibration | None,
    recipe: Recipe | None = None,
    *,
    state: Path | None = None,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Quantizes a float graph in place; without calibration data on samples made up for its inputs.

    Raises CalibrationError for samples that do not fit the model.
    """
    found = study(graph, calibration, recipe, state=state, progress=progress)
    insert(graph, found.placement, found.choice)
    return found.report


def study(
    graph: Graph,
    calibration: Calibration | None,
    recipe: Recipe | None = None,
    *,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Study:
    """Decides how to quantize a float graph, which is simplified in place and stays float.

    Raises CalibrationError for samples that do not fit the model.
    """
    recipe = recipe or Recipe()
    data = calibration or Calibration(None)
    say = progress or (lambda what, share: None)
    simplify(graph, ctx=PassContext())
    placement = place(graph, recipe.float_layers)
    samples: Iterable[Any] = Synthetic(graph) if data.samples is None else data.samples
    if isinstance(samples, Iterator):
        samples = Rewound(samples)
    studied = few(samples, graph, STUDIED)
    seen = observe(graph, placement.values, samples, recipe, state=state, key=data.key, progress=progress)
    layers = [n.name for n in placement.layers]
    report = QuantizeReport(layers, len(placement.values), seen.samples, seen.synthetic, recipe.float_layers)

    say("choosing ranges", 0.0)
    histograms = {name: h for name, each in seen.statistics.items() for h in each if isinstance(h, Histogram)}
    if recipe.method == "auto":
        grids, method = best_grids(graph, placement, histograms, studied)
        report.notes.append(f"ranges: {method}")
    else:
        grids = grids_of(placement, histograms, recipe.method)
    choice = Choice(grids)
    if recipe.correct_bias and len(studied) > 1:
        say("correcting biases", 0.0)
        shifts, steps = shifts_of(graph, placement, choice, studied[::2], studied[1::2])
        choice = replace(choice, shifts=shifts)
        report.record("bias", steps)
    return Study(graph, placement, choice, tuple(studied), report)


def observe(
    graph: Graph,
    values: Collection[Value],
    samples: Iterable[Sample],
    recipe: Recipe,
    *,
    state: Path | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Collected:
    """The histograms of `values` over the samples, by value name."""
    wanted = {v.name: [Histogram()] for v in values}
    return collect(
        graph, wanted, samples, budget=recipe.memory, threads=recipe.threads, state=state, key=key, progress=progress
    )


# --- a look at the samples ahead ---------------------------------------------------------------------------------


class Rewound:
    """An iterator of samples whose first ones can be looked at before; iterating gives them all, once."""

    def __init__(self, samples: Iterable[Any]) -> None:
        self._rest = iter(samples)
        self._first: list[Any] = []
        self._error: Exception | None = None
        self.synthetic = getattr(samples, "synthetic", False)

    def first(self, count: int) -> list[Any]:
        """The first samples; what getting one raises is raised again in its place when all are iterated over."""
        try:
            self._first += islice(self._rest, count - len(self._first))
        except Exception as error:  # the data is the user's code
            self._error = error
        return self._first[:count]

    def __iter__(self) -> Iterator[Any]:
        yield from self._first
        if self._error is not None:
            raise self._error
        yield from self._rest


def few(samples: Any, graph: Graph, count: int) -> list[Sample]:
    """At most `count` of the samples, checked: spread evenly over data of known length, else the first ones.

    Those behind one that is faulty are left out: calibration tells of it.
    """
    chosen = samples
    if isinstance(samples, Rewound):
        chosen = samples.first(count)
    elif isinstance(samples, Sized) and isinstance(samples, Iterable) and not isinstance(samples, Mapping):
        chosen = islice(samples, 0, None, max(1, len(samples) // count))
    found: list[Sample] = []
    with contextlib.suppress(CalibrationError):
        for sample in islice(checked(chosen, graph.inputs), count):
            found.append(sample)
    return found
