"""Preflight: what a model holds and what this version makes of it; compiles nothing.

Example: optc inspect model.onnx
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from ...compiler.errors import UsageError
from .common import Json, Printer, Quiet, TargetName, table


def command(
    model: Annotated[Path | None, typer.Argument(help="The ONNX model.", metavar="MODEL.onnx")] = None,
    target: TargetName = "cpu",
    ops: Annotated[bool, typer.Option("--ops", help="List every ONNX op and how it is compiled.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    printer = Printer(json, quiet)
    if ops:
        from ..op_table import op_table

        rows = op_table()
        printer.show(table([list(r) for r in rows], ["op", "cpu"]), dict(rows))
        return
    if model is None:
        raise UsageError("give a model, or --ops")
    facts = _facts(model, target)
    lines = [f"{key:<12}{value}" for key, value in facts.items() if not isinstance(value, (dict, list))]
    lines += [f"input       {p}" for p in facts["inputs"]] + [f"output      {p}" for p in facts["outputs"]]
    lines.append("ops         " + ", ".join(f"{op} {count}" for op, count in facts["ops"].items()))
    lines += [f"warning     {w}" for w in facts["warnings"]]
    printer.show("\n".join(lines), facts)


def _facts(model: Path, target: str) -> dict[str, Any]:
    from ...backends.cpu import lower
    from ...backends.target import Target
    from ...compiler.driver import import_source, optimize
    from ...compiler.errors import UnsupportedError
    from ...compiler.macs import total_macs
    from ...compiler.options import Options
    from ...compiler.types import dim_text

    options = Options(target)
    graph = import_source(model, options)
    macs = total_macs(graph)
    parameters = sum(v.data.size for v in graph.constants() if v.data is not None)
    facts: dict[str, Any] = {
        "model": graph.name,
        "opset": graph.metadata.get("opset", "?"),
        "producer": graph.metadata.get("producer", ""),
        "nodes": sum(1 for _ in graph.all_nodes()),
        "parameters": f"{parameters:,}",
        "macs": f"{macs:,}" if isinstance(macs, int) else dim_text(macs),
        "inputs": [f"{v.name}: {v.type}" for v in graph.inputs],
        "outputs": [f"{n}: {v.type}" for n, v in zip(graph.output_names, graph.outputs, strict=True)],
        "ops": dict(Counter(n.op for n in graph.all_nodes()).most_common()),
        "warnings": graph.metadata.get("warnings", "").splitlines(),
    }
    optimize(graph)
    try:
        steps = lower(graph, Target.parse(target)).steps
        facts[target] = f"compiles, {len(steps)} steps"
    except UnsupportedError as error:
        facts[target] = f"does not compile: {error.message}"
    return facts
