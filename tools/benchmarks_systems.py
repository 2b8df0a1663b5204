"""What a page of benchmarks compares, for each precision, and how one model is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..backends.runtime.model import load
from ..compiler.driver import compile_to, tune_model
from ..compiler.options import Calibration, Options
from ..models.zoo import ZooModel
from .accuracy import CALIBRATION, budget_of
from .bench import ROUNDS, Timing, compare
from .peers import PEERS, Run, Sample
from .peers_int8 import INT8_PEERS, digest


@dataclass(frozen=True)
class Comparison:
    """A page: optc's ways, the first of which is compared with all others; peers that count; peers only shown.

    `goal` is of the geometric mean of optc's time over the best peer's; no model may be above 1. `judged`: a peer
    counts on a model only if its accuracy holds there.
    """

    precision: str
    own: tuple[str, ...]
    rivals: tuple[str, ...]
    goal: float
    shown: tuple[str, ...] = ()
    judged: bool = False

    @property
    def systems(self) -> tuple[str, ...]:
        return (*self.own, *self.rivals, *self.shown)


OWN_FLOAT = "optc fp32"
COMPARISONS = {
    page.precision: page
    for page in (
        Comparison("fp32", (OWN_FLOAT,), ("onnxruntime", "openvino"), 0.80),
        Comparison("bf16", ("optc bf16", OWN_FLOAT), ("openvino-bf16",), 0.85, shown=("onnxruntime",)),
        Comparison("int8", ("optc int8", OWN_FLOAT), (*INT8_PEERS, "openvino-bf16"), 0.65, judged=True),
    )
}

OWN_CALIBRATION, RANDOM_CALIBRATION = 32, 16
"""Samples for optc's static-shape copy, and for all systems where weights are random: enough for speed."""


