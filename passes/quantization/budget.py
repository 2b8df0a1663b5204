"""The accuracy budget: which layers must stay float so that int8 costs no more than allowed.

    score(float) - score(int8) <= budget * |score(float)|

All-int8 is scored first. Then each layer's harm is measured: how much the signal-to-noise ratio of the outputs rises
when it alone is float (Wu et al., "Integer Quantization for Deep Learning Inference", 2020, section 5, rank layers
alike by their loss). The most harmful stay float, as many as needed: by doubling and bisection, so that few scores are
computed. At last layers that need not be float go back. Every step is kept on disk, so that a walk that was stopped
goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler.errors import CalibrationError, OptcError
from ...compiler.ir import Graph, Node
from ...compiler.macs import macs
from ...compiler.options import Metric, Run
from ...compiler.printing import print_graph
from ...compiler.types import substitute
from .agreement import FLOATS_TOLERANCE, TOLERANCE, Agreement, kinds_of
from .execute import Runner, Sample
from .measure import agreement
from .whatif import FLOAT, WhatIf

if TYPE_CHECKING:
    from .quantize import Study

JUDGED = 200
"""Samples on which outputs are compared, where there are so many."""
_PROBED = 4
"""Samples on which each layer's harm is measured."""
_TAKEN_BACK = 8
"""Attempts to take a layer back that need not be float after all."""
_NAMED = 8
"""Layers named in a line."""
Say = Callable[[str, float], None]


@dataclass(frozen=True)
class Step:
    """A trial of the walk: what stayed float, the score, the share of the multiply-adds that int8 does, and the bytes
    of all constants."""

    float_layers: tuple[str, ...]
    score: float
    int8_share: float
    nbytes: int


@dataclass
class Walk:
    """The way from all-int8 towards float. `decisions` and `calls_in_a_row` tell what agreement was measured on (see
    agreement.py); `harm` is by layer the gain in dB at the outputs were it float."""

    budget: float
    reference: float
    layers: int
    decisions: int | None = None
    calls_in_a_row: int = 0
    harm: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    interrupted: bool = False

    def holds(self, step: Step) -> bool:
        """Whether the step's loss is within the budget."""
        return self.reference - step.score <= self.budget * abs(self.reference) + 1e-12

    @property
    def best(self) -> Step:
        """Of the steps within the budget the one with most work in int8; before there is one, that of highest score."""
        good = [s for s in self.steps if self.holds(s)]
        if good:
            return max(good, key=lambda s: (s.int8_share, -len(s.float_layers), s.score))
        return max(self.steps, key=lambda s: (s.score, s.int8_share))

    def lines(self) -> list[str]:
        """For people: each step, and what came of it."""
        best = self.best
        lines = [f"budget: {self.budget:.2%} of a score of {self.reference:.5g} in float"]
        if self.decisions is not None:
            lines[0] += f" (agreement of outputs, {self.decisions} places compared)"
            if self.calls_in_a_row:
                lines.append(f"budget: {self.calls_in_a_row} samples go on with the state that int8 made before")
            if self.decisions * self.budget < 1 and self.budget:
                lines.append("budget: so few places are compared that one may decide; pass more samples")
        for step in self.steps:
            lines.append(f"budget: {self._told(step)}{' <- taken' if step is best else ''}")
        if self.interrupted:
            lines.append("budget: interrupted; this is the best so far")
        if not self.holds(best):
            lines.append("budget: DOES NOT HOLD yet")
        elif best.int8_share == 0:
            lines.append("budget: only the float model holds it: int8 brings nothing here")
        elif best.float_layers:
            first, more = best.float_layers[:_NAMED], len(best.float_layers) - _NAMED
            lines.append(f"budget: float stay {', '.join(first)}{f' and {more} more' if more > 0 else ''}")
        return lines

    def _told(self, step: Step) -> str:
        lost = self.reference - step.score
        return (
            f"{len(step.float_layers):3d} of {self.layers} layers float: score {step.score:.5g} "
            f"(loses {lost / abs(self.reference or 1.0):.2%}), {step.int8_share:.0%} of the multiply-adds in int8, "
            f"{step.nbytes / 1e6:.2f} MB"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"best": asdict(self.best), "holds": self.holds(self.best)}


