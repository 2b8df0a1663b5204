"""Quantize a model to 8-bit integers and write it as standard QDQ ONNX.

Examples: optc quantize model.onnx --calib samples.npz -o model.int8.onnx /
optc quantize model.onnx --weights int4 -o model.int4.onnx (weights only)
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...compiler.errors import UsageError
from ...compiler.options import RANGES, Calibration, Options
from ..data import parse_shapes
from .common import Json, Printer, Quiet, Shapes

CalibrationData = Annotated[
    Path | None,
    typer.Option("--calib", help="Samples: an .npz, a folder of them, or test_data_set_N folders. Default: made-up."),
]
CalibrationMethod = Annotated[str, typer.Option(help=f"How ranges are chosen: {', '.join(RANGES)}.")]
AccuracyBudget = Annotated[
    str | None,
    typer.Option(help="What int8 may cost, e.g. 0.5%: the worst layers stay float until the outputs agree so well."),
]

WeightFormat = Annotated[
    str | None,
    typer.Option("--weights", help="Compress weights only: int8, int4, codebook4, nf4... (docs/weights.md)."),
]


def command(
    model: Annotated[Path, typer.Argument(help="The ONNX model.", metavar="MODEL.onnx")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the result.")],
    calib: CalibrationData = None,
    calib_method: CalibrationMethod = "auto",
    accuracy_budget: AccuracyBudget = None,
    shape: Shapes = None,
    prune: Annotated[str | None, typer.Option(help="Prune first, e.g. channels=50%.")] = None,
    weights: WeightFormat = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...compiler.driver import shrunk
    from ...compiler.onnx.exporter import save_model
    from ...passes.pipelines import simplify
    from ...passes.quantization.weights import pack_weights

    options = Options(
        shapes=parse_shapes(shape or []),
        prune=prune,
        int8=weights is None,
        calibration_method=calib_method,
        accuracy_budget=parse_share(accuracy_budget),
        weights=weights,
    )
    options.check()
    if weights is not None and calib is not None:
        raise UsageError("--weights needs no data", hint="Leave out --calib, or --weights.")
    printer = Printer(json, quiet)
    with printer.progress(model.name) as progress:
        data = calibration_data(calib, model) if calib else None
        graph, lines, _ = shrunk(model, options, data, progress)
        if weights is not None:
            simplify(graph)
            lines += pack_weights(graph, weights).lines()
        save_model(graph, output)
    size = output.stat().st_size
    lines.append(f"written to {output} ({size / 1e6:.2f} MB)")
    printer.show("\n".join(lines), {"notes": lines[:-1], "model": str(output), "bytes": size})


def parse_share(text: str | None) -> float | None:
    """0.005 for "0.5%" or "0.005". Raises UsageError."""
    if text is None:
        return None
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise UsageError("not a share", expected="a number or a percentage, e.g. 0.5%", found=text) from None


def calibration_data(path: Path, model: Path) -> Calibration:
    """The samples a user names, read while they are used."""
    from ...compiler.driver import import_source
    from ..data import open_data, ports_of

    data = open_data(path, ports_of(import_source(model, Options())))
    return Calibration(data, data.key)
