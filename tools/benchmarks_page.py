"""The page of a benchmark: a row a model and thread count, then the figures that decide."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from .bench import Timing, geometric_mean
from .benchmarks_systems import COMPARISONS, OWN_FLOAT, Row
from .peers_int8 import INT8_PEERS

TITLES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bf16",
    **{peer.name: peer.title for peer in INT8_PEERS.values()},
}


def markdown(rows: Sequence[Row], command: str) -> str:
    """The page of rows of one precision."""
    page = COMPARISONS[rows[0].precision]
    ours = page.own[0]
    others = [s for s in page.systems[1:] if any(r.timing(s) or s in r.failures for r in rows if r.timings)]
    lines = [
        "# Benchmarks" + ("" if page.precision == "fp32" else f" of {page.precision}"),
        "",
        f"Made by `{command}` on {machine()}.",
        f"Medians of interleaved rounds at static shapes. A ratio is {ours}'s time over the other's, paired by round,",
        "with its 95% interval: below 1 optc is faster. Milliseconds on a shared machine swing between runs, ratios",
        "hardly do. `best peer` is the fastest that counts.",
    ]
    if page.judged:
        lines += [
            "A peer counts where its metric holds (loss at most 0.3 points or half its interval, see accuracy.md);",
            "ratios to peers whose metric does not hold are in brackets. Random weights have no accuracy, so there all",
            "peers count.",
        ]
    if page.shown:
        lines.append(f"{', '.join(TITLES[s] for s in page.shown)} (fp32) is shown, and does not count.")
    lines += [
        "",
        f"| model | threads | {ours} ms | best peer | its ms | optc / best | "
        + " | ".join(f"/ {TITLES.get(s, s)}" for s in others)
        + " |",
        "| --- | ---: | ---: | --- | ---: | ---: |" + " ---: |" * len(others),
    ]
    for row in rows:
        if row.timings:
            best = row.best
            cells = [TITLES[best.name], f"{best.median_ms:.3f}", f"**{_ratio(best)}**"] if best else ["none", "", ""]
            cells += [_cell(row, s) for s in others]
            lines.append(f"| {row.model} | {row.threads} | {row.timings[0].median_ms:.3f} | {' | '.join(cells)} |")
    lines += ["", *summary(rows), ""]
    failures = {(r.model, system): why for r in rows for system, why in r.failures.items()}
    if failures:
        lines += ["What failed:", ""]
        lines += [f"- {model}, {TITLES.get(system, system)}: {why}" for (model, system), why in failures.items()]
        lines.append("")
    return "\n".join(lines)


def _ratio(timing: Timing) -> str:
    return f"{timing.ratio:.2f} ({timing.low:.2f}-{timing.high:.2f})"


def _cell(row: Row, name: str) -> str:
    timing = row.timing(name)
    if timing is None:
        return "fails"
    page = COMPARISONS[row.precision]
    return f"[{_ratio(timing)}]" if name in page.rivals and not row.counts(name) else _ratio(timing)


def summary(rows: Sequence[Row]) -> list[str]:
    """Each goal with its figure, and the mean against each peer, for each thread count."""
    page = COMPARISONS[rows[0].precision]
    lines = []
    for threads in sorted({row.threads for row in rows}):
        mine = [row for row in rows if row.threads == threads and row.timings]
        best = {row.model: row.best.ratio for row in mine if row.best}
        start = f"- {threads} thread(s):"
        if best:
            mean, worst = geometric_mean(list(best.values())), max(best, key=lambda m: best[m])
            lines.append(
                f"{start} geometric mean of optc / best peer **{mean:.3f}** (goal: at most {page.goal:.2f}; "
                f"{_families_mean(best):.3f} with the silero-vad exports as one model): {_met(mean <= page.goal)}; "
                f"{len(best)} models, worst {worst} {best[worst]:.2f}"
            )
            lines.append(f"{start} no model above 1: {_above(best)}")
        if OWN_FLOAT in page.own[1:]:
            own = {row.model: t.ratio for row in mine if (t := row.timing(OWN_FLOAT))}
            of_own = f", geometric mean {geometric_mean(list(own.values())):.3f}" if own else ""
            lines.append(f"{start} never slower than optc's own fp32: {_above(own)}{of_own}")
        for system in (*page.rivals, *page.shown):
            ratios = [t.ratio for row in mine if (t := row.timing(system))]
            if ratios:
                lines.append(
                    f"{start} geometric mean of optc / {TITLES[system]}, {len(ratios)} models, whether it counts or "
                    f"not: {geometric_mean(ratios):.3f}"
                )
    return lines


def _families_mean(ratios: Mapping[str, float]) -> float:
    """The geometric mean with the silero-vad exports, which are one model, counted once."""
    families: dict[str, list[float]] = {}
    for model, ratio in ratios.items():
        families.setdefault("silero-vad" if model.startswith("silero-vad") else model, []).append(ratio)
    return geometric_mean([geometric_mean(family) for family in families.values()])


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _above(ratios: Mapping[str, float]) -> str:
    above = sorted(((r, model) for model, r in ratios.items() if r > 1), reverse=True)
    names = ", ".join(f"{model} {ratio:.2f}" for ratio, model in above)
    return f"{_met(not above)}{f', {len(above)} of {len(ratios)}: {names}' if above else ''}"


def machine() -> str:
    """The processor and how many cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {len(os.sched_getaffinity(0))} cores"
