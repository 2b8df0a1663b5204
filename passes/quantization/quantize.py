"""From a float graph and calibration samples to a graph in standard QDQ form.

`quantize` does it all in place. `study` calibrates and decides only, and its result quantizes copies of the float
graph at will, with any layers left float, without looking at the data again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
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
from . import record
from .agreement import kinds_of
from .bias import shifts_of
from .budget import JUDGED, walk, work_of
from .calibrate import Collected, Progress, collect
from .checkpoint import state_path
from .diagnose import diagnose
from .execute import Sample
from .forms.normalize import NormalizeQuantized
from .histogram import Histogram
from .insert import Choice, applied, insert
from .judge import Judge, Scored
from .observers import Method
from .placement import Placement, place
from .ranges import best_grids, grids_of
from .record import Recorded
from .report import Kept, QuantizeReport
from .rounding import rounded
from .samples import checked
from .smooth import LEAST_GAIN, apply_scalings, scalable, scaled_copy, scalings
from .statistics import Statistic
from .synthetic import Synthetic

_WORTH = 0.1
"""dB that equalizing must gain at the outputs: less is by chance."""
_FITTED = 16
"""Samples at most to which quantizations are fitted: a quarter of the data."""
_JUDGED = (8, 100)
"""Samples on which they are judged, at least and at most: others, half of the data; calibration proper sees all."""
_UNKNOWN = 32
"""Samples judged on of data whose length is not known."""
_EFFORT = 100e9
"""Multiply-adds of a score beyond which it takes no more samples than the least."""
_RECORDED = 12
"""Samples of which layers' inputs are recorded."""
_IN_A_ROW = 20
"""Samples taken one after the other for a score: they may be calls of a model with a state (see agreement.py)."""
_SHARE = 8
"""Samples may take this part of the memory allowed."""


@dataclass(frozen=True)
class Recipe:
    """How to quantize. `method` chooses ranges (see observers.py; "auto": what costs least); layers named in
    `float_layers` stay float; `smooth`, `round_weights` and `correct_bias` are algorithms that may be switched off;
    `budget` is the share of the float model's score that int8 may cost, None: whatever it costs; `diagnose` asks
    for causes and fixes of errors; `memory` bounds calibration, in bytes."""

    method: Method | Literal["auto"] = "auto"
    float_layers: frozenset[str] = frozenset()
    smooth: bool = True
    round_weights: bool = True
    correct_bias: bool = True
    budget: float | None = None
    diagnose: bool = False
    memory: int = 2 << 30
    threads: int = 1


@dataclass(frozen=True)
class Study:
    """A float graph, where and how it is to be quantized, the samples on which that was decided, those on which it may
    be judged, and the distribution of each quantized value by name."""

    graph: Graph
    placement: Placement
    choice: Choice
    samples: tuple[Sample, ...]
    report: QuantizeReport
    judged: tuple[Sample, ...] = ()
    histograms: Mapping[str, Histogram] = field(default_factory=dict)

    def quantized(self, float_layers: Collection[str] = ()) -> Graph:
        """A quantized copy in which the layers of these names stay float too."""
        return applied(self.graph, self.placed(float_layers), self.choice)

    def placed(self, float_layers: Collection[str] = ()) -> Placement:
        """The placement in which the layers of these names stay float too."""
        return place(self.graph, {*self.report.float_layers, *float_layers}) if float_layers else self.placement


