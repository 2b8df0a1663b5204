"""Run an artifact once; inputs not given are random.

Example: optc run model.optc --input x=x.npy --output y.npz
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ...compiler.errors import ShapeError, UsageError
from ..data import Sample, parse_shapes, random_sample
from .common import Json, Printer, Quiet, Shapes


def command(
    artifact: Annotated[Path, typer.Argument(help="The artifact.", metavar="ART.optc")],
    input: Annotated[list[str] | None, typer.Option(help="NAME=FILE.npy. May be repeated.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz.")] = None,
    shape: Shapes = None,
    threads: Annotated[int, typer.Option(help="Threads; 0: as compiled.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...backends.runtime.artifact import atomic_file
    from ...backends.runtime.model import load

    model = load(artifact, threads or None)
    given = _read_inputs(input or [])
    unknown = set(given) - {p.name for p in model.inputs}
    if unknown:
        names = ", ".join(p.name for p in model.inputs)
        raise ShapeError(f"no input is called {', '.join(sorted(unknown))}", expected=names)
    shapes = {name: array.shape for name, array in given.items()} | parse_shapes(shape or [])
    results = model.run(random_sample(model.inputs, shapes) | given)
    if output is not None:
        with atomic_file(output) as file:
            np.savez(file, **results)  # type: ignore[arg-type]  # a keyword is an array's name
    lines: list[str] = []
    data: dict[str, dict[str, Any]] = {}
    for name, array in results.items():
        data[name] = {"dtype": str(array.dtype), "shape": list(array.shape)}
        line = f"{name}: {array.dtype}{list(array.shape)}"
        if array.size and array.dtype.kind in "fiub":
            low, mean, high = float(array.min()), float(array.mean(dtype=np.float64)), float(array.max())
            data[name] |= {"min": low, "mean": mean, "max": high}
            line += f"  min {low:.6g}  mean {mean:.6g}  max {high:.6g}"
        lines.append(line)
    Printer(json, quiet).show("\n".join(lines), data)


def _read_inputs(items: list[str]) -> Sample:
    arrays = {}
    for item in items:
        name, equals, file = item.partition("=")
        if not equals:
            raise UsageError("not an input", expected="NAME=FILE.npy", found=item)
        try:
            arrays[name] = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ShapeError(f"cannot read {file}: {error}", node=name) from error
    return arrays
