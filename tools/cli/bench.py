"""Time an artifact or a model beside peers, interleaved round by round.

Examples: optc bench model.onnx --vs onnxruntime,openvino --threads 1,2 / optc bench model.optc model.onnx
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...compiler.errors import UsageError
from ..data import parse_shapes, random_sample
from .common import Json, Printer, Quiet, Shapes, TargetName, table


def command(
    model: Annotated[Path, typer.Argument(help="An artifact or an ONNX model.", metavar="ART.optc|MODEL.onnx")],
    onnx_model: Annotated[
        Path | None, typer.Argument(help="The ONNX model of an artifact, for the peers.", metavar="[MODEL.onnx]")
    ] = None,
    vs: Annotated[str, typer.Option(help="Peers, e.g. onnxruntime,openvino.")] = "",
    threads: Annotated[str, typer.Option(help="Thread counts, e.g. 1,2.")] = "1",
    shape: Shapes = None,
    target: TargetName = "cpu",
    rounds: Annotated[int, typer.Option(help="Rounds after warm-up.")] = 40,
    profile: Annotated[bool, typer.Option("--profile", help="Also print the time of each step.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...compiler.driver import compiled
    from ...compiler.options import Options

    printer = Printer(json, quiet)
    shapes = parse_shapes(shape or [])
    peers = [name for name in vs.split(",") if name]
    source = onnx_model or model
    if peers and source.suffix == ".optc":
        raise UsageError("peers need the ONNX model", hint="Give it after the artifact.")
    counts = _counts(threads)
    if model.suffix == ".optc":
        results = [_measure(model, source, peers, n, shapes, rounds, profile) for n in counts]
    else:
        with (
            printer.progress(model.name) as progress,
            compiled(model, Options(target, shapes), progress=progress) as path,
        ):
            results = [_measure(path, source, peers, n, shapes, rounds, profile) for n in counts]
    rows, lines = [], []
    for result in results:
        for timing in result["systems"]:
            interval = "" if timing["ratio"] == 1.0 else f"{timing['low']:.2f}-{timing['high']:.2f}"
            times = [f"{timing[key]:.3f}" for key in ("median_ms", "p90_ms")]
            ratios = [f"{timing[key]:.2f}" for key in ("cpu", "ratio")]
            rows.append([str(result["threads"]), timing["name"], *times, *ratios, interval])
        lines += [f"{s['milliseconds']:9.3f} ms  {s['name']}" for s in result.get("profile", [])]
    header = ["threads", "system", "median ms", "p90 ms", "cpu/wall", "optc/system", "95%"]
    printer.show("\n".join([table(rows, header), *lines]), {"model": str(source), "results": results})


def _counts(text: str) -> list[int]:
    try:
        counts = [int(n) for n in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError("not thread counts", expected="e.g. 1,2", found=text)
    return counts


def _measure(
    artifact: Path,
    source: Path,
    peers: Sequence[str],
    threads: int,
    shapes: Mapping[str, Sequence[int]],
    rounds: int,
    profile: bool,
) -> dict[str, Any]:
    from ...backends.runtime.model import load
    from ..bench import compare
    from ..peers import peer

    compiled = load(artifact, threads)
    sample = random_sample(compiled.inputs, shapes)
    fixed = {name: array.shape for name, array in sample.items()}
    systems: list[tuple[str, Callable[[], object]]] = [("optc", lambda: compiled.run(sample))]
    for name in peers:
        run = peer(name)(source, threads, fixed)
        systems.append((name, lambda run=run: run(sample)))  # type: ignore[misc]
    result: dict[str, Any] = {"threads": threads, "systems": [asdict(t) for t in compare(systems, rounds, threads)]}
    if profile:
        steps = compiled.profile(*sample.values())
        result["profile"] = [asdict(s) for s in sorted(steps, key=lambda s: -s.milliseconds)]
    return result
