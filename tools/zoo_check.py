"""Every zoo model, compiled and checked: `python -m optc.tools.zoo_check --markdown docs/zoo.md`.

Each model is compiled with its dynamic dims and at its static shape; outputs are compared with ONNX Runtime's on real
inputs (several batches where the model allows them), and the model's own metric is evaluated on both, paired.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import models
from ..backends.runtime.model import Model
from ..compiler.driver import compile
from ..compiler.errors import OptcError
from ..models.zoo import ZooModel
from .benchmarks_systems import at_shapes
from .peers import Sample, onnxruntime_runner
from .verify import TOLERANCE, verify


@dataclass(frozen=True)
class Check:
    """One model: worst errors relative to the outputs' ranges, the metric's paired difference, what failed."""

    model: str
    dynamic: float
    static: float
    metric: str
    seconds: float
    failure: str = ""

    @property
    def passes(self) -> bool:
        return not self.failure and max(self.dynamic, self.static) <= TOLERANCE


def check(name: str, items: int) -> Check:
    """Compiles and checks one zoo model; `items` bounds what the metric reads."""
    entry = models.get(name)
    started = time.perf_counter()
    try:
        path = entry.path()
        dynamic_model = compile(path)
        dynamic = _worst(dynamic_model, path, [entry.inputs(batch=b, seed=b) for b in _batches(dynamic_model)])
        sample = at_shapes(entry.inputs(), entry.static_shapes)
        static_model = compile(path, shapes={k: v.shape for k, v in sample.items()})
        static = _worst(static_model, path, [sample])
        metric = _metric(entry, dynamic_model, path, items)
    except OptcError as error:
        return Check(name, 0.0, 0.0, "", time.perf_counter() - started, str(error).splitlines()[0])
    return Check(name, dynamic, static, metric, time.perf_counter() - started)


def _batches(model: Model) -> list[int]:
    """Batch sizes to try: the first input's first dim, if it is dynamic, at 1, 2 and 3."""
    first = model.inputs[0].shape
    return [1, 2, 3] if first and isinstance(first[0], str) else [1]


def _worst(model: Model, path: Path, samples: Sequence[Sample]) -> float:
    return max(e.relative for e in verify(model, onnxruntime_runner(path), samples))


def _metric(entry: ZooModel, model: Model, path: Path, items: int) -> str:
    judge = entry.agreement or entry.metric
    if judge is None:
        return "random weights"
    result = judge.compare(onnxruntime_runner(path), model.run, items)
    low, high = result.ci95
    return f"{judge.name}: {result.value:+.4f} ({low:+.4f} to {high:+.4f}), n = {result.n}"


def markdown(checks: Sequence[Check], command: str) -> str:
    lines = [
        "# The zoo, checked",
        "",
        f"Made by `{command}`. Errors are the largest difference from ONNX Runtime over the output's range (limit "
        f"{TOLERANCE:g}); the metric is optc's minus ONNX Runtime's, paired item by item, with a 95% interval.",
        "",
        "| model | dynamic dims | static shape | metric difference |",
        "| --- | ---: | ---: | --- |",
    ]
    for c in checks:
        errors = f"{c.dynamic:.1e} | {c.static:.1e}" if not c.failure else "- | -"
        lines.append(f"| {c.model} | {errors} | {c.failure or c.metric} |")
    passed = sum(c.passes for c in checks)
    return "\n".join([*lines, "", f"{passed} of {len(checks)} models pass.", ""])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m optc.tools.zoo_check", description=__doc__)
    parser.add_argument("models", nargs="*", help="zoo names; all if none is given")
    parser.add_argument("--items", type=int, default=200, help="items the metric reads")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    args = parser.parse_args(argv)
    checks = []
    for name in args.models or models.names():
        checks.append(check(name, args.items))
        c = checks[-1]
        state = "ok  " if c.passes else "FAIL"
        print(
            f"{state} {name:<24} {c.dynamic:.1e} {c.static:.1e} {c.metric} {c.failure} ({c.seconds:.0f} s)", flush=True
        )
    if args.markdown:
        words = " ".join(sys.argv[1:] if argv is None else argv)
        args.markdown.write_text(markdown(checks, f"python -m optc.tools.zoo_check {words}".strip()))
    return 0 if all(c.passes for c in checks) else 5


if __name__ == "__main__":
    sys.exit(main())
