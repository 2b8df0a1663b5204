"""Does an int8 artifact serve? Compares with the float model, or with the quantized model that it was compiled from.

Being quantized is no failure. An output without a likeness to the float one is, and so is an accuracy budget, recorded
when the artifact was compiled, that does not hold on the data at hand. From a quantized model (Q and DQ, or QLinear
ops) an artifact may depart by one step, 1/255 of what the output spans over all samples, in all but 0.1% of its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx

from ..backends.runtime.model import Model
from ..compiler.errors import CheckError
from ..passes.quantization.agreement import Agreement, Kind, winners
from ..passes.quantization.measure import decibels
from .peers import Run, Sample

STEPS = 255
WITHIN_A_STEP = 0.999
_INTEGER_OPS = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})


@dataclass(frozen=True)
class Output:
    """An output over all samples: its signal-to-noise ratio in dB, the shares of places with the same winner along the
    last axis (None where that says nothing) and of values within one step, and whether it has a NaN of its own."""

    name: str
    snr_db: float
    winners: float | None
    within_step: float
    nan: bool

    def row(self) -> list[str]:
        """Its cells of a table."""
        same = "" if self.winners is None else f"{self.winners:.2%}"
        return [self.name, f"{self.snr_db:.1f} dB", same, f"{self.within_step:.2%}", "NaN" if self.nan else ""]


@dataclass(frozen=True)
class Comparison:
    """The outputs, the score of agreement with the float model, and the budget that it was to keep; None if none."""

    outputs: tuple[Output, ...]
    score: float
    budget: float | None
    from_quantized: bool

    def problems(self) -> list[str]:
        """What is wrong, in sentences."""
        found = []
        for output in self.outputs:
            if output.nan:
                found.append(f"{output.name} has NaN where the reference has none")
            elif output.snr_db < 0:
                found.append(f"{output.name} is all wrong ({output.snr_db:.1f} dB)")
            elif self.from_quantized and output.within_step < WITHIN_A_STEP:
                found.append(f"{output.name} is within a step of the quantized model on {output.within_step:.2%} only")
        if self.budget is not None and 1 - self.score > self.budget:
            found.append(f"agreement of {self.score:.4f} misses the accuracy budget of {self.budget:.2%}")
        return found

    def check(self) -> None:
        """Raises CheckError if anything is wrong."""
        if problems := self.problems():
            raise CheckError("; ".join(problems))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = {o.name: asdict(o) for o in self.outputs}
        return {"outputs": facts, "score": self.score, "budget": self.budget, "problems": self.problems()}


def is_quantized(model: Path) -> bool:
    """Whether an ONNX file computes in integers already."""
    graph = onnx.load(str(model), load_external_data=False).graph
    return any(n.op_type in _INTEGER_OPS or n.op_type.startswith("QLinear") for n in graph.node)


def compare_int8(
    model: Model, reference: Run, samples: Sequence[Sample], *, from_quantized: bool = False, judge: bool = True
) -> Comparison:
    """Compares on samples; only with `judge` is the recorded budget asked for."""
    told = model.manifest.get("quantization") or {}
    names = [port.name for port in model.outputs]
    kinds = {n: cast(Kind, told.get("outputs", {}).get(n, "values")) for n in names}
    expected = [dict(reference(s)) for s in samples]
    found = [model.run(s) for s in samples]
    outputs = tuple(_output(n, [e[n] for e in expected], [f[n] for f in found], kinds[n]) for n in names)
    given, made = iter(expected), iter(found)
    score = Agreement(kinds, lambda sample: next(given), samples)(lambda sample: next(made))
    return Comparison(outputs, score, _budget(told) if judge and not from_quantized else None, from_quantized)


def _budget(told: Mapping[str, Any]) -> float | None:
    """The recorded budget, if it was kept and agreement was what it was measured by."""
    walk = told.get("budget")
    return walk["budget"] if walk and walk["holds"] and walk["decisions"] is not None else None


def _output(name: str, expected: Sequence[np.ndarray], found: Sequence[np.ndarray], kind: Kind) -> Output:
    signal = noise = 0.0
    near = same = places = values = 0
    nan = False
    step = _step(expected)
    for a, b in zip(expected, found, strict=True):
        values += a.size
        if a.shape != b.shape:
            signal, noise = signal + float((a.astype(np.float64) ** 2).sum()), np.inf
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x)
        nan |= bool(np.isnan(y[finite]).any())
        x, y = x[finite], np.nan_to_num(y[finite])
        signal, noise = signal + float((x**2).sum()), noise + float(((x - y) ** 2).sum())
        near += int(np.count_nonzero(np.abs(x - y) <= step * 1.001)) + a.size - x.size
        if kind != "values":
            same += int(np.count_nonzero(winners(a) == winners(b)))
            places += a.size // a.shape[-1]
    snr = decibels(signal, noise) if noise < np.inf and signal > 0 else (-np.inf if noise else 100.0)
    return Output(name, snr, same / places if places else None, near / values if values else 1.0, nan)


def _step(arrays: Sequence[np.ndarray]) -> float:
    """The step of an output: what all arrays together span (one sample may hold one number), in 255 parts."""
    finite = [a[np.isfinite(a)].astype(np.float64) for a in arrays]
    ends = [end for a in finite if a.size for end in (a.min(), a.max())]
    return float(max(ends) - min(ends)) / STEPS if ends else 0.0
