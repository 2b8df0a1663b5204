"""Which kernel of a region to measure next, and what that may gain."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from .database import Score
from .planner import WORTH
from .space import distance
from .tasks import Task

HOPE = 0.12
"""The share of a region's time that the first trials are expected to save..."""
PATIENCE = 0.8
"""...and by what that shrinks with each that does not."""


class Search:
    """The search for one region's kernel, which occurs `count` times in a model.

    Begins with the first guess, then what was best for the nearest shape, then alternates between the neighbours of the
    best so far and the cost model's order. `seconds` is what the first guess takes, once known, and `start` a candidate
    that was good elsewhere.
    """

    def __init__(self, task: Task, count: int) -> None:
        self.task, self.count = task, count
        self.start: str | None = None
        self.first = task.candidates[0]
        self.seconds: float | None = None
        self.ratios: dict[str, float | None] = {}
        self._hope = HOPE
        self._turn = 0

    def learn(self, scores: Iterable[Score]) -> None:
        """Takes over what a database says of the region, but gives a first guess that failed another chance."""
        for score in scores:
            fresh = score.baseline == self.first and score.candidate not in self.ratios
            if fresh and (score.ratio is not None or score.candidate != self.first):
                self.tried(score.candidate, score.ratio, score.seconds)

    def tried(self, candidate: str, ratio: float | None, seconds: float = 0.0) -> None:
        """Notes a trial: its time by that of the first guess, None if it failed."""
        if candidate == self.first:
            self.seconds = seconds if ratio is not None else None
            self.ratios[candidate] = ratio
            return
        before = self.best[1]
        self.ratios[candidate] = ratio
        saved = 0.0 if ratio is None else 1 - ratio / before
        self._hope = max(self._hope * PATIENCE, min(HOPE, saved)) if saved > 1 - WORTH else self._hope * PATIENCE

    @property
    def best(self) -> tuple[str, float]:
        """The fastest candidate so far and its ratio to the first guess, which it is where none is faster."""
        known = [(ratio, candidate) for candidate, ratio in self.ratios.items() if ratio is not None]
        ratio, candidate = min(known, default=(1.0, self.first))
        return (candidate, ratio) if ratio < WORTH else (self.first, 1.0)

    @property
    def broken(self) -> bool:
        """Whether not even the first guess runs."""
        return self.first in self.ratios and self.ratios[self.first] is None

    def gain(self) -> float:
        """Seconds a run of the model that the next trial is expected to save; infinite while nothing is known."""
        if self.broken or len(self.ratios) >= len(self.task.candidates):
            return 0.0
        if self.seconds is None:
            return float("inf")
        return self.count * self.seconds * self.best[1] * self._hope

    def next(self, pending: Collection[str] = ()) -> str | None:
        """The candidate to measure next, leaving out those under way; None if none is left."""
        open_ = [c for c in self.task.candidates if c not in self.ratios and c not in pending]
        if not open_ or self.broken:
            return None
        if self.first in open_ or self.seconds is None:
            return self.first if self.first in open_ else None
        if self.start is not None:
            start, self.start = self.start, None
            return nearest(start, open_)
        self._turn += 1
        return nearest(self.best[0], open_) if self._turn % 2 else open_[0]


def nearest(text: str, candidates: Sequence[str]) -> str:
    """The candidate most like `text`, the first of several."""
    return min(candidates, key=lambda c: distance(text, c))


def transferred(task: Task, known: Mapping[str, tuple[str, str]]) -> str | None:
    """The best candidate of the measured region whose spec is nearest; `known`: (spec, candidate) by region key."""
    other = [entry for key, entry in known.items() if key != task.key]
    if not other:
        return None
    return min(other, key=lambda entry: distance(task.spec, entry[0]))[1]
