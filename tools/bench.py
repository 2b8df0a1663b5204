"""Timing that counts: all systems in one process, one run of each per round, ratios paired by round.

On shared machines milliseconds swing by a factor of two between minutes; the ratio of two systems within one round does
not. A round that the scheduler disturbed (involuntary context switches) is dropped where enough others remain.

Worker threads of some engines go on spinning for tens of milliseconds after a run and take a core from whoever is
measured next (seen: a factor of two). So with several threads each measurement waits until they sleep, and then runs
once untimed, so that the system's own workers and caches are warm.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 40
WARM_UP_SECONDS = 0.3
SETTLE_SECONDS = 0.1
"""Pause before a measurement with several threads."""
MIN_SECONDS = 0.001
"""A measurement repeats quick calls until it lasts about this long."""
MIN_ROUNDS = 9
"""However slow the systems are: fewer give no interval worth printing."""


@dataclass(frozen=True)
class Timing:
    """One system: median and 90th percentile in ms; `cpu`, CPU time over wall time, shows the threads it really used;
    `ratio` is the first system's time over this one's (below 1: the first is faster), with its 95% interval. `cpu_ms`
    is the least CPU time of a run, of all threads: what a busy machine still tells."""

    name: str
    median_ms: float
    p90_ms: float
    cpu: float
    ratio: float
    low: float
    high: float
    rounds: int
    cpu_ms: float = math.nan


def compare(
    systems: Sequence[tuple[str, Callable[[], object]]],
    rounds: int = ROUNDS,
    threads: int = 1,
    seconds: float = math.inf,
) -> list[Timing]:
    """Times the systems, which use `threads` threads each, round by round; all are compared with the first.

    After `seconds` no further round begins, if there were MIN_ROUNDS.
    """
    repeats = [_warm_up(run) for _, run in systems]
    end, done = time.perf_counter() + seconds, rounds
    wall = np.zeros((rounds, len(systems)))
    cpu = np.zeros_like(wall)
    switches = np.zeros(rounds)
    for index in range(rounds):
        order = range(len(systems)) if index % 2 == 0 else reversed(range(len(systems)))
        for which in order:
            run, count = systems[which][1], repeats[which]
            if threads > 1:
                time.sleep(SETTLE_SECONDS)
                run()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            cpu_start, start = time.process_time(), time.perf_counter()
            for _ in range(count):
                run()
            wall[index, which] = (time.perf_counter() - start) / count
            cpu[index, which] = (time.process_time() - cpu_start) / count
            switches[index] += resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before
        if index + 1 >= MIN_ROUNDS and time.perf_counter() > end:
            done = index + 1
            break
    wall, cpu, switches = wall[:done], cpu[:done], switches[:done]
    calm = switches <= np.median(switches)
    wall, cpu = wall[calm], cpu[calm]
    return [_timing(name, wall, cpu, which) for which, (name, _) in enumerate(systems)]


def _warm_up(run: Callable[[], object]) -> int:
    """Runs for a while; returns how many calls make one measurement."""
    end = time.perf_counter() + WARM_UP_SECONDS
    times: list[float] = []
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return max(1, math.ceil(MIN_SECONDS / float(np.median(times))))


def _timing(name: str, wall: np.ndarray, cpu: np.ndarray, which: int) -> Timing:
    own = wall[:, which]
    ratios = np.sort(wall[:, 0] / own)
    low, high = _median_interval(len(ratios))
    return Timing(
        name,
        float(np.median(own) * 1e3),
        float(np.percentile(own, 90) * 1e3),
        float(np.median(cpu[:, which] / own)),
        float(np.median(ratios)),
        float(ratios[low]),
        float(ratios[high]),
        len(own),
        float(cpu[:, which].min() * 1e3),
    )


def _median_interval(count: int) -> tuple[int, int]:
    """Ranks of the sorted sample that bracket the median with 95% (sign test, normal approximation)."""
    half = 0.98 * math.sqrt(count)
    return max(0, math.floor(count / 2 - half)), min(count - 1, math.ceil(count / 2 + half))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))
