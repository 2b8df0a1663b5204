"""Compare an artifact with ONNX Runtime on the same inputs; on failure, name the first layer that departs.

An int8 artifact is compared with the float model (or the quantized one) for likeness, and its layers are explained.

Example: optc verify model.optc model.onnx --data samples.npz
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...compiler.errors import CheckError
from ...compiler.options import Options
from ..data import Sample, parse_shapes, random_sample, read_samples
from .common import Json, Printer, Quiet, Shapes, table

if TYPE_CHECKING:
    from ...backends.runtime.model import Model

_LISTED = 12
"""Layers of an int8 model in the table; --json has all."""


def command(
    artifact: Annotated[Path, typer.Argument(help="The artifact.", metavar="ART.optc")],
    model: Annotated[Path, typer.Argument(help="The ONNX model it was compiled from.", metavar="MODEL.onnx")],
    data: Annotated[Path | None, typer.Option(help="Samples: .npz, folder of .npz, or test_data_set folder.")] = None,
    shape: Shapes = None,
    seeds: Annotated[int, typer.Option(help="How many random samples, where no data are given.")] = 3,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest error over the output's range; of bf16 the mean one. Default: 1e-4; 1/16."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...backends.runtime.model import load
    from ..verify import default_tolerance
    from ..verify_int8 import is_quantized

    compiled = load(artifact)
    shapes = parse_shapes(shape or [])
    if data is not None:
        samples = list(read_samples(data, compiled.inputs))
    else:
        samples = [random_sample(compiled.inputs, shapes, seed) for seed in range(seeds)]
    printer, quantized = Printer(json, quiet), is_quantized(model)
    if quantized or compiled.manifest.get("quantization"):
        _verify_int8(compiled, model, samples, printer, quantized=quantized, real=data is not None)
    else:
        _verify_float(compiled, model, samples, printer, tolerance or default_tolerance(compiled))


def _verify_float(compiled: Model, model: Path, samples: list[Sample], printer: Printer, tolerance: float) -> None:
    from ..peers import onnxruntime_runner
    from ..verify import check, first_departure, verify

    errors = verify(compiled, onnxruntime_runner(model), samples)
    rows = [
        [e.name, f"{e.max_error:.2e}", f"{e.relative:.2e}", "ok" if e.passes(tolerance) else "DEPARTS"] for e in errors
    ]
    text = table(rows, ["output", "max error", "of range", ""])
    facts = {e.name: {"max_error": e.max_error, "relative": e.relative, "detail": e.detail} for e in errors}
    printer.show(f"{text}\n{len(samples)} sample(s)", {"samples": len(samples), "outputs": facts})
    try:
        check(errors, tolerance)
    except CheckError as error:
        if compiled.manifest["summary"]["fallback"]:  # such a graph cannot be written as ONNX between two passes
            raise
        saved = compiled.manifest["options"]
        shapes = {k: tuple(v) for k, v in saved["shapes"].items()}
        options = Options(saved["target"], shapes, prune=saved["prune"], bf16=saved["bf16"])
        raise CheckError(
            f"{error.message}. First departure: {first_departure(model, options, samples[0], tolerance)}"
        ) from error


def _verify_int8(
    compiled: Model, model: Path, samples: list[Sample], printer: Printer, *, quantized: bool, real: bool
) -> None:
    from ..peers import onnxruntime_runner
    from ..verify_int8 import compare_int8

    found = compare_int8(compiled, onnxruntime_runner(model), samples, from_quantized=quantized, judge=real)
    layers = (compiled.manifest.get("quantization") or {}).get("layers", [])
    header = ["output", "to noise", "same winner", "within a step", ""]
    lines = [table([o.row() for o in found.outputs], header)]
    against = "the quantized model" if quantized else "the float model"
    lines.append(f"{len(samples)} {'' if real else 'random '}sample(s) against {against}: agreement {found.score:.4f}")
    if found.budget is not None:
        lines.append(f"accuracy budget {found.budget:.2%}: {'holds' if 1 - found.score <= found.budget else 'MISSED'}")
    if layers:
        rows = [
            [r["layer"], f"{r['snr_db']:.1f}", f"{r['alone_db']:.1f}", r["cause"], r["fix"], _gain(r["gain_db"])]
            for r in layers[:_LISTED]
        ]
        lines += ["", table(rows, ["layer", "dB", "dB alone", "cause", "fix", "gain"])]
    if len(layers) > _LISTED:
        lines.append(f"and {len(layers) - _LISTED} layers more (--json)")
    printer.show("\n".join(lines), found.as_dict() | {"samples": len(samples), "layers": layers})
    found.check()


def _gain(decibels: float) -> str:
    return f"{decibels:.1f} dB" if decibels else ""