def walk(
    study: Study,
    budget: float,
    metric: Metric | None = None,
    samples: Sequence[Sample] = (),
    *,
    state: Path | None = None,
    say: Say | None = None,
) -> Walk:
    """Scores int8 with fewer and fewer layers until the budget holds; the score is `metric`, or agreement on `samples`.

    `state` is a file of the steps made so far; a walk of the same study goes on from there. An interrupt ends the walk
    with the best so far. Raises CalibrationError if the metric fails or is no number.
    """
    say = say or (lambda what, share: None)
    say("accuracy budget: scoring the float model", 0.0)
    run = Runner(study.graph).run
    decisions, calls = None, 0
    if metric is None:
        compared = Agreement(kinds_of(study.graph), run, samples, TOLERANCE if budget else FLOATS_TOLERANCE)
        decisions, calls, metric = compared.decisions, compared.calls_in_a_row, compared
        reference = 1.0
    else:
        reference = _scored(metric, run)
    names = list(dict.fromkeys(n.name for n in study.placement.layers))
    found = Walk(budget, reference, len(names), decisions, calls)
    known = None if state is None else _State(state, _key(study, metric, reference, samples))
    try:
        _Walker(study, found, metric, known, say).go(names, samples)
    except KeyboardInterrupt:
        if not found.steps:
            raise
        found.interrupted = True
    return found


class _Walker:
    def __init__(self, study: Study, found: Walk, metric: Metric, state: _State | None, say: Say) -> None:
        self._study, self._found, self._metric, self._state, self._say = study, found, metric, state, say
        self._work = work_of(study.graph, study.placement.layers, next(iter(study.samples), None))
        self._known = state.steps() if state is not None else {}

    def go(self, names: Sequence[str], samples: Sequence[Sample]) -> None:
        found = self._found
        if found.holds(self._score(())) or not names:
            return
        known = self._state.harm() if self._state is not None else {}
        found.harm = known if set(known) == set(names) else harm_of(self._study, names, samples, self._say)
        self._save()
        order = sorted(names, key=lambda n: -found.harm[n])
        chosen = self._fewest(order)
        self._take_back(order[:chosen])

    def _fewest(self, order: Sequence[str]) -> int:
        """How many of the most harmful layers must be float: doubled until the budget holds, then bisected."""
        below, count = 0, 1
        while count < len(order) and not self._found.holds(self._score(order[:count])):
            below, count = count, min(2 * count, len(order))
        above = count
        if count == len(order):
            self._score(order)
        while above - below > 1:
            middle = (below + above) // 2
            if self._found.holds(self._score(order[:middle])):
                above = middle
            else:
                below = middle
        return above

    def _take_back(self, chosen: Sequence[str]) -> None:
        """Quantizes again what need not be float: those that do most work for the harm they do first."""
        kept = list(chosen)
        if len(kept) < 2:
            return
        worth = sorted(kept, key=lambda n: max(self._found.harm[n], 0.0) / max(self._work[n], 1))
        for name in worth[:_TAKEN_BACK]:
            rest = [n for n in kept if n != name]
            if rest and self._found.holds(self._score(rest)):
                kept = rest

    def _score(self, float_layers: Sequence[str]) -> Step:
        """Makes a step, or takes it from the ones known."""
        key = tuple(sorted(float_layers))
        step = self._known.get(key)
        if step is None:
            graph = self._study.quantized(key)
            score = _scored(self._metric, Runner(graph).run)
            total = sum(self._work.values()) or 1
            share = 1 - sum(self._work[n] for n in key) / total if len(key) < self._found.layers else 0.0
            step = Step(key, score, share, sum(v.type.nbytes for v in graph.constants()))
            self._known[key] = step
        if step not in self._found.steps:
            self._found.steps.append(step)
            self._save()
        self._say(f"accuracy budget: {self._found._told(step)}", 0.0)
        return step

    def _save(self) -> None:
        if self._state is not None:
            self._state.save(self._found)


