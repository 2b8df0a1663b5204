"""Does an artifact compute what its model says? Compares with ONNX Runtime and, where not, finds the place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backends.runtime.model import Model, load
from ..compiler.errors import OptcError
from ..compiler.ir import Graph, Value
from ..compiler.options import Options
from .peers import Run, Sample, onnxruntime_runner

TOLERANCE = 1e-4
"""Largest error that passes, relative to the range of the reference output."""
BF16_TOLERANCE = 2.0**-4
"""Where activations are stored in bfloat16: the root mean square of the errors, relative to that of the reference. Each
activation is off by up to 2^-9 of itself, and layers add that up; single values near a threshold may flip."""


@dataclass(frozen=True)
class OutputError:
    """How far one output departs: the largest error, and that over the reference's range (max - min, at least 1e-6), or
    the root mean square of the errors over that of the reference."""

    name: str
    max_error: float
    relative: float
    detail: str = ""

    def passes(self, tolerance: float = TOLERANCE) -> bool:
        return self.relative <= tolerance


def output_error(name: str, found: np.ndarray, expected: np.ndarray, average: bool = False) -> OutputError:
    """Compares one output; infinities and NaNs must lie at the same places, integers and booleans be equal. `average`:
    by the root mean square of errors."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        detail = f"{found.dtype}{list(found.shape)} where ONNX Runtime gives {expected.dtype}{list(expected.shape)}"
        return OutputError(name, float("inf"), float("inf"), detail)
    if expected.size == 0:
        return OutputError(name, 0.0, 0.0)
    if expected.dtype.kind not in "fc" and expected.dtype.name != "bfloat16":
        wrong = int(np.count_nonzero(found != expected))
        return OutputError(
            name, float(wrong), wrong / expected.size, f"{wrong} of {expected.size} differ" * bool(wrong)
        )
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = found.astype(wide), expected.astype(wide)
    finite = np.isfinite(b)
    odd = ~finite
    if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(a[odd], b[odd], equal_nan=True):
        return OutputError(name, float("inf"), float("inf"), "infinities or NaNs at other places")
    if not finite.any():
        return OutputError(name, 0.0, 0.0)
    error = float(np.abs(a[finite] - b[finite]).max())
    if average:
        size = float(np.linalg.norm(b[finite]))
        return OutputError(name, error, float(np.linalg.norm(a[finite] - b[finite])) / max(size, 1e-6))
    if wide is np.complex128:
        spread = float(np.abs(b[finite]).max())
    else:
        spread = float(b[finite].real.max() - b[finite].real.min()) or float(np.abs(b[finite]).max())
    return OutputError(name, error, error / max(spread, 1e-6))


def default_tolerance(model: Model) -> float:
    """What errors may reach where the user names no bound."""
    return BF16_TOLERANCE if model.manifest["options"]["bf16"] else TOLERANCE


def compare(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], average: bool = False
) -> list[OutputError]:
    """Every output compared, see output_error; a missing one is an infinite error."""
    errors = []
    for name, reference in expected.items():
        if name in found:
            errors.append(output_error(name, found[name], np.asarray(reference), average))
        else:
            errors.append(OutputError(name, float("inf"), float("inf"), "not an output of the artifact"))
    return errors


def verify(model: Model, reference: Run, samples: Iterable[Sample]) -> list[OutputError]:
    """The worst error of each output over all samples."""
    average = bool(model.manifest["options"]["bf16"])
    worst: dict[str, OutputError] = {}
    for sample in samples:
        for error in compare(model.run(sample), reference(sample), average):
            if error.name not in worst or error.relative > worst[error.name].relative:
                worst[error.name] = error
    return list(worst.values())


def first_departure(source: str | Path | bytes, options: Options, sample: Sample, tolerance: float = TOLERANCE) -> str:
    """Names the first place where compiled code departs from the model on this sample, and why, in one sentence.

    First the passes: after each, the graph runs on ONNX Runtime. If they keep the result, the regions: compiled once
    more with every region's result as an output, each compared with the same value on ONNX Runtime.
    """
    expected = onnxruntime_runner(source if isinstance(source, bytes) else str(source))(sample)
    culprit, graph = _wrong_pass(source, options, sample, expected, tolerance)
    if culprit is not None:
        return f"pass {culprit} changes the result"
    return _wrong_region(graph, options, sample, tolerance)


def _wrong_pass(
    source: str | Path | bytes, options: Options, sample: Sample, expected: dict[str, np.ndarray], tolerance: float
) -> tuple[str | None, Graph]:
    from ..backends.cpu import PIPELINE
    from ..compiler.driver import import_source
    from ..compiler.onnx.exporter import export_model
    from ..passes.base import PassContext

    graph = import_source(source, options)
    context = PassContext()
    for step in (None, *PIPELINE):
        if step is not None and not step.run(graph, context):
            continue
        found = onnxruntime_runner(export_model(graph).SerializeToString())(sample)
        if any(not e.passes(tolerance) for e in compare(found, expected)):
            return (step.name if step is not None else "import"), graph
    return None, graph


def _wrong_region(graph: Graph, options: Options, sample: Sample, tolerance: float) -> str:
    from ..backends.build import build_artifact
    from ..backends.cpu import lower, store_bf16
    from ..backends.steps import Kernel
    from ..backends.target import Target
    from ..compiler.onnx.exporter import export_model
    from ..passes.base import PassContext

    target = Target.parse(options.target)
    kernels = [s for s in lower(graph, target).steps if isinstance(s, Kernel)]
    values = dict.fromkeys(v for k in kernels for v in k.outputs)
    graph.set_outputs([*values], [v.name for v in values])
    reference = onnxruntime_runner(export_model(graph).SerializeToString())(sample)
    if options.bf16:  # every region's result is an output here, and stays in float32
        store_bf16(graph, target, PassContext())
    with tempfile.TemporaryDirectory(prefix="optc-verify-") as folder:
        path = Path(folder, "regions.optc")
        build_artifact(lower(graph, target), target, {"summary": {}}, path)
        found = load(path).run(sample)
    for kernel in kernels:
        for value in kernel.outputs:
            error = output_error(value.name, found[value.name], reference[value.name], options.bf16)
            if not error.passes(tolerance):
                where = f"{_described(value)} in region {kernel.name!r} ({kernel.provenance})"
                return f"{where}: {error.relative:.1e} of its range"
    return "every region agrees by itself; errors add up over the model (its values may span a very wide range)"


def _described(value: Value) -> str:
    node = value.producer
    return value.name if node is None else f"{node.op} {node.name}"


def check(errors: list[OutputError], tolerance: float = TOLERANCE) -> None:
    """Raises CheckError naming the outputs that do not pass."""
    from ..compiler.errors import CheckError

    bad = [e for e in errors if not e.passes(tolerance)]
    if bad:
        raise CheckError(
            "outputs differ from ONNX Runtime: "
            + ", ".join(f"{e.name} by {e.relative:.1e} of its range {e.detail}".rstrip() for e in bad),
            expected=f"at most {tolerance:g}",
        )


__all__ = ["TOLERANCE", "OptcError", "OutputError", "check", "compare", "first_departure", "output_error", "verify"]
