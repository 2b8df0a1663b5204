"""What a model is good for, as a number with an interval: means of per-item scores, and rank correlation.

A metric judges a callable from inputs to outputs, so ONNX Runtime, optc and anything else are judged alike. Two
callables are compared item by item, since the difference of two separate figures hides behind their intervals.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]
Run = Callable[[Tensors], Tensors]
"""A model as the metrics see it: {input name: array} to {output name: array}."""

Z95 = 1.959964
"""97.5% quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Sample:
    """One item: inputs of batch 1 for the model, and what its answer is judged by."""

    inputs: Tensors
    target: Any


@dataclass(frozen=True)
class Pair(Sample):
    """Two inputs whose answers are compared; `target` is people's score of their likeness."""

    other: Tensors


@dataclass(frozen=True)
class MetricResult:
    """`value` over `n` items, with its 95% interval."""

    value: float
    n: int
    ci95: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.value:.4f} (n = {self.n}, 95% interval {self.ci95[0]:.4f} to {self.ci95[1]:.4f})"


Scores = NDArray[np.float64]
"""What a metric's value is made of, an entry (or a row) an item: two models are compared on the same items."""


class Metric(ABC):
    """A figure of merit; higher is better."""

    name: str

    @abstractmethod
    def scores(self, run: Run, n: int | None = None) -> Scores:
        """Judges `run` item by item on the first `n` items of the test split (all of them if None)."""

    @abstractmethod
    def value(self, scores: Scores) -> float:
        """The figure that these scores make."""

    @abstractmethod
    def interval(self, scores: Scores) -> tuple[float, float]:
        """95% interval of `value(scores)`."""

    @abstractmethod
    def difference_interval(self, a: Scores, b: Scores) -> tuple[float, float]:
        """95% interval of `value(b) - value(a)`, paired item by item."""

    def evaluate(self, run: Run, n: int | None = None) -> MetricResult:
        """The figure of `run` on the first `n` items of the test split (all of them if None)."""
        scores = self.scores(run, n)
        return MetricResult(self.value(scores), len(scores), self.interval(scores))

    def difference(self, a: Scores, b: Scores) -> MetricResult:
        """How much better `b` is than `a`, which are scores of the same items, with the paired 95% interval."""
        return MetricResult(self.value(b) - self.value(a), len(a), self.difference_interval(a, b))

    def compare(self, run_a: Run, run_b: Run, n: int | None = None) -> MetricResult:
        """`difference` of the two models' scores on the same items."""
        return self.difference(self.scores(run_a, n), self.scores(run_b, n))


@dataclass(frozen=True)
class MeanMetric(Metric):
    """The mean over all items of `score(run, sample)`, which is at most 1 for a perfect answer."""

    name: str
    samples: Callable[[int | None], Iterable[Sample]]
    """The first `n` test items, or all of them."""
    score: Callable[[Run, Sample], float]

    def scores(self, run: Run, n: int | None = None) -> Scores:
        return np.array([self.score(run, sample) for sample in self.samples(n)], np.float64)

    def value(self, scores: Scores) -> float:
        return float(scores.mean())

    def interval(self, scores: Scores) -> tuple[float, float]:
        return mean_interval(scores)

    def difference_interval(self, a: Scores, b: Scores) -> tuple[float, float]:
        return paired_interval(a, b)


@dataclass(frozen=True)
class SpearmanMetric(Metric):
    """Rank correlation between what the model says of each pair and what people said, intervals by bootstrap.

    A row of scores is the model's rating and people's.
    """

    name: str
    samples: Callable[[int | None], Iterable[Pair]]
    """The first `n` test pairs, or all of them."""
    rate: Callable[[Run, Pair], float]

    def scores(self, run: Run, n: int | None = None) -> Scores:
        return np.array([(self.rate(run, pair), pair.target) for pair in self.samples(n)], np.float64)

    def value(self, scores: Scores) -> float:
        return spearman(scores[:, 0], scores[:, 1])

    def interval(self, scores: Scores) -> tuple[float, float]:
        return _bootstrap(lambda i: self.value(scores[i]), len(scores))

    def difference_interval(self, a: Scores, b: Scores) -> tuple[float, float]:
        return _bootstrap(lambda i: self.value(b[i]) - self.value(a[i]), len(a))


def mean_interval(scores: NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of a mean: Wilson's (1927) if all scores are 0 or 1, which holds at the ends too, else normal."""
    n, mean = len(scores), float(scores.mean())
    if not np.isin(scores, (0, 1)).all():
        half = Z95 * float(scores.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
        return mean - half, mean + half
    centre = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n * n))
    return centre - half, centre + half


def paired_interval(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """95% interval of mean(b - a) over paired items.

    Scores of 0 or 1 use Agresti and Min's (2005) adjusted Wald interval, which stays honest when no pair differs.
    """
    n = len(a)
    difference = b - a
    if np.isin(np.concatenate([a, b]), (0, 1)).all():
        centre = float(difference.sum()) / (n + 2)
        discordant = float(np.abs(difference).sum()) + 1
        half = Z95 * math.sqrt(discordant - (n + 2) * centre**2) / (n + 2)
    else:
        centre = float(difference.mean())
        half = Z95 * float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return centre - half, centre + half


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation, ties given their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def _bootstrap(statistic: Callable[[NDArray[np.intp]], float], n: int, rounds: int = 1000) -> tuple[float, float]:
    """Percentile bootstrap over items, seeded."""
    rng = np.random.default_rng(0)
    values = [statistic(rng.integers(0, n, n)) for _ in range(rounds)]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


@lru_cache(maxsize=8)
def onnxruntime_run(path: Path) -> Run:
    """The model at `path` on ONNX Runtime, one thread: the fp32 answer that agreement is measured against."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Tensors) -> Tensors:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run
