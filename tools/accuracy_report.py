"""What the scores of accuracy.py say: differences from the float model, verdicts, the page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .. import models
from ..models.metrics import Metric, MetricResult
from .accuracy import BUDGETS, FLOAT, OURS, Judged, judges
from .peers_int8 import INT8_PEERS

TITLES = {OURS: "optc int8", **{p.name: p.title for p in INT8_PEERS.values()}, "openvino-bf16": "OpenVINO bf16"}

ALLOWED = 0.003
"""The loss that int8 may cause: 0.3 points, or half the width of the interval if that is more."""


@dataclass(frozen=True)
class Row:
    """One metric of one model: the float figure, every system's difference from it, and where optc lies behind."""

    model: str
    metric: str
    agreement: bool
    """Agreement with the float model is no accuracy: an answer that differs may be right. It has no bar, but a peer
    must not do better."""
    base: MetricResult
    differences: Mapping[str, MetricResult]
    failures: Mapping[str, str] = field(default_factory=dict)
    worse: Mapping[str, MetricResult] = field(default_factory=dict)
    """Peers whose figure is above optc's, with the paired difference of optc from them."""

    @property
    def holds(self) -> bool:
        """Is optc's loss small enough?"""
        return OURS in self.differences and (self.agreement or within_bar(self.differences[OURS]))

    @property
    def behind(self) -> list[str]:
        """Peers that are better than optc by more than chance."""
        return [name for name, difference in self.worse.items() if difference.ci95[1] < 0]

    @property
    def passes(self) -> bool:
        return self.holds and not self.behind

    @property
    def verdict(self) -> str:
        """PASS; PASS with the peers that are above by no more than chance; FAIL with the reasons."""
        if OURS not in self.differences:
            return "FAIL: no result" if OURS in self.failures else "not judged"
        reasons = [] if self.holds else ["loss"]
        reasons += [f"behind {TITLES[name]}" for name in self.behind]
        if reasons:
            return f"FAIL: {', '.join(reasons)}"
        near = [TITLES[name] for name in self.worse]
        return f"PASS (level with {', '.join(near)})" if near else "PASS"


def within_bar(difference: MetricResult) -> bool:
    """Is the loss at most 0.3 points or half the paired interval, whichever is larger?"""
    low, high = difference.ci95
    return -difference.value <= max(ALLOWED, (high - low) / 2)


def rows(found: Mapping[str, Mapping[str, Judged]]) -> list[Row]:
    """A row a metric of each model: {model: {system: what was judged}} with the float model among the systems."""
    return [
        _row(name, metric, metric is models.get(name).agreement, judged)
        for name, judged in found.items()
        if FLOAT in judged and not judged[FLOAT].failure
        for metric in judges(models.get(name))
    ]


def _row(name: str, metric: Metric, agreement: bool, judged: Mapping[str, Judged]) -> Row:
    scores = {system: found.scores[metric.name] for system, found in judged.items() if not found.failure}
    float_scores = scores[FLOAT]
    base = MetricResult(metric.value(float_scores), len(float_scores), metric.interval(float_scores))
    behind = {}
    for peer in INT8_PEERS:
        if peer in scores and OURS in scores:
            difference = metric.difference(scores[peer], scores[OURS])
            if difference.value < 0:
                behind[peer] = difference
    return Row(
        name,
        metric.name,
        agreement,
        base,
        {system: metric.difference(float_scores, s) for system, s in scores.items() if system != FLOAT},
        {system: found.failure for system, found in judged.items() if found.failure},
        behind,
    )


def holding(table: Sequence[Row]) -> dict[str, dict[str, bool]]:
    """{model: {system: does every metric of it hold?}}; agreement does not count, a failure does not hold."""
    found: dict[str, dict[str, bool]] = {}
    for row in table:
        systems = found.setdefault(row.model, {})
        for system in row.failures:
            systems[system] = False
        if not row.agreement:
            for system, difference in row.differences.items():
                systems[system] = systems.get(system, True) and within_bar(difference)
    return found


def markdown(table: Sequence[Row], command: str, calibration: int) -> str:
    """The page. Figures are points: hundredths of a share, or of a correlation."""
    systems = [s for s in TITLES if any(s in row.differences or s in row.failures for row in table)]
    lines = [
        "# Accuracy of int8",
        "",
        f"Made by `{command}`.",
        f"All systems read the same {calibration} calibration samples, none of which is a test item. `fp32` is the",
        "float model on ONNX Runtime, in points (hundredths). The others are differences from it on the same items,",
        "± half of the paired 95% interval; n is the number of items. optc passes if it loses at most 0.3 points or",
        "half the interval, whichever is larger, and no peer's int8 is better; a peer that is above optc by less than",
        "the interval of their paired difference is named as level. `agreement` rows compare answers with the float",
        "model's instead of the right ones: there only the peers are a measure. OpenVINO runs what NNCF left in float",
        "in its default precision, bf16 where the processor has AMX.",
        *(f"optc compiles {n}* with --accuracy-budget {b:.1%}, all others without." for n, b in BUDGETS.items()),
        "",
        "| model | metric | n | fp32 | " + " | ".join(TITLES[s] for s in systems) + " | verdict |",
        "| --- | --- | ---: | ---: |" + " ---: |" * len(systems) + " --- |",
    ]
    for row in table:
        cells = [_cell(row, s) for s in systems]
        metric = f"{row.metric} (agreement)" if row.agreement else row.metric
        lines.append(
            f"| {row.model} | {metric} | {row.base.n} | {100 * row.base.value:.2f} | {' | '.join(cells)} "
            f"| {row.verdict} |"
        )
    passed = sum(row.passes for row in table)
    lines += ["", f"{passed} of {len(table)} rows pass.", ""]
    failures = {(row.model, system): why for row in table for system, why in row.failures.items()}
    if failures:
        lines += ["What failed:", ""]
        lines += [f"- {model}, {TITLES.get(system, system)}: {why}" for (model, system), why in failures.items()]
        lines.append("")
    return "\n".join(lines)


def _cell(row: Row, system: str) -> str:
    if system not in row.differences:
        return "fails" if system in row.failures else "-"
    difference = row.differences[system]
    low, high = difference.ci95
    return f"{100 * difference.value:+.2f} ± {50 * (high - low):.2f}"
