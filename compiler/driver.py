"""Compiling from end to end: importer, passes, backend, artifact. The one module here that looks up to other rooms."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast

from .errors import ArtifactError, ModelError, UsageError
from .ir import Graph
from .options import Calibration, Metric, Options

if TYPE_CHECKING:
    import onnx

    from ..backends.runtime.model import Model
    from ..backends.target import Target
    from ..backends.tuning.planner import Tuned
    from ..backends.tuning.tuner import Outcome
    from ..passes.base import PassContext
    from ..passes.quantization.report import QuantizeReport

Source = Union[str, "os.PathLike[str]", bytes, "onnx.ModelProto"]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the work done, 0 to 1."""


def compile(
    model: Source,
    target: str = "cpu",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    fallback: str | None = None,
    prune: str | None = None,
    int8: bool = False,
    bf16: bool = False,
    fp16: bool = False,
    calibration: Iterable[Any] | None = None,
    calibration_method: str = "auto",
    accuracy_budget: float | None = None,
    metric: Metric | None = None,
    weights: str | None = None,
    tune: bool = False,
    db: str | os.PathLike[str] | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Model:
    """Compiles an ONNX model (path, bytes or ModelProto) and loads the result; one for another machine does not run
    here, but can be saved.

    `shapes` fixes input shapes, `threads` bounds the threads of a run (0: all), `fallback="onnxruntime"` lets nodes
    that cannot be lowered run there, `prune` is a pruning spec, `weights` one of weight-only compression.

    `int8` quantizes: `calibration` is an iterable of samples {input name: array} (a bare array will do for a model of
    one input; without samples made-up ones are used, and accuracy is unchecked). `accuracy_budget` is the share of
    the float model's score that int8 may cost; the score is `metric(run)`, `run` taking and giving arrays by name, or
    how often the outputs agree. `bf16` computes products in bfloat16, on targets that multiply it. `fp16` is not in
    this version: UnsupportedError.

    `db` is a tuning database, whose fastest kernels are taken; `tune` first measures kernels of this model on this
    machine for up to two minutes and adds them to it (default: a database in the cache folder).

    Raises the errors of optc.compiler.errors.
    """
    from ..backends.runtime.foreign import load_any

    options = Options(
        target, _fixed(shapes), threads, fallback, prune, int8, bf16, fp16, calibration_method, accuracy_budget,
        weights, tune, None if db is None else os.fspath(db),
    )  # fmt: skip
    data = _data(options, calibration, metric)
    with compiled(model, options, calibration=data, cache=cache, progress=progress) as path:
        return load_any(path, threads or None)


def tune(
    model: Source,
    target: str = "cpu",
    *,
    db: str | os.PathLike[str] | None = None,
    time_limit: float | None = None,
    trials: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    prune: str | None = None,
    int8: bool = False,
    bf16: bool = False,
    calibration: Iterable[Any] | None = None,
    calibration_method: str = "auto",
    weights: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Measures kernels for a model on this machine and writes them to the tuning database `db` (default: one in the
    cache folder), for `compile(..., db=db)` with the same options. What is there already is not measured again.

    Ends after `time_limit` seconds or so many `trials`, or else when little more is to be gained. May be interrupted:
    each result is written as it is measured. Raises the errors of optc.compiler.errors.
    """
    options = Options(
        target, _fixed(shapes), threads, None, prune, int8, bf16, False, calibration_method, None, weights, True,
        None if db is None else os.fspath(db),
    )  # fmt: skip
    return tune_model(
        model, options, time_limit, trials, calibration=_data(options, calibration, None), progress=progress
    )


def tune_model(
    model: Source,
    options: Options,
    time_limit: float | None = None,
    trials: int | None = None,
    *,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """As `tune`, by options."""
    from ..backends.tuning.session import default_path, tune_graph
    from ..backends.tuning.tuner import Limits

    options.check()
    say = progress or (lambda what, share: None)
    target = _target(options)
    graph = _prepare(model, options, calibration, target, _part(say, 0.0, 0.1)).graph
    path = Path(options.db) if options.db else default_path()
    return tune_graph(graph, target, path, Limits(time_limit, trials), _part(say, 0.1, 1.0))


def _fixed(shapes: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    return {name: tuple(int(d) for d in shape) for name, shape in (shapes or {}).items()}


def _data(options: Options, samples: Iterable[Any] | None, metric: Metric | None) -> Calibration | None:
    if not options.int8 and (samples is not None or metric is not None):
        raise UsageError("calibration data and a metric serve int8 only", hint="Pass int8=True.")
    return _calibration(samples, metric) if options.int8 else None


def _calibration(samples: Iterable[Any] | None, metric: Metric | None) -> Calibration | None:
    """Samples at hand are known by their content; an iterator cannot be looked at twice, and has no key."""
    from ..backends.runtime.cache import digest

    if samples is None:
        return None if metric is None else Calibration(None, "", metric)
    if not isinstance(samples, (list, tuple)) or not all(isinstance(s, Mapping) for s in samples):
        return Calibration(samples, "", metric)
    parts: list[bytes | Path] = []
    for sample in samples:
        for name, array in sample.items():
            parts += [f"{name} {getattr(array, 'dtype', '')} {getattr(array, 'shape', '')}".encode(), bytes(array)]
    return Calibration(samples, digest(parts) if metric is None else "", metric)


def compile_to(
    model: Source,
    out: str | os.PathLike[str],
    options: Options,
    *,
    calibration: Calibration | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> None:
    """Compiles to the file `out`, atomically: on any error or interrupt it is as it was before."""
    from ..backends.runtime.artifact import atomic_file

    with (
        compiled(model, options, calibration=calibration, cache=cache, progress=progress) as path,
        atomic_file(Path(out)) as file,
        path.open("rb") as source,
    ):
        shutil.copyfileobj(source, file, 1 << 22)


@contextlib.contextmanager
def compiled(
    model: Source,
    options: Options,
    *,
    calibration: Calibration | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Iterator[Path]:
    """The path of the finished artifact while the context lasts: in the cache, or else a temporary file."""
    from ..backends.runtime import cache as store

    options.check()
    say = progress or (lambda what, share: None)
    say("reading the model", 0.0)
    known = calibration is None or bool(calibration.key)
    use_cache = cache and known and store.limit() > 0 and not options.tune
    if not use_cache:
        with tempfile.TemporaryDirectory(prefix="optc-") as folder:
            path = Path(folder, "model.optc")
            _compile_file(model, options, calibration, path, say)
            yield path
        return
    key = _key(model, options, calibration)
    found, whole = store.lookup(key), True
    if found is None:
        found = store.artifact_path(key)
        whole = _compile_file(model, options, calibration, found, say)
        store.evict(found)
    say("done", 1.0)
    yield found
    if not whole:
        found.unlink(missing_ok=True)


def import_source(model: Source, options: Options) -> Graph:
    """The model as a graph, shapes fixed as the options say."""
    from .onnx.importer import import_model

    return import_model(model, shapes=dict(options.shapes), fallback=options.fallback is not None)


def shrunk(
    model: Source, options: Options, calibration: Calibration | None = None, say: Progress | None = None
) -> tuple[Graph, list[str], QuantizeReport | None]:
    """The model pruned and quantized as the options say, shapes fixed; what to tell the user; what int8 did.

    Calibration sees the model's own free dims, so that samples may have any size the model takes.
    """
    from .onnx.inputs import fix_shapes, fixed_types

    late = options.int8 and bool(options.shapes)
    graph = import_source(model, replace(options, shapes={}) if late else options)
    if late:
        fixed_types({v.name: v.type for v in graph.inputs}, options.shapes)  # raises now, not after calibration
    notes: list[str] = []
    report = None
    if options.prune:
        from ..passes.pruning import prune

        notes += prune(graph, options.prune).lines()
    if options.int8:
        from ..backends.runtime.toolchain import cache_folder
        from ..passes.quantization.quantize import Recipe, quantize

        threads = options.threads or len(os.sched_getaffinity(0))
        method = cast(Any, options.calibration_method)
        recipe = Recipe(method, budget=options.accuracy_budget, diagnose=True, threads=threads)
        report = quantize(graph, calibration, recipe, cache=cache_folder() / "calibration", progress=say)
        notes += report.lines()
    if late:
        fix_shapes(graph, options.shapes)
    return graph, notes, report


def optimize(graph: Graph, notes: Sequence[str] = (), target: Target | None = None) -> Any:
    """Runs the backend's pipeline on a graph in place, for a target that multiplies bytes unless one is given; returns
    the PassContext with its log."""
    from ..backends.cpu import PIPELINE, pipeline
    from ..passes.base import PassContext, run_passes

    context = PassContext()
    context.notes += notes
    run_passes(graph, PIPELINE if target is None else pipeline(target), context)
    return context


def _target(options: Options) -> Target:
    """The target, its kernels laid out for as many threads as a run uses."""
    from ..backends.target import Target

    target = Target.parse(options.target)
    return replace(target, num_cores=options.threads) if options.threads else target


@dataclass
class _Prepared:
    """A model ready to be lowered: `nodes` and `ops` count those before optimizing."""

    graph: Graph
    context: PassContext
    quantized: QuantizeReport | None
    nodes: int
    ops: dict[str, int]


def _prepare(
    model: Source, options: Options, calibration: Calibration | None, target: Target, say: Progress
) -> _Prepared:
    """Everything up to lowering."""
    from ..backends.cpu import store_bf16

    graph, notes, quantized = shrunk(model, options, calibration, _part(say, 0.0, 0.5))
    if options.int8:  # calibration was the first half
        say = _part(say, 0.5, 1.0)
    say("optimizing the graph", 0.02)
    nodes, before = len(graph), _ops(graph)
    if options.int8 and not target.multiplies_bytes:
        notes.append(f"{target.name} has no products of bytes: int8 makes a model smaller there, hardly faster")
    context = optimize(graph, notes, target)
    if options.weights:
        from ..passes.quantization.weights import pack_weights

        context.notes += pack_weights(graph, options.weights).lines()
    if options.bf16:
        store_bf16(graph, target, context)
    return _Prepared(graph, context, quantized, nodes, before)


def _compile_file(model: Source, options: Options, calibration: Calibration | None, out: Path, say: Progress) -> bool:
    """Writes the artifact; False if it is only the best that there was when the user interrupted."""
    from ..backends.build import build_artifact
    from ..backends.fallback import Fallback
    from ..backends.summary import summarize

    started = time.perf_counter()
    target = _target(options)
    prepared = _prepare(model, options, calibration, target, say)
    graph, context, quantized = prepared.graph, prepared.context, prepared.quantized
    if options.int8:  # calibration was the first half
        say = _part(say, 0.5, 1.0)
    planner = None
    if options.tune or options.db:
        planner = _planner(graph, target, options, _part(say, 0.05, 0.5))
    say("lowering", 0.05)
    fallback = Fallback() if options.fallback else None
    lowered = target.lower(graph, fallback, planner)
    if planner is not None:
        lowered.notes.append(planner.note)
    summary = summarize(prepared.nodes, lowered, context, target)
    summary["ops"] = {"before": prepared.ops, "after": _ops(graph)}
    manifest = {"options": options.as_dict(), "model": graph.name, "versions": versions(), "summary": summary}
    if quantized is not None:
        manifest["quantization"] = quantized.as_dict()
    extras = fallback.extras if fallback else {}
    build_artifact(lowered, target, manifest | {"fallback": sorted(extras)}, out, extras=extras, report=say)
    say(f"compiled in {time.perf_counter() - started:.1f} s", 1.0)
    return quantized is None or not quantized.interrupted


def _planner(graph: Graph, target: Target, options: Options, say: Progress) -> Tuned:
    """What knows the database, which is filled first if the options say so."""
    from ..backends.tuning.session import default_path, planner_for, tune_graph
    from ..backends.tuning.tuner import Limits

    path = Path(options.db) if options.db else default_path()
    if options.tune:
        tune_graph(graph, target, path, Limits(), say)
    return planner_for(graph, target, path)


def _ops(graph: Graph) -> dict[str, int]:
    """How many nodes of each op."""
    return dict(Counter(node.op for node in graph.all_nodes()))


def _part(say: Progress, begin: float, end: float) -> Progress:
    """Progress of a part of the work."""
    return lambda what, share: say(what, begin + (end - begin) * share)


# --- cache keys --------------------------------------------------------------------------------------------------


def _key(model: Source, options: Options, calibration: Calibration | None) -> str:
    from ..backends.runtime.cache import digest

    target = _target(options)
    parts: list[bytes | Path] = [_fingerprint(), repr(target).encode(), options.text().encode()]
    parts.append(calibration.key.encode() if calibration else b"")
    if options.db:
        from ..backends.tuning.session import known_of

        parts.append(known_of(target, Path(options.db)).encode())
    if isinstance(model, bytes):
        parts.append(model)
    elif isinstance(model, (str, os.PathLike)):
        path = Path(model)
        if not path.is_file():
            raise ModelError("no such model file", node=str(path))
        try:
            parts += [path, *_external_files(path)]
            return digest(parts)
        except OSError as error:
            raise ModelError(f"cannot read it: {error.strerror}", node=str(path)) from error
    else:
        parts.append(model.SerializeToString(deterministic=True))
    return digest(parts)


def _external_files(path: Path) -> list[Path]:
    """The data files a model refers to (those inside its folder; the importer judges all others)."""
    from .onnx.external import external_files

    return external_files(path)


@functools.cache
def _fingerprint() -> bytes:
    """Changes with optc's own code and with the versions that shape an artifact."""
    from ..backends.runtime.cache import digest

    root = Path(__file__).parent.parent
    rooms = ("compiler", "passes", "backends")
    files = sorted(p for room in rooms for p in (root / room).rglob("*") if p.suffix in (".py", ".c", ".h"))
    return digest([repr(versions()).encode(), *files]).encode()


def versions() -> dict[str, str]:
    """Versions of optc and of what shapes its artifacts."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("optc", "apache-tvm", "apache-tvm-ffi", "onnx"):
        try:
            found[name] = version(name)
        except PackageNotFoundError as error:
            raise ArtifactError(f"package {name} is not installed", hint="Reinstall optc with pip.") from error
    return found
