"""Time of each step of a model beside its roofline (Williams, Waterman, Patterson 2009).

    python -m optc.tools.roofline [MODEL ...] [--precision fp32,int8] [--threads 1] [--markdown docs/roofline.md]

A step's work is its multiply-adds and the bytes it must touch (backends/costs.py); what the machine can do at best is
measured between the runs (ceilings.py). The time that a step would take at the ceiling is the larger of operations over
the ceiling of its kind of products and bytes over the bandwidth of the nearest cache that holds them all. The larger of
the two is what binds the step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..backends.report import kernels_of
from ..backends.runtime.model import Model, load
from ..backends.target import Target
from ..compiler.types import parse_dim, substitute, symbol
from .benchmarks_page import machine
from .benchmarks_systems import COMPARISONS, Bench
from .ceilings import LEVELS, UNITS, Ceilings, medians

ROUNDS = 20
Work = tuple[str, str, int, int]
"""Kind of products, op, multiply-adds, bytes (backends/costs.py)."""
NOTHING: Work = ("", "", 0, 0)
GOALS = {"f32": 0.8, "bf16": 0.5, "int8": 0.5}
"""Share of the ceiling that convolutions and matrix products are meant to reach where products bind them."""
PRODUCTS = ("Conv", "FusedConv", "ConvTranspose", "MatMul", "Gemm")
"""Ops that the goals are about: those that use what they load more than once or twice."""


@dataclass(frozen=True)
class Step:
    """One step: medians over rounds. `ideal_ms` is its time at the ceiling, `share` the part of the ceiling reached,
    `bound` what binds it: a kind of products, a level of memory, or "" where its work is not known (in loops)."""

    name: str
    made_by: str
    kind: str
    op: str
    macs: int
    nbytes: int
    milliseconds: float
    ideal_ms: float
    share: float
    bound: str


@dataclass(frozen=True)
class Part:
    """Some steps of a model."""

    steps: tuple[Step, ...]

    @property
    def milliseconds(self) -> float:
        return sum(step.milliseconds for step in self.steps)

    @property
    def share(self) -> float:
        """The part of their time that they would take at the ceiling."""
        return sum(step.milliseconds * step.share for step in self.steps) / (self.milliseconds or 1.0)

    @property
    def lowest(self) -> Step:
        """The step that reaches the least share of the ceiling."""
        return min(self.steps, key=lambda step: step.share)


@dataclass(frozen=True)
class Profile:
    """Steps in the order they run, and the ceilings (operations or bytes a second) measured between the runs."""

    threads: int
    ceilings: Mapping[str, float]
    steps: tuple[Step, ...]

    @property
    def milliseconds(self) -> float:
        return sum(step.milliseconds for step in self.steps)

    def bounds(self) -> dict[str, Part]:
        """The steps by what binds them, the longest part first."""
        names = dict.fromkeys(step.bound for step in self.steps)
        parts = {name: Part(tuple(s for s in self.steps if s.bound == name)) for name in names}
        return dict(sorted(parts.items(), key=lambda item: -item[1].milliseconds))

    def products(self, kind: str) -> Part:
        """The convolutions and matrix products bound by multiply-adds of this kind: what the goals are about."""
        return Part(tuple(s for s in self.steps if s.bound == kind and s.op in PRODUCTS))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "milliseconds": self.milliseconds,
            "bounds": {
                bound or "unknown": {"milliseconds": part.milliseconds, "share": part.share, "steps": len(part.steps)}
                for bound, part in self.bounds().items()
            },
        }


def profile(model: Model, sample: Mapping[str, np.ndarray], rounds: int = ROUNDS) -> Profile:
    """Profiles a model on one sample, the machine's ceilings measured before each run.

    Raises TargetError without a C compiler, ShapeError if the sample does not fit.
    """
    manifest = model.manifest
    target = Target.parse(manifest["target"]["name"])
    shapes = {name: array.shape for name, array in sample.items()}
    work = costs_of(manifest, shapes)
    touched = manifest["weights"]["bytes"] + model.workspace_bytes(shapes)
    ceilings = Ceilings(target, model.threads, touched)
    run = model.profiler(**sample)
    bursts, times = [], []
    for _ in range(rounds):
        bursts.append(ceilings.measure())
        run()  # brings the model's own data back into the caches, and its threads awake
        times.append(run())
    names, steps = manifest["steps"], []
    made_by = kernels_of(names, manifest["kernels"])
    for index, (name, cost) in enumerate(zip(names, work, strict=True)):
        taken = np.array([t[index] for t in times])
        ideals, bound = _ideal(cost, bursts, ceilings)
        share = float(np.median(ideals / np.maximum(taken, 1e-6)))
        ms = float(np.median(taken))
        steps.append(Step(name, made_by[index], *cost, ms, float(np.median(ideals)), share, bound))
    return Profile(model.threads, medians(bursts), tuple(steps))


def _ideal(cost: Work, bursts: Sequence[Mapping[str, float]], ceilings: Ceilings) -> tuple[np.ndarray, str]:
    """Milliseconds at the ceiling in each round, and what binds."""
    kind, _, macs, nbytes = cost
    level = ceilings.level(nbytes)
    moved = np.array([nbytes / burst[level] * 1e3 for burst in bursts])
    if kind not in bursts[0]:
        return moved, level if nbytes else ""
    computed = np.array([2 * macs / burst[kind] * 1e3 for burst in bursts])
    return np.maximum(computed, moved), kind if np.median(computed) >= np.median(moved) else level


def costs_of(manifest: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> list[Work]:
    """The work of each step for inputs of these shapes; nothing where it is not known: in loops, and where data
    decides."""
    binding = {
        symbol(dim): shapes[port["name"]][axis]
        for port in manifest["inputs"]
        for axis, dim in enumerate(port["shape"])
        if isinstance(dim, str) and dim.isidentifier()
    }
    found = []
    for cost in manifest.get("costs") or [None] * len(manifest["steps"]):
        kind, op, *amounts = cost or NOTHING
        macs, nbytes = substitute([parse_dim(str(dim)) for dim in amounts], binding)
        known = isinstance(macs, int) and isinstance(nbytes, int)
        found.append((kind, op, int(macs), int(nbytes)) if known else NOTHING)
    return found


# --- text ----------------------------------------------------------------------------------------------------------


def table(found: Profile, top: int | None = None) -> str:
    """The steps, the slowest first, and what the time was bound by."""
    total = found.milliseconds or 1.0
    lines = [f"{'ms':>9} {'of all':>6} {'rate':>13} {'bound by':>8} {'of ceiling':>10}  step"]
    for step in sorted(found.steps, key=lambda s: -s.milliseconds)[:top]:
        reached = f"{step.share:.0%}" if step.bound else ""
        lines.append(
            f"{step.milliseconds:9.4f} {step.milliseconds / total:6.1%} {rate(step):>13} {step.bound or '-':>8} "
            f"{reached:>10}  {step.name}  [{step.made_by.split(' ')[0] or 'C'}]"
        )
    lines.append(f"{total:9.4f} ms in {len(found.steps)} steps, {found.threads} thread(s): {_shares(found)}")
    lines.append(f"ceilings: {ceilings_text(found.ceilings)}")
    return "\n".join(lines)


def rate(step: Step) -> str:
    """What a step does a second of what binds it, e.g. "120 GFLOP/s"."""
    seconds = max(step.milliseconds, 1e-6) / 1e3
    if step.bound in UNITS:
        return f"{2 * step.macs / seconds / 1e9:.0f} G{'FLOP' if step.kind != 'int8' else 'OP'}/s"
    return f"{step.nbytes / seconds / 1e9:.1f} GB/s" if step.bound else ""


def _shares(found: Profile) -> str:
    """What the time was bound by, e.g. "62% f32 (at 81% of the ceiling), 30% L2 (at 40%)"."""
    total = found.milliseconds or 1.0
    parts = []
    for bound, part in found.bounds().items():
        what = f"{bound} (at {part.share:.0%} of the ceiling)" if bound else "unknown"
        parts.append(f"{part.milliseconds / total:.0%} {what}")
    return ", ".join(parts)


def ceilings_text(ceilings: Mapping[str, float]) -> str:
    """E.g. "f32 175 GFLOP/s, L2 60 GB/s"."""
    units = {"int8": "GOP/s", **dict.fromkeys(LEVELS, "GB/s")}
    return ", ".join(f"{name} {value / 1e9:.3g} {units.get(name, 'GFLOP/s')}" for name, value in ceilings.items())


# --- the page ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One model in one precision."""

    model: str
    precision: str
    profile: Profile

    @property
    def kind(self) -> str:
        """The products that the precision is about."""
        return {"fp32": "f32"}.get(self.precision, self.precision)


