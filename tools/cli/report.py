"""Write what is known about an artifact as one HTML page: graph, kernels, times, sizes, and int8's error by layer.

Examples: optc report model.optc -o report.html / optc report model.optc --profile (times beside rooflines)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from ...compiler.errors import ShapeError
from ..data import parse_shapes, random_sample
from .common import Json, Printer, Quiet, Shapes

if TYPE_CHECKING:
    from ...backends.runtime.model import Model


def command(
    artifact: Annotated[Path, typer.Argument(help="The artifact.", metavar="ART.optc")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: the artifact's name with .html.")
    ] = None,
    shape: Shapes = None,
    profile: Annotated[bool, typer.Option("--profile", help="Each step beside its roofline on this machine.")] = False,
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
            if profile:
                _profiled(model, sample, out)
            else:
                model.report(out, sample)
        except ShapeError as error:
            if shape or profile:
                raise
            note = f"no times: {error.message}"
            model.report(out)
    text = f"written to {out}" + (f" ({note})" if note else "")
    Printer(json, quiet).show(text, {"report": str(out), "note": note})


def _profiled(model: Model, sample: Mapping[str, np.ndarray], out: Path) -> None:
    """The page with each step's share of the ceiling that binds it."""
    from ...backends.report import Timed, page
    from ...backends.runtime.artifact import atomic_file
    from ..roofline import ceilings_text, profile, rate

    found = profile(model, sample)
    times = [Timed(s.name, s.milliseconds, rate(s), s.bound, s.share if s.bound else None) for s in found.steps]
    with atomic_file(out) as file:
        file.write(page(model.manifest, model.sizes, times, ceilings_text(found.ceilings)).encode())
