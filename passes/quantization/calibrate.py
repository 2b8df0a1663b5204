"""One run over the calibration data, however many statistics are asked of however many values."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...compiler.ir import Graph
from .execute import Runner, Sample
from .statistics import Statistic

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the work done, 0 to 1 (0 while the total is not known)."""
Wanted = Mapping[str, Sequence[Statistic]]


@dataclass(frozen=True)
class Collected:
    """The statistics by value, and how many samples they saw."""

    statistics: Wanted
    samples: int


def collect(
    graph: Graph,
    wanted: Wanted,
    samples: Iterable[Sample],
    *,
    budget: int = 2 << 30,
    threads: int = 1,
    state: Path | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Collected:
    """Runs the float graph over the samples and updates the statistics `wanted` of its values, by value name."""
    names = list(wanted)
    runner = Runner(graph, names)
    seen = 0
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for results in _ahead(pool, runner.run, iter(samples), max(threads, 1)):
            for name in names:
                for statistic in wanted[name]:
                    statistic.update(results[name])
            seen += 1
            if progress:
                progress(f"calibrating: {seen} samples", 0.0)
    return Collected(wanted, seen)


def _ahead(
    pool: ThreadPoolExecutor,
    run: Callable[[Sample], dict[str, np.ndarray]],
    samples: Iterator[Sample],
    depth: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Results in the samples' order, `depth` of them under way at once."""
    waiting: deque[Future[dict[str, np.ndarray]]] = deque()
    for sample in samples:
        waiting.append(pool.submit(run, sample))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
