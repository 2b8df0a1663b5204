"""Measure kernels for MODEL.onnx on this machine and keep the results in a database.

Examples: optc tune model.onnx --db plans.db --shape x=1x3x224x224 / optc tune model.onnx --db plans.db --time-limit 600
(each result is written as it is measured: stop and start as you like, several at once) / optc model.onnx --db plans.db
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ...compiler.errors import UnsupportedError, UsageError
from ...compiler.options import Options
from ..data import parse_shapes
from .common import Json, Printer, Quiet, Shapes, TargetName
from .quantize import CalibrationData, CalibrationMethod, WeightFormat, calibration_data

DatabaseFile = Annotated[
    Path | None, typer.Option("--db", help="A tuning database, made by `optc tune`. Default: in the cache folder.")
]
BUSY = 1.5
"""Processes waiting for a core, beyond which measurements of several threads are not to be trusted."""
TUNERS = ("plans", "metaschedule")


def command(
    model: Annotated[Path, typer.Argument(help="The ONNX model.", metavar="MODEL.onnx")],
    db: DatabaseFile = None,
    target: TargetName = "cpu",
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds. Default: until little more is to be gained.", min=0)
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Kernels to measure at most.", min=1)] = None,
    shape: Shapes = None,
    threads: Annotated[int, typer.Option(help="Threads of a run; 0: all.")] = 0,
    prune: Annotated[str | None, typer.Option(help="As for compiling.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Tune the model quantized to 8-bit integers.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Tune the model in bfloat16.")] = False,
    calib: CalibrationData = None,
    calib_method: CalibrationMethod = "auto",
    weights: WeightFormat = None,
    tuner: Annotated[str, typer.Option(help="plans: the kernels optc has.")] = "plans",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    if tuner not in TUNERS:
        raise UsageError("unknown tuner", expected=" or ".join(TUNERS), found=tuner)
    if tuner == "metaschedule":
        raise UnsupportedError("--tuner metaschedule is not available in this version", hint="Use --tuner plans.")
    if calib is not None and not int8:
        raise UsageError("--calib serves --int8 only", hint="Add --int8.")
    options = Options(
        target, parse_shapes(shape or []), threads, None, prune, int8, bf16, calibration_method=calib_method,
        weights=weights, tune=True, db=None if db is None else str(db),
    )  # fmt: skip
    from ...backends.tuning.session import default_path
    from ...compiler.driver import tune_model

    printer = Printer(json, quiet)
    busy = list(busy_lines())
    with printer.progress(model.name) as progress:
        data = calibration_data(calib, model) if calib else None
        outcome = tune_model(model, options, time_limit, trials, calibration=data, progress=progress)
    path = db or default_path()
    lines = [*outcome.lines(), *busy, f"written to {path}; compile with --db {path}"]
    printer.show("\n".join(lines), outcome.as_dict() | {"db": str(path)})


def busy_lines() -> Iterator[str]:
    """A warning if other processes kept this machine busy for the last minute."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > BUSY * cores:
        yield f"note: other work runs here (load {load:.1f}, {cores} cores): kernels of several threads look slow then"