def markdown(lines: Sequence[Line], command: str) -> str:
    """The page: a line a model, and for each kind of products whether its goal is met."""
    text = [
        "# Rooflines",
        "",
        f"Made by `{command}` on {machine()}.",
        "How near the ceiling of the machine those convolutions and matrix products of each model come that are bound",
        "by multiply-adds: the share of their time that they would take at the ceiling, measured in the same run. The",
        "last column has all steps, by what binds them. `optc bench MODEL --profile` shows each step.",
        "",
        "| model | precision | ms | conv and matmul: of the time | steps | share of ceiling | lowest | bound by |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for line in lines:
        total = line.profile.milliseconds or 1.0
        part = line.profile.products(line.kind)
        cells = [line.model, line.precision, f"{total:.3f}", f"{part.milliseconds / total:.0%}", str(len(part.steps))]
        lowest = part.lowest if part.steps else None
        cells += [f"**{part.share:.0%}**", f"{lowest.share:.0%} {lowest.name}"] if lowest else ["", ""]
        text.append(f"| {' | '.join([*cells, _shares(line.profile)])} |")
    return "\n".join([*text, "", *(f"- {goal}" for goal in goals(lines)), "", *_ceilings(lines), ""])


def goals(lines: Sequence[Line]) -> list[str]:
    """For each kind of products: what steps bound by it reach, and the models below the goal."""
    found = []
    for kind, goal in GOALS.items():
        parts = {line.model: line.profile.products(kind) for line in lines if line.kind == kind}
        shares = {model: part.share for model, part in parts.items() if part.steps}
        if shares:
            below = [f"{model} {share:.0%}" for model, share in shares.items() if share < goal]
            everything = Part(tuple(step for part in parts.values() for step in part.steps))
            found.append(
                f"{kind}: {everything.share:.0%} of the ceiling over all time of {len(shares)} models, "
                f"{float(np.mean(list(shares.values()))):.0%} in the mean of models (goal: {goal:.0%} of each); "
                f"below it: {', '.join(below) or 'none'}"
            )
    return found


def _ceilings(lines: Sequence[Line]) -> list[str]:
    bursts = [dict(line.profile.ceilings) for line in lines]
    return [f"Ceilings, medians over the models: {ceilings_text(medians(bursts))}."] if bursts else []


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m optc.tools.roofline", description=__doc__)
    parser.add_argument("models", nargs="*", help="zoo names; all if none is given")
    parser.add_argument("--precision", default="fp32,int8", help=f"of {', '.join(COMPARISONS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--markdown", type=Path, help="write the page here")
    args = parser.parse_args(argv)
    lines, failed = [], 0
    for name in args.models or models.names():
        for precision in args.precision.split(","):
            page = COMPARISONS[precision]
            try:
                with Bench(page, name) as bench:
                    found = profile(load(bench.artifact(page.own[0]), args.threads), bench.sample, args.rounds)
            except Exception as error:  # one model that fails, for whatever reason, does not end the run
                print(f"{name} {precision}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                failed = 5
                continue
            lines.append(Line(name, precision, found))
            print(f"{name:<24} {precision} {found.milliseconds:9.3f} ms: {_shares(found)}", flush=True)
    text = markdown(lines, f"python -m optc.tools.roofline {' '.join(sys.argv[1:] if argv is None else argv)}".strip())
    print("\n".join(goals(lines)))
    if args.markdown:
        args.markdown.write_text(text)
    return failed


if __name__ == "__main__":
    sys.exit(main())
