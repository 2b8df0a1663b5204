"""Compile MODEL.onnx into an artifact (.optc).

Examples: optc model.onnx / optc model.onnx --shape x=1x3x224x224 --threads 2 -o out.optc /
optc model.onnx --int8 --calib samples.npz --accuracy-budget 0.5%
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ...compiler.errors import UsageError
from ...compiler.options import Options
from ..data import parse_shapes
from .common import Json, Printer, Quiet, Shapes, TargetName
from .quantize import AccuracyBudget, CalibrationData, CalibrationMethod, WeightFormat, calibration_data, parse_share
from .tune import DatabaseFile


def command(
    model: Annotated[Path, typer.Argument(help="The ONNX model.", metavar="MODEL.onnx")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: the model's name with .optc.")] = None,
    target: TargetName = "cpu",
    shape: Shapes = None,
    threads: Annotated[int, typer.Option(help="Threads of a run; 0: all.")] = 0,
    fallback: Annotated[
        str | None, typer.Option(help="onnxruntime: run there what cannot be compiled. Off by default.")
    ] = None,
    prune: Annotated[str | None, typer.Option(help="Prune first, e.g. channels=50% or weights<1e-3.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compile even if the result is cached.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8-bit integers.")] = False,
    calib: CalibrationData = None,
    calib_method: CalibrationMethod = "auto",
    accuracy_budget: AccuracyBudget = None,
    weights: WeightFormat = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Multiply and store in bfloat16, sum in float32.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Not in this version.")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="Measure kernels first, for up to two minutes.")] = False,
    db: DatabaseFile = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    budget = parse_share(accuracy_budget)
    options = Options(
        target, parse_shapes(shape or []), threads, fallback, prune, int8, bf16, fp16, calib_method, budget, weights,
        tune, None if db is None else str(db),
    )  # fmt: skip
    options.check()
    if calib is not None and not int8:
        raise UsageError("--calib serves --int8 only", hint="Add --int8.")
    from ...backends.runtime.artifact import read_artifact
    from ...backends.summary import render
    from ...compiler.driver import compile_to

    printer = Printer(json, quiet)
    out = output or model.with_suffix(".optc")
    started = time.perf_counter()
    with printer.progress(model.name) as progress:
        data = calibration_data(calib, model) if calib else None
        compile_to(model, out, options, calibration=data, cache=not no_cache, progress=progress)
    seconds = time.perf_counter() - started
    summary = read_artifact(out, host=False).manifest["summary"]
    size = out.stat().st_size
    lines = [render(summary)]
    facts = {"artifact": str(out), "bytes": size, "seconds": seconds}
    workspace = _workspace(out)
    if workspace is not None:
        lines.append(f"  workspace   {workspace / 1e6:.2f} MB a run")
        facts["workspace_bytes"] = workspace
    lines.append(f"  artifact    {out} ({size / 1e6:.2f} MB) in {seconds:.1f} s")
    printer.show("\n".join(lines), summary | facts)


def _workspace(artifact: Path) -> int | None:
    """Bytes of workspace of a run; None where shapes are dynamic or the code is for another host."""
    from ...backends.runtime.artifact import WrongHostError
    from ...backends.runtime.model import load

    try:
        model = load(artifact, verify=False)
    except WrongHostError:
        return None
    return model.workspace_bytes() if all(port.is_static for port in model.inputs) else None
