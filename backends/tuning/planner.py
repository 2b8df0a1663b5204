"""Planners that know more than the cost model: one reads a database, one does as it is told."""

from __future__ import annotations

from ...compiler.errors import UnsupportedError
from ...compiler.ir import Graph
from ..planning import Candidate, Choice
from ..target import Target
from .database import Database, Score, Setting
from .tasks import region_key, region_text, weights_stay

WORTH = 0.99
"""What is not faster than the first guess by this much is no better: measurements are not more precise."""


class Tuned:
    """Takes the candidate that was fastest in a database, the first guess where none was faster.

    `chosen` counts the regions that have several: "measured" ones and "guessed" ones, of which the database knows
    nothing.
    """

    def __init__(self, scores: dict[str, list[Score]], *, resident: bool = False) -> None:
        self._scores, self._resident = scores, resident
        self.chosen = {"measured": 0, "guessed": 0}

    @staticmethod
    def of(database: Database, graph: Graph, target: Target) -> Tuned:
        """A planner that knows what the database says of this target, for regions of an optimized graph."""
        return Tuned(database.scores(Setting.of(target)), resident=weights_stay(graph, target))

    @property
    def note(self) -> str:
        """For the summary: how much the database knew."""
        return f"tuned: {self.chosen['measured']} of {sum(self.chosen.values())} regions were measured"

    def choose(self, choice: Choice) -> Candidate:
        candidates = choice.candidates()
        first = next(candidates)
        if next(candidates, None) is None:
            return first
        key = region_key(region_text(choice.region, resident=self._resident))
        known = self._scores.get(key, [])
        known = [score for score in known if score.baseline == str(first) and score.ratio is not None]
        self.chosen["measured" if known else "guessed"] += 1
        best = next((s for s in known if s.ratio is not None and s.ratio < WORTH), None)
        if best is None:
            return first
        return next((c for c in choice.candidates() if str(c) == best.candidate), first)


class Only:
    """Takes the candidate of one text. Raises UnsupportedError where a region has none such."""

    def __init__(self, candidate: str) -> None:
        self.candidate = candidate

    def choose(self, choice: Choice) -> Candidate:
        found = next((c for c in choice.candidates() if str(c) == self.candidate), None)
        if found is None:
            raise UnsupportedError("no such kernel for this region", found=self.candidate)
        return found
