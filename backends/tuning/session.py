"""Tuning as a compilation uses it: a graph, a database, a planner."""

from __future__ import annotations

import os
from pathlib import Path

from ...compiler.errors import UnsupportedError, UsageError
from ...compiler.ir import Graph
from ..fallback import Fallback
from ..runtime.host import host_features
from ..target import Target
from .database import Database, Setting
from .planner import Tuned
from .tasks import Collector, Task, weights_stay
from .tuner import Limits, Outcome, Say, tune


def default_path() -> Path:
    """The database where the user names none: beside what optc caches."""
    from ..runtime.toolchain import cache_folder

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "tuning.db"


def planner_for(graph: Graph, target: Target, path: Path) -> Tuned:
    """A planner for an optimized graph that knows what the database at `path` says. Raises DatabaseError if that cannot
    be used."""
    with Database(path) as database:
        return Tuned.of(database, graph, target)


def known_of(target: Target, path: Path) -> str:
    """A digest of what a compilation for `target` may learn from the database at `path`."""
    with Database(path) as database:
        return database.digest(Setting.of(target))


def tune_graph(graph: Graph, target: Target, path: Path, limits: Limits, say: Say) -> Outcome:
    """Measures kernels for an optimized graph; the database at `path` is made if there is none.

    Raises DatabaseError for a database that cannot be used, UnsupportedError where this machine cannot measure.
    """
    check_host(target)
    with Database(path, create=True) as database:
        return tune(tasks_of(graph, target), target, database, limits, say)


def tasks_of(graph: Graph, target: Target) -> dict[Task, int]:
    """The regions of an optimized graph that have kernels to choose from, and how often each occurs."""
    collector = Collector(resident=weights_stay(graph, target))
    target.lower(graph, Fallback(), collector)
    return collector.counts


def check_host(target: Target) -> None:
    """Raises UnsupportedError or UsageError unless this machine can measure kernels of a target."""
    here = Target.host()
    if target.device or target.triple != here.triple or not host_features().issuperset(target.features):
        raise UnsupportedError(
            f"tuning measures on this machine, which does not run code for {target.name}",
            hint="Tune on a machine that does, with --db FILE, and pass the file here.",
        )
    cores = len(os.sched_getaffinity(0))
    if target.num_cores > cores:
        raise UsageError(
            "kernels for more threads than there are cores cannot be measured", expected=f"at most {cores}",
            found=target.num_cores, hint="Set --threads.",
        )  # fmt: skip
