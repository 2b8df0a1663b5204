"""How well outputs agree with the float model's: the score of a model whose user gives no metric.

Of an output of class scores, the share of places where the greatest of the last axis is the same one. Of another float
output, the share of values off by at most 2% of the range (max - min) that the sample's float output spans. Of
integers and booleans, the share of equal ones. A model's score is that of the output that agrees least; the float
model's own is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from ...compiler.ir import Graph, Value
from ...compiler.options import Run

Kind = Literal["classes", "values"]
Arrays = Mapping[str, np.ndarray]

TOLERANCE = 0.02
_FEW_CLASSES = 5
"""A product of fewer columns may be a regression: boxes have four."""


def kinds_of(graph: Graph) -> dict[str, Kind]:
    """How each output of a float graph is compared: what a softmax, or a product with constant weights and at least 5
    columns, makes along the last axis are class scores."""
    return {n: "classes" if _scores(v) else "values" for n, v in zip(graph.output_names, graph.outputs, strict=True)}


def _scores(value: Value) -> bool:
    node = value.producer
    if node is None or value.type.shape is None or not value.type.rank:
        return False
    if node.op in ("Softmax", "LogSoftmax"):
        return node.attrs.get("axis", -1) in (-1, value.type.rank - 1)
    if node.op == "Add":
        node = next((v.producer for v in node.inputs if v is not None and v.producer is not None), node)
    classes = value.type.dims[-1]
    product = node.op in ("Gemm", "MatMul") and node.operand(1).is_constant
    return product and isinstance(classes, int) and classes >= _FEW_CLASSES


class Agreement:
    """The score of runs against a reference's results, which are computed once, on `samples`.

    Raises what `reference` raises.
    """

    def __init__(self, kinds: Mapping[str, Kind], reference: Run, samples: Iterable[Arrays]) -> None:
        self._kinds = dict(kinds)
        self._samples = list(samples)
        self._expected = [self._kept(reference(sample)) for sample in self._samples]

    @property
    def decisions(self) -> int:
        """How many places the output with the fewest has: one of them is the least step of the score."""
        return min((sum(r[name].size for r in self._expected) for name in self._kinds), default=0)

    def __call__(self, run: Run) -> float:
        """The score, 0 to 1; a `Metric`."""
        return min(self.by_output(run).values(), default=1.0)

    def by_output(self, run: Run) -> dict[str, float]:
        """The share that agrees of each output; 1 of an output without elements."""
        same, of = dict.fromkeys(self._kinds, 0), dict.fromkeys(self._kinds, 0)
        for sample, expected in zip(self._samples, self._expected, strict=True):
            found = self._kept(run(sample))
            for name in self._kinds:
                same[name] += _agreeing(expected[name], found.get(name))
                of[name] += expected[name].size
        return {name: same[name] / of[name] if of[name] else 1.0 for name in self._kinds}

    def _kept(self, results: Arrays) -> dict[str, np.ndarray]:
        """What is compared: of class scores the winners."""
        return {name: winners(a) if self._kinds[name] == "classes" else a for name, a in results.items()}


def winners(array: np.ndarray) -> np.ndarray:
    """The place of the greatest along the last axis, i32; -1 where one of them is NaN."""
    if not array.size:
        return np.zeros(array.shape[:-1], np.int32)
    return np.where(np.isnan(array).any(-1), -1, array.argmax(-1)).astype(np.int32)


def _agreeing(expected: np.ndarray, found: np.ndarray | None) -> int:
    if found is None or found.shape != expected.shape:
        return 0
    if expected.dtype.kind != "f" or not expected.size:
        return int(np.count_nonzero(expected == found))
    finite = np.isfinite(expected)
    known = expected[finite].astype(np.float64)
    range_ = float(np.ptp(known)) if known.size else 0.0
    with np.errstate(invalid="ignore"):
        near = np.abs(found.astype(np.float64) - expected) <= TOLERANCE * range_
    return int(np.count_nonzero(np.where(finite, near, found == expected)))
