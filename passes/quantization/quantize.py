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

from ...compiler.errors import CalibrationError
from ...compiler.ir import Graph, Node, Value
from ...compiler.options import Calibration
from ..base import PassContext
from ..pipelines import simplify
from .agreement import kinds_of
from .bias import shifts_of
from .budget import JUDGED, walk
from .calibrate import Collected, Progress, collect
from .checkpoint import state_path
from .diagnose import diagnose
from .execute import Sample
from .forms.normalize import NormalizeQuantized
from .histogram import Histogram
from .insert import Choice, applied, insert
from .judge import Judge
from .observers import Method
from .placement import Placement, place
from .ranges import best_grids, grids_of
from .report import Kept, QuantizeReport
from .rounding import rounded
from .samples import checked
from .smooth import LEAST_GAIN, apply_scalings, scaled_copy, scalings
from .synthetic import Synthetic

_WORTH = 0.1
"""dB that equalizing must gain at the outputs: less is by chance."""
STUDIED = 16
"""Samples on which choices are measured; calibration proper sees all."""


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
    studied = few(samples, graph, STUDIED)
    judged = few(samples, graph, JUDGED) if recipe.budget is not None and data.metric is None else studied
    fit, judge = studied[::2], studied[1::2]
    smoothed: dict[Node, Kept] = {}
    if recipe.smooth and judge:
        say("equalizing channels", 0.0)
        smoothed = _smooth(graph, placement, fit, judge, recipe.float_layers)
        placement = place(graph, recipe.float_layers)
    state = _state(cache, graph, calibration)
    seen = observe(graph, placement.values, samples, recipe, state=state, key=data.key, progress=progress)
    layers = [n.name for n in placement.layers]
    report = QuantizeReport(layers, len(placement.values), seen.samples, seen.synthetic, recipe.float_layers)
    report.record("channels equalized", smoothed)

    say("choosing ranges", 0.0)
    overall = Judge(graph, placement, judge)
    histograms = {name: h for name, each in seen.statistics.items() for h in each if isinstance(h, Histogram)}
    if recipe.method == "auto":
        grids, method = best_grids(graph, placement, histograms, fit, overall)
        report.notes.append(f"ranges: {method}")
    else:
        grids = grids_of(placement, histograms, recipe.method)
    choice = Choice(grids)
    guard = _Guard(overall)
    if recipe.round_weights and judge:
        say("rounding weights", 0.0)
        weights, steps = rounded(graph, placement, choice, fit, judge)
        choice = guard.better(choice, replace(choice, weights=weights), report, "weights reconstructed", steps)
    if recipe.correct_bias and judge:
        say("correcting biases", 0.0)
        shifts, steps = shifts_of(graph, placement, choice, fit, judge)
        choice = guard.better(choice, replace(choice, shifts=shifts), report, "bias corrected", steps)
    return Study(graph, placement, choice, tuple(studied), report, tuple(judged), histograms)


def _state(cache: Path | None, graph: Graph, calibration: Calibration | None) -> Path | None:
    """The file of a calibration in the cache folder; None for data that cannot be recognized."""
    known = cache is not None and calibration is not None and calibration.samples is not None and calibration.key
    return state_path(cache, graph, known) if cache is not None and known else None


def _smooth(
    graph: Graph,
    placement: Placement,
    fit: Sequence[Sample],
    judge: Sequence[Sample],
    float_layers: Collection[str],
) -> dict[Node, Kept]:
    """Equalizes channels, in place, as far as that brings the quantized outputs nearer to the float ones.

    All layers that gain are tried, then the half that gains most, and so on; ranges are those of the samples `fit`.
    """
    found = scalings(graph, placement, fit, judge)
    useful = [each for each in found if each.gain > LEAST_GAIN]
    if useful:
        plain = Judge(graph, placement, judge)
        before = plain.snr(_plainly(graph, placement, fit))
        while useful:
            copy = scaled_copy(graph, useful)
            places = place(copy, float_layers)
            if Judge(copy, places, judge, plain.expected).snr(_plainly(copy, places, fit)) >= before + _WORTH:
                break
            useful = useful[: len(useful) // 2]
    steps = {node: step for each in found for node, step in each.steps.items()}
    return steps | apply_scalings(graph, useful)


def _plainly(graph: Graph, placement: Placement, samples: Sequence[Sample]) -> Choice:
    """A quantization for comparisons."""
    wanted = {v.name: [Histogram()] for v in placement.values}
    collect(graph, wanted, samples)
    return Choice(grids_of(placement, {name: each[0] for name, each in wanted.items()}, "mse"))


class _Guard:
    """Judges choices as a whole: what helps each layer may still hurt the outputs."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: tuple[Choice, float] | None = None

    def better(
        self, old: Choice, new: Choice, report: QuantizeReport, algorithm: str, steps: Mapping[Node, Kept]
    ) -> Choice:
        """The choice whose outputs are nearer to the float graph's; the report gets the steps, kept or not."""
        before = self._known[1] if self._known and self._known[0] is old else self._judge.snr(old)
        after = self._judge.snr(new)
        kept = after > before
        report.record(algorithm, steps if kept else {n: s._replace(kept=False) for n, s in steps.items()})
        self._known = (new, after) if kept else (old, before)
        return self._known[0]


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
