"""Memory while running, beside ONNX Runtime's.

    python -m optc.tools.memory_bench [--models fashion-cnn,resnet50] [--precision fp32] [--threads 1] [--json]

Each system loads and runs a zoo model in a process of its own. `grown` is the most memory resident during the runs
(the kernel's high-water mark, set back after loading) beyond what it was before the model was loaded: weights, code,
workspace, threads' stacks and results; pages of a file mapped by optc count as if no other process shared them. `plan`
is the workspace that optc's plan asks for, part of `grown`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from .. import models
from ..backends.runtime.model import load
from ..compiler.driver import compile as compile_model
from ..compiler.errors import OptcError, UsageError
from .benchmarks_systems import at_shapes
from .cli.common import table
from .data import as_json
from .peers import Run

RUNS = 5
MB = 1 << 20


@dataclass(frozen=True)
class Row:
    """One model: bytes of optc's plan, and by how many bytes each system's resident memory grew."""

    model: str
    plan: int
    optc: int
    onnxruntime: int

    @property
    def ratio(self) -> float:
        return self.optc / self.onnxruntime


def measure(name: str, threads: int, precision: str) -> Row:
    """Compiles a zoo model at its static shape and measures both systems. Raises OptcError if one cannot load it."""
    entry = models.get(name)
    sample = at_shapes(entry.inputs(), entry.static_shapes)
    shapes = {key: array.shape for key, array in sample.items()}
    calibration = [sample] if precision == "int8" else None
    with tempfile.TemporaryDirectory() as folder:
        artifact, feed = Path(folder, "model.optc"), Path(folder, "feed.npz")
        compiled = compile_model(
            entry.path(), shapes=shapes, int8=precision == "int8", bf16=precision == "bf16", calibration=calibration
        )
        compiled.save(artifact)
        np.savez(feed, **cast(Mapping[str, Any], sample))
        plan = compiled.workspace_bytes(shapes)
        del compiled
        grown = [_in_process(system, path, feed, threads) for system, path in
                 (("optc", artifact), ("onnxruntime", entry.path()))]  # fmt: skip
    return Row(name, plan, *grown)


def _in_process(system: str, model: Path, feed: Path, threads: int) -> int:
    command = [sys.executable, "-m", "optc.tools.memory_bench", "--child", system, str(model), str(feed), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OptcError(f"{system} cannot run the model: {done.stderr.strip().splitlines()[-1]}", node=str(model))
    return int(done.stdout)


def child(system: str, model: str, feed: str, threads: int) -> int:
    """Bytes by which this process grew to run the model."""
    with np.load(feed) as arrays:
        sample = dict(arrays)
    if system == "onnxruntime":
        import onnxruntime  # noqa: F401  (the library itself is no part of the growth)

        from .peers import onnxruntime_runner

    before = _status("VmRSS")
    run: Run
    if system == "optc":
        run = load(model, threads).run
    else:
        run = onnxruntime_runner(model, threads, {key: array.shape for key, array in sample.items()})
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident
    for _ in range(RUNS):
        run(sample)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise UsageError(f"/proc/self/status has no {field}", hint="Run this on Linux.")


def main() -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m optc.tools.memory_bench", description=description)
    parser.add_argument("--models", help="names, separated by commas; default: the whole zoo")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32", help="optc's (default fp32)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=4, metavar=("SYSTEM", "MODEL", "FEED", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        system, model, feed, threads = args.child
        print(child(system, model, feed, int(threads)))
        return
    rows = []
    for name in args.models.split(",") if args.models else models.names():
        try:
            rows.append(measure(name, args.threads, args.precision))
        except OptcError as error:
            print(f"{name}: {error}", file=sys.stderr)
    if args.json:
        print(as_json([asdict(row) | {"ratio": row.ratio} for row in rows]))
        return
    cells = [[r.model, *(f"{v / MB:.2f}" for v in (r.plan, r.optc, r.onnxruntime)), f"{r.ratio:.2f}"] for r in rows]
    print(table(cells, ["model", "plan MB", "optc MB", "onnxruntime MB", "ratio"]))


if __name__ == "__main__":
    main()
