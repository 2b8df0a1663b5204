"""How well outputs agree with the float model's: the score of a model whose user gives no metric.

Of class probabilities the score is the accuracy that the float model itself would expect of the winners w found,

    sum of p_float(w) / sum of p_float(winner of float)

over all places, since an answer that the float model found nearly as likely is hardly worse. Of another float output
it is the share of values off by at most 2% of the range (max - min) that the float output spans over all samples (an
output may be one number); of logits
(which may be an embedding as well) the lesser of the two; of integers and booleans the share of equal ones. A model's
score is that of the output that agrees least; the float model's own is 1.

Samples may be calls in a row, each with the state that the float model gave in the call before. A model is then given
the state that it made itself: small errors of a call may add up over many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from ...compiler.ir import Graph, Value
from ...compiler.options import Run

Kind = Literal["probabilities", "logits", "values"]
Arrays = Mapping[str, np.ndarray]

TOLERANCE = 0.02
FLOATS_TOLERANCE = 1e-3
"""What another order of float arithmetic may make of a value: the tolerance where a loss of 0 is asked for."""
_FEW_CLASSES = 5
"""A product of fewer columns may be a regression: boxes have four."""
_SAME = 1e-3
"""Relative difference that another run of the float model may make."""
_TOP = 16
"""Classes remembered of a place; another one's probability counts as 0."""


def kinds_of(graph: Graph) -> dict[str, Kind]:
    """How each output of a float graph is compared: a softmax along the last axis gives probabilities, a product with
    constant weights of at least 5 columns logits."""
    return {name: _kind(value) for name, value in zip(graph.output_names, graph.outputs, strict=True)}


def _kind(value: Value) -> Kind:
    node = value.producer
    if node is None or value.type.shape is None or not value.type.rank:
        return "values"
    if node.op in ("Softmax", "LogSoftmax") and node.attrs.get("axis", -1) in (-1, value.type.rank - 1):
        return "probabilities" if node.op == "Softmax" else "logits"
    if node.op == "Add":
        node = next((v.producer for v in node.inputs if v is not None and v.producer is not None), node)
    classes = value.type.dims[-1]
    product = node.op in ("Gemm", "MatMul") and node.operand(1).is_constant
    return "logits" if product and isinstance(classes, int) and classes >= _FEW_CLASSES else "values"


class Agreement:
    """The score of runs against a reference's results, which are computed once, on `samples`; a `Metric`. `tolerance`
    of values is a share of the range.

    Raises what `reference` raises.
    """

    def __init__(
        self, kinds: Mapping[str, Kind], reference: Run, samples: Iterable[Arrays], tolerance: float = TOLERANCE
    ) -> None:
        self._kinds = dict(kinds)
        self._samples = list(samples)
        self._expected: list[dict[str, _Expected]] = []
        self._states: list[dict[str, str]] = []
        before: Arrays = {}
        for sample in self._samples:
            self._states.append(_carried(sample, before))
            before = reference(sample)
            self._expected.append({n: _Expected(kinds[n], a) for n, a in before.items()})
        self._tolerance = {n: tolerance * _span([e[n].ends for e in self._expected if n in e]) for n in self._kinds}

    @property
    def calls_in_a_row(self) -> int:
        """How many samples go on with the state of the one before."""
        return sum(bool(states) for states in self._states)

    @property
    def decisions(self) -> int:
        """How many places (values, or rows of class scores) the output with the fewest has."""
        return min((sum(e[name].places for e in self._expected) for name in self._kinds), default=0)

    def __call__(self, run: Run) -> float:
        """The score, 0 to 1."""
        return min(self.by_output(run).values(), default=1.0)

    def by_output(self, run: Run) -> dict[str, float]:
        """The score of each output; 1 of an output without elements."""
        got, of = ({name: np.zeros(2) for name in self._kinds} for _ in range(2))
        found: Arrays = {}
        for sample, states, expected in zip(self._samples, self._states, self._expected, strict=True):
            found = run({**sample, **{name: found[output] for name, output in states.items() if output in found}})
            for name, each in expected.items():
                got[name] += each.agreeing(found.get(name), self._tolerance[name])
                of[name] += each.most
        return {n: float(np.divide(got[n], of[n], out=np.ones(2), where=of[n] > 0).min()) for n in self._kinds}


def _carried(sample: Arrays, before: Arrays) -> dict[str, str]:
    """The inputs of a sample that are outputs of the call before, {input: output}."""
    pairs = ((name, output) for name in sample for output in before)
    return {name: output for name, output in pairs if _same(sample[name], before[output])}


def _same(given: np.ndarray, made: np.ndarray) -> bool:
    if (given.shape, given.dtype) != (made.shape, made.dtype) or given.dtype.kind != "f" or not given.any():
        return False
    return np.allclose(given, made, rtol=_SAME, atol=_SAME * float(np.abs(made).max()))


class _Expected:
    """What the float model gave for an output: of class scores the likeliest ones, and of what is no probability the
    values. `most` is what full agreement adds up to, [probability, values]."""

    def __init__(self, kind: Kind, array: np.ndarray) -> None:
        classes = kind != "values" and array.ndim > 0 and array.size > 0
        self._values = None if classes and kind == "probabilities" else array
        self._shape = array.shape
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array[:0]
        self.ends = (float(finite.min()), float(finite.max())) if finite.size else None
        self.places = int(array.size // array.shape[-1]) if classes else int(array.size)
        self.most = np.array([0.0, 0.0 if self._values is None else array.size])
        self._classes: np.ndarray | None = None
        if classes:
            rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
            if kind == "logits":
                rows = np.exp(rows - rows.max(-1, keepdims=True))
                rows /= rows.sum(-1, keepdims=True)
            top = min(_TOP, rows.shape[-1])
            self._classes = np.argpartition(rows, -top)[:, -top:]
            self._chance = np.take_along_axis(rows, self._classes, -1)
            self.most[0] = self._chance.max(-1).sum()

    def agreeing(self, found: np.ndarray | None, tolerance: float) -> np.ndarray:
        """[probability, values] of what was found."""
        if found is None or found.shape != self._shape:
            return np.zeros(2)
        chance = 0.0
        if self._classes is not None:
            chance = float(self._chance[self._classes == winners(found).reshape(-1, 1)].sum())
        return np.array([chance, 0 if self._values is None else _near(self._values, found, tolerance)])


def winners(array: np.ndarray) -> np.ndarray:
    """The place of the greatest along the last axis, i32; -1 where one of them is NaN."""
    return np.where(np.isnan(array).any(-1), -1, array.argmax(-1)).astype(np.int32)


def _span(ends: Sequence[tuple[float, float] | None]) -> float:
    """What all samples together span."""
    known = [e for e in ends if e is not None]
    return max(high for _, high in known) - min(low for low, _ in known) if known else 0.0


def _near(expected: np.ndarray, found: np.ndarray, tolerance: float) -> int:
    if expected.dtype.kind != "f" or not expected.size:
        return int(np.count_nonzero(expected == found))
    finite = np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        near = np.abs(found.astype(np.float64) - expected) <= tolerance
    return int(np.count_nonzero(np.where(finite, near, found == expected)))
