"""Which kernel a region gets: families of kernels say what is legal, a planner picks.

A candidate is a family (a module of backends/kernels) with one of its plans. Without tuning the first candidate is
taken, the cost model's guess; a tuned compile takes what was measured to be the fastest (tuning/planner.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..passes.regions import Region
    from .target import Target


class Family(Protocol):
    """A module of kernels that compute the same from one kind of spec."""

    __name__: str

    def plans(self, spec: Any, target: Target) -> Iterator[Any]:
        """Legal plans, the best guess first."""


@dataclass(frozen=True)
class Candidate:
    """A kernel that computes a region. Its text is its identity: equal for equal family and plan, in any process."""

    family: Any
    plan: Any

    @property
    def name(self) -> str:
        """The family below backends/kernels, e.g. "amx conv"."""
        return str(self.family.__name__).rpartition("kernels.")[2].replace(".", " ")

    def __str__(self) -> str:
        return f"{self.name} {self.plan}"


@dataclass(frozen=True)
class Choice:
    """What a planner is asked: `families` compute `spec`, the anchor of `region`, the likely best one first."""

    region: Region
    spec: Any
    families: Sequence[Family]
    target: Target

    def candidates(self) -> Iterator[Candidate]:
        """All there are, each once: the families' plans, the best guess first, then variants of those. Raises
        UnsupportedError as the families' `plans` do."""
        known: dict[Candidate, None] = {}
        for family in self.families:
            for plan in family.plans(self.spec, self.target):
                candidate = Candidate(family, plan)
                if candidate not in known:
                    known[candidate] = None
                    yield candidate
        from .kernels.variants import variants

        for guessed in list(known):
            for plan in variants(self.spec, guessed.plan, self.target):
                candidate = Candidate(guessed.family, plan)
                if candidate not in known:
                    known[candidate] = None
                    yield candidate


class Planner(Protocol):
    """Picks one of the candidates."""

    def choose(self, choice: Choice) -> Candidate:
        """A candidate of `choice`."""


class FirstGuess:
    """Takes what the cost model thinks best."""

    def choose(self, choice: Choice) -> Candidate:
        return next(choice.candidates())
