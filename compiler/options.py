"""What a user can ask of a compilation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .errors import UnsupportedError, UsageError

FALLBACKS = ("onnxruntime",)
RANGES = ("auto", "mse", "percentile", "average", "minmax", "entropy")
"""Ways to choose the range that 8 bits span (passes/quantization/observers.py)."""

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""A model as a metric sees it: {input name: array} to {output name: array}."""
Metric = Callable[[Run], float]
"""A score of a model, the higher the better."""


@dataclass(frozen=True)
class Options:
    """Options of one compilation; equal options, model and versions give the same artifact.

    `shapes` fixes input shapes ({input: dims}); `threads` is how many threads a run uses (0: all this process may run
    on); `fallback` names the engine that runs nodes optc cannot lower; `prune` is a pruning spec (see passes/pruning).
    `int8` quantizes by ranges chosen by `calibration_method`; `accuracy_budget` is the share of the float model's
    score that int8 may cost (0.005: half a percent); `weights` is a spec of weight-only compression. `bf16` stores what
    is between products in bfloat16 and multiplies in it (see passes/precision.py); with `int8`, what stays in floats.

    `db` is a tuning database that says which kernels are fast, `tune` measures kernels first and adds them to it. The
    artifact depends on what the database says, not on where it lies.
    """

    target: str = "cpu"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 0
    fallback: str | None = None
    prune: str | None = None
    int8: bool = False
    bf16: bool = False
    fp16: bool = False
    calibration_method: str = "auto"
    accuracy_budget: float | None = None
    weights: str | None = None
    tune: bool = False
    db: str | None = None

    def check(self) -> None:
        """Raises UnsupportedError for what this version has not yet, UsageError for values out of range."""
        if self.fp16:
            raise UnsupportedError("--fp16 is not available in this version", hint="Compile in float32 or bf16.")
        if self.calibration_method not in RANGES:
            raise UsageError("unknown calibration method", expected=" or ".join(RANGES), found=self.calibration_method)
        if self.accuracy_budget is not None and not (self.int8 and 0 <= self.accuracy_budget < 1):
            raise UsageError("an accuracy budget is a share below 1 of what int8 may cost", found=self.accuracy_budget)
        if self.fallback is not None and self.fallback not in FALLBACKS:
            raise UsageError("unknown fallback engine", expected=" or ".join(FALLBACKS), found=self.fallback)
        if self.threads < 0:
            raise UsageError("threads must not be negative", found=self.threads)

    def text(self) -> str:
        """The options as one line of JSON, part of the cache key."""
        return json.dumps(self.as_dict(), sort_keys=True)

    def as_dict(self) -> dict[str, Any]:
        """What an artifact depends on, for its manifest: all but `tune` and `db`."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("tune", "db")}
        return kept | {"shapes": {k: list(v) for k, v in sorted(self.shapes.items())}}


@dataclass(frozen=True)
class Calibration:
    """Data that shows which values a model takes: samples {input name: array} (None: made-up ones) and a metric to
    judge it by, if any. Equal keys mean equal samples and no metric; without one nothing is cached.
    """

    samples: Iterable[Any] | None
    key: str = ""
    metric: Metric | None = None
