"""The speed of int8 beside the peers': `python -m optc.tools.benchmarks --precision int8`.

A peer counts on a model if its metric holds there, by the scores that `python -m optc.tools.accuracy` kept; where
nothing was judged (random weights have no accuracy) it counts. What optc is compared with is the fastest that counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import models
from ..backends.runtime.model import load
from ..compiler.driver import compile
from .accuracy import CALIBRATION, OURS, budget_of
from .accuracy_report import TITLES
from .bench import Timing, compare, geometric_mean
from .benchmarks import at_shapes, machine
from .peers import PEERS, Run
from .peers_int8 import INT8_PEERS

OWN_FLOAT = "optc fp32"
RIVALS = (*INT8_PEERS, "openvino-bf16")

OWN_CALIBRATION, RANDOM_CALIBRATION = 32, 16
"""Samples for optc's static-shape copy, and for all systems where weights are random: enough for speed."""

GOAL = 0.75
"""Of the geometric mean of optc's time over the best peer's; no model may be above 1."""


@dataclass(frozen=True)
class Int8Row:
    """One model at one thread count: optc's int8 first, then its own fp32 and the peers."""

    model: str
    threads: int
    timings: tuple[Timing, ...]
    holds: Mapping[str, bool] = field(default_factory=dict)
    """What is known of each system's accuracy; absent: not judged."""
    failures: Mapping[str, str] = field(default_factory=dict)

    def timing(self, name: str) -> Timing | None:
        return next((t for t in self.timings if t.name == name), None)

    @property
    def best(self) -> Timing | None:
        """The fastest peer whose metric holds, by the paired ratio."""
        counting = [t for t in self.timings if t.name in RIVALS and self.holds.get(t.name, True)]
        return max(counting, key=lambda t: t.ratio, default=None)


def measure_int8(name: str, threads: Sequence[int], rounds: int, holds: Mapping[str, bool]) -> list[Int8Row]:
    """Times one zoo model at its static shape. Raises OptcError if optc cannot compile it."""
    entry = models.get(name)
    path = entry.path()
    sample = at_shapes(entry.inputs(), entry.static_shapes)
    shapes = {key: array.shape for key, array in sample.items()}
    own = [at_shapes(s, entry.static_shapes) for s in entry.samples("calibration", OWN_CALIBRATION)]
    samples = list(entry.samples("calibration", CALIBRATION if entry.metrics else RANDOM_CALIBRATION))
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, model in (
            (OURS, compile(path, int8=True, calibration=own, shapes=shapes, accuracy_budget=budget_of(name))),
            (OWN_FLOAT, compile(path, shapes=shapes)),
        ):
            model.save(Path(folder) / f"{kind}.optc")
        for count in threads:
            systems: list[tuple[str, Run]] = [
                (kind, load(Path(folder) / f"{kind}.optc", count).run) for kind in (OURS, OWN_FLOAT)
            ]
            failures = {}
            for rival in RIVALS:
                try:
                    if rival in INT8_PEERS:
                        peer = INT8_PEERS[rival]
                        run = peer.run(peer.quantized(path, samples), count, shapes)
                    else:
                        run = PEERS[rival](path, count, shapes)
                    run(sample)
                except Exception as error:  # whatever an engine raises on a model is a result of this comparison
                    failures[rival] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                else:
                    systems.append((rival, run))
            calls: list[tuple[str, Callable[[], object]]] = [(n, lambda r=r: r(sample)) for n, r in systems]  # type: ignore[misc]
            table.append(Int8Row(name, count, tuple(compare(calls, rounds, count)), holds, failures))
    return table


def line(row: Int8Row) -> str:
    """A row for the terminal, with CPU over wall time, which shows a system that takes more threads than it may."""
    cells = [f"{t.name} {t.median_ms:.3f} ms x{t.cpu:.1f} ({t.ratio:.2f})" for t in row.timings]
    return f"{row.model:<24} {row.threads} thread(s)  {'  '.join(cells)}"


def markdown_int8(table: Sequence[Int8Row], command: str) -> str:
    """The page, with the figures that decide: ratio to the best peer, geometric means, what is not met."""
    rivals = [r for r in RIVALS if any(row.timing(r) or r in row.failures for row in table)]
    lines = [
        "# Benchmarks of int8",
        "",
        f"Made by `{command}` on {machine()}.",
        "Medians of interleaved rounds at static shapes. A ratio is optc int8's time over the other's, paired by",
        "round, with a 95% interval: below 1 optc is faster. `best peer` is the fastest of those whose metric holds",
        "(loss at most 0.3 points or half its interval, see accuracy.md); ratios to peers whose metric does not hold",
        "are in brackets and do not count. Random weights have no accuracy, so there all peers count.",
        "",
        "| model | threads | optc int8 ms | / optc fp32 | "
        + " | ".join(f"/ {TITLES[r]}" for r in rivals)
        + " | best peer | optc / best |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(rivals) + " --- | ---: |",
    ]
    for row in table:
        best = row.best
        cells = [_ratio(row, OWN_FLOAT), *(_ratio(row, r) for r in rivals)]
        cells += [TITLES[best.name], f"**{best.ratio:.2f}** ({best.low:.2f}-{best.high:.2f})"] if best else ["none", ""]
        lines.append(f"| {row.model} | {row.threads} | {row.timings[0].median_ms:.3f} | {' | '.join(cells)} |")
    lines += ["", *summary(table), ""]
    failures = {(row.model, rival): why for row in table for rival, why in row.failures.items()}
    if failures:
        lines += ["What failed:", ""]
        lines += [f"- {model}, {TITLES[rival]}: {why}" for (model, rival), why in failures.items()]
        lines.append("")
    return "\n".join(lines)


def _ratio(row: Int8Row, name: str) -> str:
    timing = row.timing(name)
    if timing is None:
        return "fails"
    return f"{timing.ratio:.2f}" if row.holds.get(name, True) else f"({timing.ratio:.2f})"


def summary(table: Sequence[Int8Row]) -> list[str]:
    """Each goal with its figure, for each thread count."""
    lines = []
    for threads in sorted({row.threads for row in table}):
        mine = [row for row in table if row.threads == threads]
        best = {row.model: row.best.ratio for row in mine if row.best}
        own = {row.model: t.ratio for row in mine if (t := row.timing(OWN_FLOAT))}
        families: dict[str, list[float]] = {}
        for model, ratio in best.items():
            families.setdefault("silero-vad" if model.startswith("silero-vad") else model, []).append(ratio)
        if best:
            mean, once = geometric_mean(list(best.values())), [geometric_mean(r) for r in families.values()]
            lines.append(
                f"- {threads} thread(s): geometric mean of optc / best peer **{mean:.3f}** (goal: at most {GOAL}; "
                f"{geometric_mean(once):.3f} with the silero-vad exports as one model): {_met(mean <= GOAL)}"
            )
            lines.append(f"- {threads} thread(s): no model above 1: {_above(best)}")
        lines.append(f"- {threads} thread(s): int8 never slower than optc's own fp32: {_above(own)}")
    return lines


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _above(ratios: Mapping[str, float]) -> str:
    above = [f"{model} {ratio:.2f}" for model, ratio in ratios.items() if ratio > 1]
    return f"{_met(not above)}{': ' if above else ''}{', '.join(above)}"