def _scored(metric: Metric, run: Run) -> float:
    """The metric's value, errors in it told as what they are."""
    try:
        score = float(metric(run))
    except OptcError:
        raise
    except Exception as error:  # the metric is the user's code
        raise CalibrationError(f"the metric failed: {type(error).__name__}: {error}", node="metric") from error
    if not math.isfinite(score):
        raise CalibrationError("the metric gave no number", node="metric", expected="a finite score", found=score)
    return score


def harm_of(study: Study, names: Collection[str], samples: Sequence[Sample], say: Say) -> dict[str, float]:
    """By layer, the gain in dB of the outputs' signal-to-noise ratio when it alone is float."""
    probes = list(samples[:: max(1, len(samples) // _PROBED)])[:_PROBED] or list(study.samples[:_PROBED])
    expected = [Runner(study.graph).run(s) for s in probes]
    switch = WhatIf(study.graph, study.placement, study.choice)
    nodes: dict[str, list[Node]] = {}
    for node in study.placement.layers:
        nodes.setdefault(node.name, []).append(node)

    def snr(name: str | None) -> float:
        fixes = dict.fromkeys(nodes[name], FLOAT) if name else {}
        return agreement(study.graph, expected, [switch.run(s, fixes) for s in probes])

    before = snr(None)
    harm = {}
    for index, name in enumerate(names):
        say(f"accuracy budget: measuring layer {index + 1} of {len(names)}", index / len(names))
        harm[name] = snr(name) - before
    return harm


def work_of(graph: Graph, layers: Iterable[Node], sample: Sample | None) -> dict[str, int]:
    """Multiply-adds of each layer for a sample; weights where a size depends on data."""
    sizes: dict[Any, Any] = {}
    for value in graph.inputs:
        array = sample[value.name] if sample is not None else None
        declared = zip(value.type.shape or (), () if array is None else array.shape, strict=False)
        sizes |= {dim: size for dim, size in declared if not isinstance(dim, int)}
    work: dict[str, int] = {}
    for node in layers:
        (count,) = substitute((macs(node),), sizes)
        least = node.operand(1).type.numel
        work[node.name] = work.get(node.name, 0) + next(n for n in (count, least, 1) if isinstance(n, int))
    return work


class _State:
    """The steps of a walk in a file; only believed under the same key."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._old: Mapping[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            read = json.loads(path.read_text())
            if isinstance(read, dict) and read.get("key") == self._key:
                self._old = read

    def steps(self) -> dict[tuple[str, ...], Step]:
        steps = (Step(**{**s, "float_layers": tuple(s["float_layers"])}) for s in self._old.get("steps", []))
        return {step.float_layers: step for step in steps}

    def harm(self) -> dict[str, float]:
        return dict(self._old.get("harm", {}))

    def save(self, found: Walk) -> None:
        """Raises CalibrationError if that fails."""
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"key": self._key, **found.as_dict()}))
            os.replace(part, self._path)
        except OSError as error:
            message = f"cannot write the state of the accuracy budget: {error.strerror}"
            raise CalibrationError(message, node=str(self._path)) from error


@cache
def _code() -> str:
    """Changes with the sources that quantize, whose steps may be other ones under the same names."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def _key(study: Study, metric: Metric, reference: float, samples: Iterable[Sample]) -> str:
    """Equal for equal graphs, quantizations, scores and code. A user's metric is known by its name and by what it gives
    for the float model."""
    name = f"{getattr(metric, '__module__', '')}.{getattr(metric, '__qualname__', type(metric).__qualname__)}"
    parts = [_code(), print_graph(study.graph), name, repr(reference)]
    parts += sorted(f"{v.name} {g}" for v, g in study.choice.grids.items())
    total = hashlib.sha256("\0".join(parts).encode())
    for node in study.placement.layers:
        total.update(study.choice.weights_of(node).data.tobytes())
    for sample in samples:
        for array in sample.values():
            total.update(array.tobytes())
    return total.hexdigest()
