"""One run over the calibration data, however many statistics are asked of however many values.

Memory is bounded by a budget whatever the number of samples: a statistic does not grow, and values of a sample that
do not fit together are had in several runs over that sample.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.errors import CalibrationError
from ...compiler.ir import Graph, Value
from ...compiler.types import substitute
from .checkpoint import Checkpoint
from .execute import Runner, Sample, values_by_name
from .samples import checked
from .statistics import Wanted

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the work done, 0 to 1 (0 while the total is not known)."""
Results = dict[str, np.ndarray]


@dataclass
class Collected:
    """The statistics by value name, how many samples they saw, and whether those were made up."""

    statistics: Wanted
    samples: int = 0
    synthetic: bool = False


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
    """Runs the float graph over the samples and updates the statistics `wanted` of its values, by value name.

    `budget` bounds in bytes what is in memory at once of weights and values; the least that is taken at a time is one
    value of one sample. `threads` samples are under way at once, which is faster than threads within one; statistics
    see them in order.

    `state` is a file written every few seconds and when something fails. A later call for the same graph, statistics
    and `key` (a name for the data and its preprocessing) goes on behind the samples already seen, and reads no data
    if all were. Whatever is raised, the samples before it are in the statistics; they are in the file, too, unless an
    interrupt or a NaN came amidst a sample, which leaves the file as it was seconds before.

    Raises CalibrationError, naming the sample, for data that does not fit the model or fails (see samples.checked)
    and where a value is NaN; UsageError for a name that is no value of the main graph.
    """
    values = values_by_name(graph, list(wanted))
    done = Collected(wanted, synthetic=bool(getattr(samples, "synthetic", False)))
    checkpoint = Checkpoint(state, graph, wanted, key) if state is not None else None
    if checkpoint is not None:
        done.samples, complete = checkpoint.load()
        if complete:
            return done
    total = len(samples) if isinstance(samples, Sized) else 0
    whole = True  # no sample is half in the statistics
    rest = checked(samples, graph.inputs, done.samples)
    try:
        with contextlib.closing(_Runs(graph, values, budget, threads).over(rest)) as runs:
            for parts in runs:
                for results in parts:
                    whole = False
                    _update(wanted, results)
                    del results  # the next run needs the room
                done.samples, whole = done.samples + 1, True
                if checkpoint is not None:
                    checkpoint.save_if_due(done.samples)
                if progress:
                    progress(f"calibrating: sample {done.samples}", done.samples / total if total else 0.0)
    except BaseException as error:
        if checkpoint is not None and whole:
            with contextlib.suppress(CalibrationError):  # the first error is the one to tell
                checkpoint.save(done.samples)
        if isinstance(error, CalibrationError) and error.node is None:
            raise CalibrationError(error.message, node=f"sample {done.samples}", hint=error.hint) from error
        raise
    if checkpoint is not None:
        checkpoint.save(done.samples, complete=True)
    return done


def _update(wanted: Wanted, results: Results) -> None:
    for name, array in results.items():
        try:
            for statistic in wanted[name]:
                statistic.update(array)
        except CalibrationError as error:
            raise CalibrationError(f"value {name}: {error.message}", hint=error.hint) from error


class _Runs:
    """Runs of samples for all the values, as many at once as memory and threads allow."""

    def __init__(self, graph: Graph, values: Mapping[str, Value], budget: int, threads: int) -> None:
        self._graph, self._values, self._threads = graph, values, max(threads, 1)
        weights = sum(v.type.nbytes for v in graph.constants())
        self._room = max(budget - weights, budget // 4)
        self._largest = -1  # bytes of the largest sample so far
        self._groups: list[list[str]] = []
        self._depth = 1
        self._runners: list[Runner] = []

    def over(self, samples: Iterator[Sample]) -> Generator[Iterator[Results], None, None]:
        """For each sample in order the results of its runs, a run for each group of values that fits.

        An error in the data comes after the results of the samples before it.
        """
        waiting: deque[Future[Results]] = deque()
        failures: list[CalibrationError] = []
        with ThreadPoolExecutor(self._threads) as pool:
            for sample in _until_failure(samples, failures):
                if self._outgrown(sample):
                    yield from _finished(waiting, 0)
                    self._plan(sample)
                if len(self._runners) == 1:
                    waiting.append(pool.submit(self._runners[0].run, sample))
                    yield from _finished(waiting, self._depth - 1)
                else:
                    yield (runner.run(sample) for runner in self._runners)
            yield from _finished(waiting, 0)
        if failures:
            raise failures[0]

    def _outgrown(self, sample: Sample) -> bool:
        return sum(array.nbytes for array in sample.values()) > self._largest

    def _plan(self, sample: Sample) -> None:
        """Cuts the values into groups whose arrays for a sample like this fit, and makes the runners."""
        self._largest = sum(array.nbytes for array in sample.values())
        sizes = _sizes(self._graph, self._values, sample)
        groups: list[list[str]] = [[]]
        used = 0
        for name, size in sizes.items():
            if used + size > self._room and groups[-1]:
                groups.append([])
                used = 0
            groups[-1].append(name)
            used += size
        depth = min(self._threads, max(1, self._room // max(sum(sizes.values()), 1)))
        if (groups, depth) != (self._groups, self._depth) or not self._runners:
            self._groups, self._depth = groups, depth
            self._runners = [Runner(self._graph, g, threads=self._threads // depth) for g in groups]


def _sizes(graph: Graph, values: Mapping[str, Value], sample: Sample) -> dict[str, int]:
    """Bytes of the values for a sample; of those whose shape depends on more than the inputs', the largest other's."""
    binding: dict[Any, Any] = {}
    for value in graph.inputs:
        declared = zip(value.type.shape or (), sample[value.name].shape, strict=False)
        binding |= {dim: size for dim, size in declared if not isinstance(dim, int)}
    known: dict[str, int] = {}
    for name, value in values.items():
        type = value.type.with_shape(None if value.type.shape is None else substitute(value.type.shape, binding))
        if type.is_static:
            known[name] = type.nbytes
    guess = max([*known.values(), *(array.nbytes for array in sample.values())], default=0)
    return {name: known.get(name, guess) for name in values}


def _until_failure(samples: Iterator[Sample], failures: list[CalibrationError]) -> Iterator[Sample]:
    """The samples up to an error, which is noted."""
    try:
        yield from samples
    except CalibrationError as error:
        failures.append(error)


def _finished(waiting: deque[Future[Results]], left: int) -> Iterator[Iterator[Results]]:
    """The oldest results, until only `left` are under way."""
    while len(waiting) > left:
        yield iter([waiting.popleft().result()])
