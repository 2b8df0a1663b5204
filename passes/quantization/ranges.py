"""Which method's range each value gets: the one that costs least where the value is read.

No method is the best everywhere: clipping what a percentile leaves out helps one value and ruins the next. What a
range costs is measured at the nodes that read the value, on the float graph with this one operand quantized.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...compiler.ir import Node, Value
from .histogram import Histogram
from .insert import Affine, Choice
from .judge import Judge
from .measure import Trial
from .observers import Method, Range, range_of
from .placement import Placement
from .record import JUDGED, Recorded

CANDIDATES: tuple[Method, ...] = ("mse", "percentile", "average", "minmax")
"""What is tried for each value, preferred first among equals. (Entropy is far behind these on every model seen.)"""
_ALIKE = 0.02
"""Scales this near to each other are not told apart."""
_Grids = dict[Value, Affine]


def grids_of(placement: Placement, histograms: Mapping[str, Histogram], method: Method) -> _Grids:
    """One u8 grid a group: the union of its members' ranges by `method`."""
    found: _Grids = {}
    for group in placement.groups:
        ranges = [range_of(histograms[v.name], method) for v in group]
        scale, zero_point = Range(min(r.low for r in ranges), max(r.high for r in ranges)).affine()
        found |= dict.fromkeys(group, Affine(float(scale), zero_point))
    return found


def best_grids(
    placement: Placement, histograms: Mapping[str, Histogram], fit: Recorded | None, judge: Judge
) -> tuple[_Grids, str]:
    """The grids that cost least, and what they are called.

    Group by group they are chosen at the readers; if one method for all values serves the graph's outputs better
    after all, that is taken. Without samples the first candidate is.
    """
    by_method: dict[str, _Grids] = {method: grids_of(placement, histograms, method) for method in CANDIDATES}
    if fit is None or not fit.samples:
        return by_method[CANDIDATES[0]], CANDIDATES[0]
    choices = {"auto": _by_readers(placement, list(by_method.values()), fit), **by_method}
    best = judge.best({name: Choice(grids) for name, grids in choices.items()})
    return choices[best], best


def _by_readers(placement: Placement, candidates: Sequence[_Grids], fit: Recorded) -> _Grids:
    """For each group of equal scale, the candidate with the least noise, as a share of the signal, at its readers."""
    trials: list[Trial] = []
    places: dict[tuple[Node, int, Affine], int] = {}
    for group in placement.groups:
        for grid in _distinct(grids[group[0]] for grids in candidates):
            for user, slot in (use for v in group for use in placement.readers[v]):
                if isinstance(user, Node):
                    places[user, slot, grid] = len(trials)
                    trials.append(Trial(user, {slot: grid}))
    outcomes = fit.measure(trials, JUDGED)
    chosen: _Grids = {}
    for group in placement.groups:
        readers = [(u.user, u.slot) for v in group for u in placement.readers[v] if isinstance(u.user, Node)]

        def cost(grid: Affine, readers: list[tuple[Node, int]] = readers) -> float:
            return sum(outcomes[places[user, slot, grid]].relative for user, slot in readers)

        best = min(_distinct(grids[group[0]] for grids in candidates), key=cost)
        chosen |= dict.fromkeys(group, best)
    return chosen


def _distinct(grids: Iterable[Affine]) -> list[Affine]:
    """Those that differ enough from the ones before them to be worth a trial."""
    found: list[Affine] = []
    for grid in grids:
        if not any(abs(grid.scale / g.scale - 1) < _ALIKE and abs(grid.zero_point - g.zero_point) < 2 for g in found):
            found.append(grid)
    return found
