"""Compares the guided search of `optc tune` with an exhaustive one: which share of the possible gain it finds.

`python -m optc.tools.tune_bench [MODEL...] [--folder DIR] [--seconds 120] [--regions N]`: MODEL is a zoo name or an
ONNX file. For each model every kernel of every region is measured once (or, with --regions, of the N regions that take
longest), then a guided search starts from nothing. What each of them chose is then measured anew beside the first
guess, in turns, because the best of many noisy measurements looks better than it is. The exhaustive database is kept in
DIR, so that a run may be stopped and goes on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import models
from ..backends.target import Target
from ..backends.tuning.client import Client
from ..backends.tuning.database import Database, Setting
from ..backends.tuning.session import tasks_of
from ..backends.tuning.tasks import Task
from ..backends.tuning.tuner import Limits, Outcome, Say, tune
from ..compiler.driver import import_source, optimize
from ..compiler.options import Options

JUDGE_SECONDS = 0.4
"""How long a choice is measured at last."""
LIMIT = 120.0


@dataclass(frozen=True)
class Result:
    """Seconds a run of the model in all its regions: by first guesses, by what each search chose; and both searches."""

    before: float
    guided: float
    exhaustive: float
    search: Outcome
    trials: int

    @property
    def share(self) -> float:
        """The part of the exhaustive search's gain that the guided one found."""
        gain = self.before - self.exhaustive
        return (self.before - self.guided) / gain if gain > 0 else 1.0

    def row(self, name: str, regions: int) -> str:
        """A line of the table in docs/tuning.md."""
        return (
            f"| {name} | {regions} | {1e3 * self.before:.3f} | {1e3 * self.exhaustive:.3f} ({self.trials}) "
            f"| {1e3 * self.guided:.3f} ({self.search.trials} in {self.search.seconds:.0f} s) | {self.share:.0%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["fashion-cnn", "mobilenetv2", "resnet50"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "optc-tune-bench"))
    parser.add_argument("--seconds", type=float, default=120.0, help="time limit of the guided search")
    parser.add_argument("--regions", type=int, help="only so many regions, those that take longest")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    target = replace(Target.host(), num_cores=options.threads) if options.threads else Target.host()
    print("| model | regions | first guess, ms | exhaustive, ms (kernels) | guided, ms (kernels) | share of the gain |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in options.models:
        tasks = regions_of(name, target)
        database = options.folder / f"{name.replace('/', '_')}.db"
        if options.regions:
            tasks = heaviest(tasks, options.regions, target, database)
        result = compare(tasks, target, database, options.seconds)
        print(result.row(name, len(tasks)), flush=True)


def regions_of(name: str, target: Target) -> dict[Task, int]:
    """The regions with a choice of a model at its static shape."""
    path, shapes = Path(name), dict[str, tuple[int, ...]]()
    if not name.endswith(".onnx"):
        model = models.get(name)
        path, shapes = model.path(), {k: tuple(v.shape) for k, v in model.inputs().items()}
    graph = import_source(str(path), Options(shapes=shapes))
    optimize(graph)
    return {task: n for task, n in tasks_of(graph, target).items() if len(task.candidates) > 1}


def heaviest(tasks: Mapping[Task, int], most: int, target: Target, path: Path) -> dict[Task, int]:
    """The regions whose first guesses take the most time of a run."""
    with Database(path, create=True) as database:
        firsts = {Task(t.text, t.spec, t.candidates[:1] * 2): n for t, n in tasks.items()}
        tune(firsts, target, database, Limits(None, exhaustive=True), _say("first guesses"))
        scores = database.scores(Setting.of(target))
    times = {t: n * next(s.seconds for s in scores[t.key] if s.candidate == t.candidates[0]) for t, n in tasks.items()}
    return {t: tasks[t] for t in sorted(times, key=lambda t: -times[t])[:most]}


def compare(tasks: Mapping[Task, int], target: Target, path: Path, seconds: float) -> Result:
    """Both searches; the exhaustive one's results stay in the database at `path`."""
    setting = Setting.of(target)
    with Database(path, create=True) as full:
        tune(tasks, target, full, Limits(None, exhaustive=True), _say("exhaustive"))
        best = _choices(full, setting, tasks)
        trials = sum(len(task.candidates) for task in tasks)
    with tempfile.TemporaryDirectory() as folder, Database(Path(folder, "guided.db"), create=True) as fresh:
        search = tune(tasks, target, fresh, Limits(seconds), _say("guided"))
        found = _choices(fresh, setting, tasks)
    before = guided = exhaustive = 0.0
    with Client(target) as worker:
        for task, count in tasks.items():
            first, ratios = _judge(worker, task, {found[task], best[task]})
            before += count * first
            guided += count * first * ratios[found[task]]
            exhaustive += count * first * ratios[best[task]]
    return Result(before, guided, exhaustive, search, trials)


def _choices(database: Database, setting: Setting, tasks: Mapping[Task, int]) -> dict[Task, str]:
    """The fastest candidate of each task, the first guess where none is known to be faster."""
    scores = database.scores(setting)
    chosen = {}
    for task in tasks:
        good = [s for s in scores.get(task.key, []) if s.ratio is not None and s.baseline == task.candidates[0]]
        best = min(good, key=lambda s: s.ratio or 0.0, default=None)
        chosen[task] = best.candidate if best and best.ratio and best.ratio < 1 else task.candidates[0]
    return chosen


def _judge(worker: Client, task: Task, candidates: set[str]) -> tuple[float, dict[str, float]]:
    """Seconds of the first guess, and each candidate's ratio to it."""
    first = task.candidates[0]
    request = {"do": "build", "region": task.text}
    worker.ask(request | {"slot": "first", "candidate": first}, LIMIT)
    ratios, seconds = {first: 1.0}, 0.0
    for candidate in sorted(candidates | {first}):
        worker.ask(request | {"slot": "other", "candidate": candidate}, LIMIT)
        found = worker.ask({"do": "time", "first": "first", "second": "other", "seconds": JUDGE_SECONDS}, LIMIT)
        seconds = min(seconds or found["first"], found["first"])
        if candidate != first:
            ratios[candidate] = found["ratio"]
    return seconds, ratios


def _say(what: str) -> Say:
    """A line to the terminal every half minute."""
    last = time.monotonic()

    def say(message: str, share: float) -> None:
        nonlocal last
        if time.monotonic() - last > 30:
            last = time.monotonic()
            print(f"  {what}: {share:.0%} {message}", flush=True)

    return say


if __name__ == "__main__":
    main()
