"""Write what is known about an artifact as one HTML page: graph, kernels, times, sizes, and int8's error by layer.

Example: optc report model.optc -o report.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...compiler.errors import ShapeError
from ..data import parse_shapes, random_sample
from .common import Json, Printer, Quiet, Shapes


def command(
    artifact: Annotated[Path, typer.Argument(help="The artifact.", metavar="ART.optc")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: the artifact's name with .html.")
    ] = None,
    shape: Shapes = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...backends.report import page
    from ...backends.runtime.artifact import WrongHostError, atomic_file, read_artifact
    from ...backends.runtime.model import load

    out = output or artifact.with_suffix(".html")
    note = ""
    try:
        model = load(artifact)
    except WrongHostError:
        opened, note = read_artifact(artifact, host=False), "no times: it is made for another host"
        with atomic_file(out) as file:
            file.write(page(opened.manifest, opened.sizes).encode())
    else:
        try:
            sample = random_sample(model.inputs, parse_shapes(shape or []))
            model.report(out, sample)
        except ShapeError as error:
            if shape:
                raise
            note = f"no times: {error.message}"
            model.report(out)
    text = f"written to {out}" + (f" ({note})" if note else "")
    Printer(json, quiet).show(text, {"report": str(out), "note": note})