def quantize(
    graph: Graph,
    calibration: Calibration | None,
    recipe: Recipe | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Quantizes a float graph in place; without calibration data on samples made up for its inputs.

    `cache` is a folder in which an interrupted calibration, and the search for layers to leave float, go on later;
    it serves data with a key.

    Raises CalibrationError for samples that do not fit the model.
    """
    recipe = recipe or Recipe()
    found = study(graph, calibration, recipe, cache=cache, progress=progress)
    placement = found.placement
    if recipe.budget is not None:
        state = _state(cache, found.graph, calibration)
        steps = None if state is None else state.with_suffix(".budget.json")
        metric = calibration.metric if calibration else None
        walked = walk(found, recipe.budget, metric, found.judged, state=steps, say=progress)
        placement = found.placed(walked.best.float_layers)
        found.report.took(walked, placement)
    if recipe.diagnose:
        report = found.report
        harm = report.walk.harm if report.walk else None
        report.explained(diagnose(found, report.float_layers, harm), kinds_of(graph))
    insert(graph, placement, found.choice)
    return found.report


def study(
    graph: Graph,
    calibration: Calibration | None,
    recipe: Recipe | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Study:
    """Decides how to quantize a float graph, which is simplified in place and stays float. `cache` as in `quantize`.

    Parts of the graph that are quantized already stay so, in the one form that all passes know.

    Raises CalibrationError for samples that do not fit the model.
    """
    recipe = recipe or Recipe()
    data = calibration or Calibration(None)
    say = progress or (lambda what, share: None)
    NormalizeQuantized().run(graph, PassContext())
    simplify(graph, ctx=PassContext())
    placement = place(graph, recipe.float_layers)
    samples: Iterable[Any] = Synthetic(graph) if data.samples is None else data.samples
    if isinstance(samples, Iterator):
        samples = Rewound(samples)
    studied = shuffled(_studied(graph, samples, placement, recipe.memory))
    judged = few(samples, graph, JUDGED, _IN_A_ROW) if recipe.budget is not None and data.metric is None else studied
    fitting = min(_FITTED, -(-len(studied) // 2), max(_JUDGED[0], len(studied) // 3))
    fit, judge = studied[:fitting], studied[fitting:]
    smoothed: dict[Node, Kept] = {}
    overall = Judge(graph, placement, judge, threads=recipe.threads)
    if recipe.smooth and judge:
        say("equalizing channels", 0.0)
        smoothed = _smooth(graph, placement, fit, overall, recipe)
        placement = place(graph, recipe.float_layers)
        overall = Judge(graph, placement, judge, overall, recipe.threads)
    state = _state(cache, graph, calibration)
    seen = observe(graph, placement.values, samples, recipe, state=state, key=data.key, progress=progress)
    layers = [n.name for n in placement.layers]
    report = QuantizeReport(layers, len(placement.values), seen.samples, seen.synthetic, recipe.float_layers)
    report.record("channels equalized", smoothed)

    say("choosing ranges", 0.0)
    histograms = {name: h for name, each in seen.statistics.items() for h in each if isinstance(h, Histogram)}
    fitted = _recorded(graph, placement, fit, recipe)
    if recipe.method == "auto":
        grids, method = best_grids(placement, histograms, fitted, overall)
        report.notes.append(f"ranges: {method}")
    else:
        grids = grids_of(placement, histograms, recipe.method)
    choice = Choice(grids)
    guard = _Guard(overall)
    weighed = _recorded(graph, placement, judge, recipe, rows=record.JUDGED)
    if recipe.round_weights and judge:
        say("rounding weights", 0.0)
        weights, steps = rounded(placement, choice, fitted, weighed)
        choice = guard.better(choice, replace(choice, weights=weights), report, "weights reconstructed", steps)
    if recipe.correct_bias and judge:
        say("correcting biases", 0.0)
        shifts, steps = shifts_of(placement, choice, fitted, weighed)
        choice = guard.better(choice, replace(choice, shifts=shifts), report, "bias corrected", steps)
    return Study(graph, placement, choice, tuple(studied), report, tuple(judged), histograms)


def _state(cache: Path | None, graph: Graph, calibration: Calibration | None) -> Path | None:
    """The file of a calibration in the cache folder; None for data that cannot be recognized."""
    known = cache is not None and calibration is not None and calibration.samples is not None and calibration.key
    return state_path(cache, graph, known) if cache is not None and known else None


def _recorded(graph: Graph, placement: Placement, samples: Sequence[Sample], recipe: Recipe, **more: Any) -> Recorded:
    """What the layers read on some of the samples."""
    some = samples[:_RECORDED]
    return Recorded(graph, placement.layers, some, memory=recipe.memory, threads=recipe.threads, **more)


def _smooth(
    graph: Graph, placement: Placement, fit: Sequence[Sample], judge: Judge, recipe: Recipe
) -> dict[Node, Kept]:
    """Equalizes channels, in place, as far as that brings the quantized outputs nearer to the float ones.

    All layers that gain are tried, then the half that gains most, and so on; ranges are those of the samples `fit`.
    """
    channels = scalable(placement)
    histograms = {v.name: Histogram() for v in placement.values}
    beside: dict[str, list[Statistic]] = {name: [h] for name, h in histograms.items()}
    for value, statistic in channels.items():
        beside.setdefault(value.name, []).append(statistic)
    fitted = _recorded(graph, placement, fit, recipe, rows=record.JUDGED, beside=beside)
    found = scalings(graph, fitted, _recorded(graph, placement, judge.samples, recipe, rows=record.JUDGED), channels)
    useful = [each for each in found if each.gain > LEAST_GAIN]
    if useful:
        before = judge.on(Choice(grids_of(placement, histograms, "mse")))
        while useful:
            copy = scaled_copy(graph, useful)
            places = place(copy, recipe.float_layers)
            again = {v.name: Histogram() for v in places.values}
            collect(copy, {name: [h] for name, h in again.items()}, fit[:_RECORDED], threads=recipe.threads)
            scaled = Judge(copy, places, judge.samples, judge, recipe.threads)
            if scaled.on(Choice(grids_of(places, again, "mse"))).gain_over(before) > _WORTH:
                break
            useful = useful[: len(useful) // 2]
    steps = {node: step for each in found for node, step in each.steps.items()}
    return steps | apply_scalings(graph, useful)


class _Guard:
    """Judges choices as a whole: what helps each layer may still hurt the outputs."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: Scored | None = None

    def better(
        self, old: Choice, new: Choice, report: QuantizeReport, algorithm: str, steps: Mapping[Node, Kept]
    ) -> Choice:
        """The new choice, which is better layer by layer, if the outputs say so too; the report gets the steps."""
        before = self._known if self._known and self._known.choice is old else self._judge.on(old)
        after = self._judge.on(new)
        kept = after.gain_over(before) > 0
        report.record(algorithm, steps if kept else {n: s._replace(kept=False) for n, s in steps.items()})
        self._known = after if kept else before
        return self._known.choice


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


def _studied(graph: Graph, samples: Any, placement: Placement, memory: int) -> list[Sample]:
    """The samples to study."""
    first = few(samples, graph, 1)
    if not first:
        return []
    least, most = _JUDGED
    count = len(samples) // 2 if isinstance(samples, Sized) else _UNKNOWN
    work = sum(work_of(graph, placement.layers, first[0]).values())
    count = max(least, min(count, most, int(_EFFORT / max(work, 1))))
    count += max(least, min(_FITTED, count // 2))
    nbytes = sum(array.nbytes for array in first[0].values())
    return few(samples, graph, max(1, min(count, memory // _SHARE // max(nbytes, 1))))


def shuffled(samples: Sequence[Sample]) -> list[Sample]:
    """In an order that has nothing to do with the data's, always the same: any first few of them are a fair sample."""
    return [samples[i] for i in np.random.default_rng(0).permutation(len(samples))]


def few(samples: Any, graph: Graph, count: int, in_a_row: int = 1) -> list[Sample]:
    """At most `count` of the samples, checked: spread evenly, so many in a row, over data of known length, else the
    first ones.

    Those behind one that is faulty are left out: calibration tells of it.
    """
    chosen = samples
    if isinstance(samples, Rewound):
        chosen = samples.first(count)
    elif isinstance(samples, Sized) and isinstance(samples, Iterable) and not isinstance(samples, Mapping):
        step = max(1, len(samples) // count)
        chosen = (sample for i, sample in enumerate(samples) if i // in_a_row % step == 0)
    found: list[Sample] = []
    with contextlib.suppress(CalibrationError):
        for sample in islice(checked(chosen, graph.inputs), count):
            found.append(sample)
    return found
