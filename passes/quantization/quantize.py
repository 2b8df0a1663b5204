"""From a float graph and calibration samples to a graph in standard QDQ form."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...compiler.ir import Graph, Value
from ...compiler.options import Calibration
from ..base import PassContext
from ..pipelines import simplify
from .calibrate import Collected, Progress, collect
from .execute import Sample
from .histogram import Histogram
from .insert import Affine, insert
from .observers import Method, Range, range_of
from .placement import Placement, place
from .synthetic import Synthetic


@dataclass(frozen=True)
class Recipe:
    """How to quantize. `method` chooses ranges (see observers.py); layers named in `float_layers` stay float;
    `budget` is the share of the float model's score that int8 may cost, None: whatever it costs; `memory` bounds
    calibration, in bytes."""

    method: Method = "mse"
    float_layers: frozenset[str] = frozenset()
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
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        data = "synthetic samples: ACCURACY IS UNCHECKED, pass real ones" if self.synthetic else "samples"
        return [
            f"int8: {len(self.layers)} layers, {self.values} values, calibrated on {self.samples} {data}",
            *self.notes,
        ]


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
    recipe = recipe or Recipe()
    data = calibration or Calibration(None)
    simplify(graph, ctx=PassContext())
    placement = place(graph, recipe.float_layers)
    samples = Synthetic(graph) if data.samples is None else data.samples
    seen = observe(graph, placement.values, samples, recipe, state=state, key=data.key, progress=progress)
    insert(graph, placement, grids(placement, seen, recipe.method))
    layers = [n.name for n in placement.layers]
    return QuantizeReport(layers, len(placement.values), seen.samples, synthetic=seen.synthetic)


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


def grids(placement: Placement, seen: Collected, method: Method) -> dict[Value, Affine]:
    """One u8 grid a group: the union of its members' ranges."""
    histograms = {v: h for v in placement.values for h in seen.statistics[v.name] if isinstance(h, Histogram)}
    found: dict[Value, Affine] = {}
    for group in placement.groups:
        ranges = [range_of(histograms[v], method) for v in group]
        scale, zero_point = Range(min(r.low for r in ranges), max(r.high for r in ranges)).affine()
        found |= dict.fromkeys(group, Affine(float(scale), zero_point))
    return found
