"""Prune a model and write it back as ONNX.

Example: optc prune model.onnx --prune channels=50% -o small.onnx
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...compiler.options import Options
from .common import Json, Printer, Quiet


def command(
    model: Annotated[Path, typer.Argument(help="The ONNX model.", metavar="MODEL.onnx")],
    prune: Annotated[str, typer.Option("--prune", help="What to cut, e.g. channels=50%,criterion=l1 or weights<1e-3.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the result.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...compiler.driver import import_source
    from ...compiler.onnx.exporter import save_model
    from ...passes.pruning import prune as apply

    graph = import_source(model, Options())
    report = apply(graph, prune)
    save_model(graph, output)
    Printer(json, quiet).show("\n".join([*report.lines(), f"written to {output}"]), report.as_dict())
