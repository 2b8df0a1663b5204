"""Finds kernels for the regions of a model by measuring, for as long as that promises to pay."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from ..target import Target
from .client import Client, TrialFailed
from .database import Database, Setting, Trial
from .search import PATIENCE, Search, transferred
from .tasks import Task

TRIAL_SECONDS = 30.0
"""A kernel that is not built by then, or does not return by then, is given up."""
SAMPLE_SECONDS, CONFIRM_SECONDS = 0.08, 0.2
"""How long a kernel is timed beside the first guess, and again if it seems to be the best so far."""
SMALL = 3e-4
"""The search ends when the next trial is expected to save less than this share of all regions' time."""
EXPLORED = 4
"""So many trials of a region make its best kernel an example for others."""
MOST_WORKERS = 4

Say = Callable[[str, float], None]


@dataclass(frozen=True)
class Limits:
    """When to stop: after so many seconds, after so many trials (None: no limit), or when little gain is expected;
    `exhaustive`: that never, but when every kernel was measured."""

    seconds: float | None = 120.0
    trials: int | None = None
    exhaustive: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a search found: times are seconds a run of the model in all its regions, by first guesses and by the best
    kernels known now; `trials` were measured this time, `failed` of which could not."""

    regions: int
    trials: int
    failed: int
    seconds: float
    before: float
    after: float

    def as_dict(self) -> dict[str, float]:
        """For machines."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        gain = f"{self.before / self.after:.2f}x" if self.after else "1.00x"
        return [
            f"{self.regions} regions, {self.trials} kernels measured in {self.seconds:.0f} s, {self.failed} failed",
            f"regions together: {1e3 * self.before:.3f} ms by first guesses, {1e3 * self.after:.3f} ms tuned ({gain})",
        ]


def tune(
    tasks: Mapping[Task, int], target: Target, database: Database, limits: Limits | None = None, say: Say | None = None
) -> Outcome:
    """Measures kernels for `tasks` (with how often each occurs) on this machine; each result is written as it comes.

    What the database knows already is not measured again. `say` is told the progress.
    """
    return _Tuner(tasks, target, database, limits or Limits(), say or (lambda what, share: None)).run()


