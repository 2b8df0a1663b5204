"""Write the model back as ONNX after the graph passes alone; dynamic dims stay dynamic.

Example: optc simplify model.onnx -o simple.onnx
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...compiler.options import Options
from ..data import parse_shapes
from .common import Json, Printer, Quiet, Shapes


def command(
    model: Annotated[Path, typer.Argument(help="The ONNX model.", metavar="MODEL.onnx")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the result.")],
    shape: Shapes = None,
    explain_rule: Annotated[str | None, typer.Option(help="Say why this rule did not match.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...compiler.driver import import_source
    from ...compiler.onnx.exporter import save_model
    from ...passes import pipelines

    printer = Printer(json, quiet)
    graph = import_source(model, Options(shapes=parse_shapes(shape or [])))
    before = len(graph)
    if explain_rule is not None:
        text = str(pipelines.explain_rule(explain_rule, graph))
        printer.show(text, {"rule": explain_rule, "explanation": text})
        return
    report = pipelines.simplify(graph)
    save_model(graph, output)
    rewrites = ", ".join(f"{name} {count}" for name, count in report.applied.most_common())
    facts = {"nodes_before": before, "nodes_after": len(graph), "rewrites": dict(report.applied), "output": str(output)}
    printer.show(f"{before} nodes -> {len(graph)}\n{rewrites}\nwritten to {output}", facts)
