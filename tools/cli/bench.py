"""Time an artifact or a model beside peers, interleaved round by round; --profile: each step beside its roofline.

Examples: optc bench model.onnx --vs onnxruntime,openvino --threads 1,2 / optc bench model.optc model.onnx --profile /
optc bench model.onnx --precision int8 --calib samples.npz --vs onnxruntime,openvino
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ...compiler.errors import UsageError
from ..data import Sample, parse_shapes, random_sample
from .common import Json, Printer, Quiet, Shapes, TargetName, table
from .quantize import CalibrationData, calibration_data

PRECISIONS = ("fp32", "bf16", "int8")
PEER_SAMPLES = 300
"""Of the calibration data at most, for the peers' quantizers."""


def command(
    model: Annotated[Path, typer.Argument(help="An artifact or an ONNX model.", metavar="ART.optc|MODEL.onnx")],
    onnx_model: Annotated[
        Path | None, typer.Argument(help="The ONNX model of an artifact, for the peers.", metavar="[MODEL.onnx]")
    ] = None,
    vs: Annotated[str, typer.Option(help="Peers, e.g. onnxruntime,openvino, each in the same precision.")] = "",
    threads: Annotated[str, typer.Option(help="Thread counts, e.g. 1,2.")] = "1",
    precision: Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}: of optc and the peers.")] = "fp32",
    calib: CalibrationData = None,
    shape: Shapes = None,
    target: TargetName = "cpu",
    rounds: Annotated[int, typer.Option(help="Rounds after warm-up.")] = 40,
    profile: Annotated[bool, typer.Option("--profile", help="Also time each step beside its roofline.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from ...compiler.driver import compiled
    from ...compiler.options import Options

    printer = Printer(json, quiet)
    source = onnx_model or model
    names = [name for name in vs.split(",") if name]
    if precision not in PRECISIONS:
        raise UsageError("unknown precision", expected=" or ".join(PRECISIONS), found=precision)
    if names and source.suffix == ".optc":
        raise UsageError("peers need the ONNX model", hint="Give it after the artifact.")
    if calib is not None and precision != "int8":
        raise UsageError("--calib serves --precision int8 only", found=precision)
    task = _Task(source, tuple(names), precision, calib, parse_shapes(shape or []), rounds, profile)
    counts = _counts(threads)
    if model.suffix == ".optc":
        results = [task.measure(model, count) for count in counts]
    else:
        options = Options(target, task.shapes, int8=precision == "int8", bf16=precision == "bf16")
        data = calibration_data(calib, model) if calib else None
        with (
            printer.progress(model.name) as progress,
            compiled(model, options, calibration=data, progress=progress) as path,
        ):
            results = [task.measure(path, count) for count in counts]
    text = [_table(results), *(r["profile_text"] for r in results if "profile_text" in r)]
    facts = [{key: value for key, value in r.items() if key != "profile_text"} for r in results]
    printer.show("\n\n".join(text), {"model": str(source), "precision": precision, "results": facts})


def _counts(text: str) -> list[int]:
    try:
        counts = [int(n) for n in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError("not thread counts", expected="e.g. 1,2", found=text)
    return counts


@dataclass(frozen=True)
class _Task:
    """What is measured at each thread count."""

    source: Path
    peers: tuple[str, ...]
    precision: str
    calibration: Path | None
    shapes: Mapping[str, tuple[int, ...]]
    rounds: int
    profile: bool

    def measure(self, artifact: Path, threads: int) -> dict[str, Any]:
        from ...backends.runtime.model import load
        from ..bench import compare
        from ..roofline import profile, table

        compiled = load(artifact, threads)
        sample = random_sample(compiled.inputs, self.shapes)
        systems: list[tuple[str, Callable[[], object]]] = [("optc", lambda: compiled.run(sample))]
        for name in self.peers:
            title, run = self.peer(name, threads, sample)
            systems.append((title, lambda run=run: run(sample)))  # type: ignore[misc]
        timings = compare(systems, self.rounds, threads)
        result: dict[str, Any] = {"threads": threads, "systems": [asdict(t) for t in timings]}
        if self.profile:
            found = profile(compiled, sample, self.rounds)
            result |= {"profile": found.as_dict(), "profile_text": table(found)}
        return result

    def peer(self, name: str, threads: int, sample: Sample) -> tuple[str, Callable[[Sample], object]]:
        """The peer in this precision: what it is called, and ready to run."""
        from ..peers import peer, peer_in
        from ..peers_int8 import INT8_PEERS, int8_peer

        shapes = {key: array.shape for key, array in sample.items()}
        title = peer_in(name, self.precision)
        if title in INT8_PEERS:
            quantizer = int8_peer(title)
            path = quantizer.quantized(self.source, self.samples(sample))
            return title, quantizer.run(path, threads, shapes, copy=False)
        return title, peer(title)(self.source, threads, shapes, copy=False)

    def samples(self, sample: Sample) -> Sequence[Sample]:
        """What the peers quantize with: the user's data, or else the one random sample, which tells their speed."""
        from ...compiler.driver import import_source
        from ...compiler.options import Options
        from ..data import open_data, ports_of

        if self.calibration is None:
            return [sample]
        data = open_data(self.calibration, ports_of(import_source(self.source, Options())))
        return list(itertools.islice(data, PEER_SAMPLES))


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for result in results:
        for index, timing in enumerate(result["systems"]):
            times = [f"{timing[key]:.3f}" for key in ("median_ms", "p90_ms")]
            ratio = [f"{timing['ratio']:.2f}", f"{timing['low']:.2f}-{timing['high']:.2f}"] if index else ["", ""]
            rows.append([str(result["threads"]), timing["name"], *times, f"{timing['cpu']:.2f}", *ratio])
    return table(rows, ["threads", "system", "median ms", "p90 ms", "cpu/wall", "optc/system", "95%"])
