"""Tuning as a compilation uses it: a graph, a database, a planner."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...compiler.errors import UnsupportedError, UsageError
from ...compiler.ir import Graph
from ..fallback import Fallback
from ..runtime.host import host_features
from ..target import Target
from .database import Database
from .planner import Tuned
from .tasks import Collector, Task
from .tuner import Limits, Outcome, Say, tune


def default_path() -> Path:
    """The database where the user names none: beside what optc caches."""
    from ..runtime.toolchain import cache_folder

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "tuning.db"


@dataclass(frozen=True)
class Request:
    """What a compilation asks of a database at `path`: to be tuned within `limits` first, or only to be read."""

    path: Path
    limits: Limits | None = None


def planner_for(graph: Graph, target: Target, request: Request, say: Say) -> tuple[Tuned, Outcome | None]:
    """A planner for an optimized graph; what tuning did, if it was asked for.

    Raises DatabaseError for a database that cannot be used, UnsupportedError where this machine cannot measure.
    """
    if request.limits is None:
        with Database(request.path) as database:
            return Tuned.of(database, target), None
    check_host(target)
    with Database(request.path, create=True) as database:
        outcome = tune(tasks_of(graph, target), target, database, request.limits, say)
        return Tuned.of(database, target), outcome


def tasks_of(graph: Graph, target: Target) -> dict[Task, int]:
    """The regions of an optimized graph that have kernels to choose from, and how often each occurs."""
    collector = Collector()
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