class _Tuner:
    def __init__(self, tasks: Mapping[Task, int], target: Target, database: Database, limits: Limits, say: Say) -> None:
        self.target, self.database, self.limits, self.say = target, database, limits, say
        self.setting = Setting.of(target)
        self.known = {key: (spec, candidate) for key, spec, candidate in database.neighbours(self.setting)}
        self.started = time.monotonic()
        self.trials = self.failed = 0
        scores = database.scores(self.setting)
        self.searches = [
            Search(task, count) for task, count in tasks.items() if len(task.candidates) > 1
        ]  # fmt: skip
        for search in self.searches:
            search.learn(scores.get(search.task.key, []))

    def run(self) -> Outcome:
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        with contextlib.ExitStack() as stack:
            benches = [_Bench(stack.enter_context(Client(self.target))) for _ in range(workers)]
            while picks := self.picks(len(benches)):
                self.wave(benches, picks)
        times = [(s.count * s.seconds, s.best[1]) for s in self.searches if s.seconds is not None]
        return Outcome(
            len(self.searches), self.trials, self.failed, self.elapsed,
            sum(t for t, _ in times), sum(t * ratio for t, ratio in times),
        )  # fmt: skip

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def picks(self, most: int) -> list[tuple[Search, str]]:
        """The most promising trials; none when it is time to stop."""
        limits = self.limits
        left = most if limits.trials is None else min(most, limits.trials - self.trials)
        if limits.seconds is not None and self.elapsed >= limits.seconds:
            return []
        total = sum(s.count * s.seconds * s.best[1] for s in self.searches if s.seconds is not None)
        found: list[tuple[Search, str]] = []
        pending: dict[Search, list[str]] = {search: [] for search in self.searches}
        while pending and len(found) < left:
            search = max(pending, key=lambda s: s.gain() * PATIENCE ** len(pending[s]))
            if search.gain() * PATIENCE ** len(pending[search]) <= (0.0 if limits.exhaustive else SMALL * total):
                break
            if not pending[search]:  # another tuner may have been there
                search.learn(self.database.scores(self.setting, search.task.key).get(search.task.key, []))
                if len(search.ratios) == 1:
                    search.start = transferred(search.task, self.known)
            candidate = search.next(pending[search])
            if candidate is None:
                del pending[search]
                continue
            pending[search].append(candidate)
            found.append((search, candidate))
        return found

    def wave(self, benches: Sequence[_Bench], picks: Sequence[tuple[Search, str]]) -> None:
        """Builds these kernels at the same time, then times one after the other."""
        idle = list(benches)
        begun: list[tuple[_Bench, Search, str]] = []
        for search, candidate in picks:
            bench = next((b for b in idle if b.has(search)), idle[0])
            idle.remove(bench)
            bench.begin(search, candidate)
            begun.append((bench, search, candidate))
        built = [(bench, search, candidate, bench.finish(search)) for bench, search, candidate in begun]
        for bench, search, candidate, error in built:
            best = search.best[1] if search.seconds is not None else 0.0
            trial = bench.time(search, candidate, best) if error is None else _failure(search, candidate, error)
            self.database.record(search.task, self.setting, trial)
            search.tried(candidate, trial.ratio, trial.seconds or 0.0)
            if len(search.ratios) >= EXPLORED:
                self.known[search.task.key] = (search.task.spec, search.best[0])
            self.trials += 1
            self.failed += trial.ratio is None
            self.tell(search)

    def tell(self, search: Search) -> None:
        limits = self.limits
        shares = [self.elapsed / limits.seconds] if limits.seconds else []
        shares += [self.trials / limits.trials] if limits.trials else []
        if limits.exhaustive:
            shares.append(self.trials / sum(len(s.task.candidates) for s in self.searches))
        self.say(f"trial {self.trials}: {search.task.name} {1 / search.best[1]:.2f}x", min(1.0, max(shares, default=0)))


class _Bench:
    """A worker with what it has built: first guesses stay, what is tried beside them goes."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._firsts: set[tuple[int, str]] = set()
        self._pending: list[str] = []

    def has(self, search: Search) -> bool:
        return (self.client.generation, search.task.key) in self._firsts

    def begin(self, search: Search, candidate: str) -> None:
        """Lets the worker build the candidate, and the first guess if it has none."""
        self.client.start()
        kernels = {search.task.key: search.first} if not self.has(search) else {}
        kernels |= {"trial": candidate} if candidate != search.first else {}
        self._pending = list(kernels)
        for slot, text in kernels.items():
            request = {"do": "build", "slot": slot, "region": search.task.text, "candidate": text}
            self.client.send(request, TRIAL_SECONDS)

    def finish(self, search: Search) -> str | None:
        """Waits for what `begin` began; the error if there was one."""
        errors: list[str] = []
        for slot in self._pending:
            try:
                self.client.receive()
            except TrialFailed as error:
                errors.append(str(error))
                if not self.client.alive:
                    break
            else:
                if slot != "trial":
                    self._firsts.add((self.client.generation, slot))
        return errors[0] if errors else None

    def time(self, search: Search, candidate: str, best: float) -> Trial:
        """The candidate's time beside the first guess's; looked at for longer where it beats `best`."""
        second = search.task.key if candidate == search.first else "trial"
        request = {"do": "time", "first": search.task.key, "second": second}
        try:
            found = self.client.ask(request | {"seconds": SAMPLE_SECONDS}, TRIAL_SECONDS)
            if found["ratio"] < best:
                found = self.client.ask(request | {"seconds": CONFIRM_SECONDS}, TRIAL_SECONDS)
            self.client.ask({"do": "drop", "slot": "trial"}, TRIAL_SECONDS)
        except TrialFailed as error:
            return _failure(search, candidate, str(error))
        ratio = 1.0 if candidate == search.first else found["ratio"]
        return Trial(search.task.key, candidate, search.first, found["second"], ratio)


def _failure(search: Search, candidate: str, error: str) -> Trial:
    return Trial(search.task.key, candidate, search.first, error=error)
