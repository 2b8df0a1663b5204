"""Compare an artifact with ONNX Runtime on the same inputs; on failure, name the first layer that departs.

Example: optc verify model.optc model.onnx --data samples.npz
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...compiler.errors import CheckError
from ...compiler.options import Options
from ..data import parse_shapes, random_sample, read_samples
from .common import Json, Printer, Quiet, Shapes, table


def command(
    artifact: Annotated[Path, typer.Argument(help="The artifact.", metavar="ART.optc")],
    model: Annotated[Path, typer.Argument(help="The ONNX model it was compiled from.", metavar="MODEL.onnx")],
    data: Annotated[Path | None, typer.Option(help="Samples: .npz, folder of .npz, or test_data_set folder.")] = None,
    shape: Shapes = None,
    seeds: Annotated[int, typer.Option(help="How many random samples, where no data are given.")] = 3,
    tolerance: Annotated[float, typer.Option(help="Largest error, relative to the output's range.")] = 1e-4,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...backends.runtime.model import load
    from ..peers import onnxruntime_runner
    from ..verify import check, first_departure, verify

    compiled = load(artifact)
    shapes = parse_shapes(shape or [])
    if data is not None:
        samples = list(read_samples(data, compiled.inputs))
    else:
        samples = [random_sample(compiled.inputs, shapes, seed) for seed in range(seeds)]
    errors = verify(compiled, onnxruntime_runner(model), samples)
    rows = [
        [e.name, f"{e.max_error:.2e}", f"{e.relative:.2e}", "ok" if e.passes(tolerance) else "DEPARTS"] for e in errors
    ]
    text = table(rows, ["output", "max error", "of range", ""])
    facts = {e.name: {"max_error": e.max_error, "relative": e.relative, "detail": e.detail} for e in errors}
    Printer(json, quiet).show(f"{text}\n{len(samples)} sample(s)", {"samples": len(samples), "outputs": facts})
    try:
        check(errors, tolerance)
    except CheckError as error:
        if compiled.manifest["summary"]["fallback"]:  # such a graph cannot be written as ONNX between two passes
            raise
        saved = compiled.manifest["options"]
        options = Options(saved["target"], {k: tuple(v) for k, v in saved["shapes"].items()}, prune=saved["prune"])
        raise CheckError(
            f"{error.message}. First departure: {first_departure(model, options, samples[0], tolerance)}"
        ) from error