@dataclass(frozen=True)
class Row:
    """One model at one thread count: optc's timing, then the others'. `failures` says why a system has none."""

    precision: str
    model: str
    threads: int
    timings: tuple[Timing, ...]
    holds: Mapping[str, bool] = field(default_factory=dict)
    """What is known of each system's accuracy; absent: not judged."""
    failures: Mapping[str, str] = field(default_factory=dict)

    def timing(self, name: str) -> Timing | None:
        return next((t for t in self.timings if t.name == name), None)

    def counts(self, name: str) -> bool:
        """Is this a peer to be compared with here?"""
        page = COMPARISONS[self.precision]
        return name in page.rivals and (not page.judged or self.holds.get(name, True))

    @property
    def best(self) -> Timing | None:
        """The fastest peer that counts, by the paired ratio."""
        return max((t for t in self.timings if self.counts(t.name)), key=lambda t: t.ratio, default=None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it."""
        return asdict(self)

    @staticmethod
    def from_dict(found: Mapping[str, Any]) -> Row:
        return Row(**{**found, "timings": tuple(Timing(**t) for t in found["timings"])})


def at_shapes(sample: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Realistic inputs repeated or cut to the benchmark's shapes."""
    out = {}
    for name, array in sample.items():
        shape = shapes.get(name, array.shape)
        for axis, size in enumerate(shape):
            array = np.take(array, np.arange(size) % max(array.shape[axis], 1), axis)
        out[name] = np.array(array, order="C")  # keeps rank 0, as ascontiguousarray does not
    return out


class Bench:
    """One zoo model and all systems of a page, at the model's static shape. Use as a context: it keeps artifacts.

    `db` is a tuning database for optc.
    """

    def __init__(self, page: Comparison, name: str, db: Path | None = None) -> None:
        self.page, self.model, self.db = page, models.get(name), db
        self.path = self.model.path()
        self.sample = at_shapes(self.model.inputs(), self.model.static_shapes)
        self.shapes = {key: array.shape for key, array in self.sample.items()}
        self._folder = tempfile.TemporaryDirectory(prefix="optc-bench-")
        self._calibration: list[Sample] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def prepare(self, tuning: float = 0.0) -> dict[str, str]:
        """Compiles and quantizes for every system, so that `measure` finds all in caches; returns what failed.

        Before, measures kernels into the database for about so many seconds for each of optc's ways. Raises OptcError
        if optc cannot compile the model.
        """
        for name in self.page.own:
            if tuning and self.db:
                options, calibration = own_options(name, self.model, self.shapes, self.db)
                tune_model(self.path, options, tuning, calibration=calibration)
            self.artifact(name)
        failures = {}
        for name in self.page.rivals:
            if name in INT8_PEERS:
                try:
                    INT8_PEERS[name].quantized(self.path, self.calibration())
                except Exception as error:  # whatever a quantizer raises on a model is a result of this comparison
                    failures[name] = _one_line(error)
        return failures

    def artifact(self, name: str) -> Path:
        """The file of one of optc's ways."""
        path = Path(self._folder.name) / f"{name}.optc"
        if not path.exists():
            options, calibration = own_options(name, self.model, self.shapes, self.db)
            compile_to(self.path, path, options, calibration=calibration)
        return path

    def calibration(self) -> list[Sample]:
        """Samples for the peers' quantizers."""
        if not self._calibration:
            count = CALIBRATION if self.model.metrics else RANDOM_CALIBRATION
            self._calibration = list(self.model.samples("calibration", count))
        return self._calibration

    def runner(self, name: str, threads: int) -> Run:
        """The system, ready to run. Raises what it raises."""
        if name in self.page.own:
            return load(self.artifact(name), threads).run
        if name in INT8_PEERS:
            peer = INT8_PEERS[name]
            return peer.run(peer.quantized(self.path, self.calibration()), threads, self.shapes, copy=False)
        return PEERS[name](self.path, threads, self.shapes, copy=False)

    def measure(self, threads: int, rounds: int, seconds: float, holds: Mapping[str, bool]) -> Row:
        """Times all systems, for about so many seconds at most. Raises OptcError if optc cannot compile the model."""
        systems: list[tuple[str, Callable[[], object]]] = []
        failures = {}
        for name in self.page.systems:
            try:
                run = self.runner(name, threads)
                run(self.sample)
            except Exception as error:  # whatever an engine raises on a model is a result of this comparison
                if name in self.page.own:
                    raise
                failures[name] = _one_line(error)
            else:
                systems.append((name, lambda run=run: run(self.sample)))  # type: ignore[misc]
        timings = compare(systems, rounds, threads, seconds)
        return Row(self.page.precision, self.model.name, threads, tuple(timings), holds, failures)


def own_options(
    name: str, model: ZooModel, shapes: Mapping[str, tuple[int, ...]], db: Path | None = None
) -> tuple[Options, Calibration | None]:
    """How optc compiles a zoo model at fixed shapes: `name` is "optc fp32", "optc bf16" or "optc int8"."""
    tuned = str(db) if db else None
    if name == "optc int8":
        samples = [at_shapes(s, model.static_shapes) for s in model.samples("calibration", OWN_CALIBRATION)]
        options = Options(shapes=shapes, int8=True, accuracy_budget=budget_of(model.name), db=tuned)
        return options, Calibration(samples, digest(model.path(), samples, "calibration"))
    return Options(shapes=shapes, bf16=name == "optc bf16", db=tuned), None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def quick(row: Row) -> str:
    """A row for the terminal, with CPU over wall time, which shows a system that takes more threads than it may."""
    cells = [f"{t.name} {t.median_ms:.3f} ms x{t.cpu:.1f} ({t.ratio:.2f})" for t in row.timings]
    failed = [f"{name} fails" for name in row.failures]
    return f"{row.model:<24} {row.threads} thread(s)  {'  '.join([*cells, *failed])}"


DEFAULT_ROUNDS, DEFAULT_SECONDS = ROUNDS, 25.0
