"""Compiling from end to end: importer, passes, backend, artifact. The one module here that looks up to other rooms."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from .errors import ArtifactError, ModelError, UnsupportedError
from .ir import Graph
from .options import Options

if TYPE_CHECKING:
    import onnx

    from ..backends.runtime.model import Model

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
    calibration: object = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Model:
    """Compiles an ONNX model (path, bytes or ModelProto) and loads the result.

    `shapes` fixes input shapes, `threads` bounds the threads of a run (0: all), `fallback="onnxruntime"` lets nodes
    that cannot be lowered run there, `prune` is a pruning spec. `int8`, `bf16`, `fp16` and `calibration` are not in
    this version: UnsupportedError. Raises the errors of optc.compiler.errors.
    """
    from ..backends.runtime.model import load

    fixed = {name: tuple(int(d) for d in shape) for name, shape in (shapes or {}).items()}
    options = Options(target, fixed, threads, fallback, prune, int8, bf16, fp16)
    if calibration is not None:
        raise UnsupportedError("calibration is not available in this version", hint="Compile in float32.")
    with compiled(model, options, cache=cache, progress=progress) as path:
        return load(path, threads or None)


def compile_to(
    model: Source,
    out: str | os.PathLike[str],
    options: Options,
    *,
    cache: bool = True,
    progress: Progress | None = None,
) -> None:
    """Compiles to the file `out`, atomically: on any error or interrupt it is as it was before."""
    from ..backends.runtime.artifact import atomic_file

    with (
        compiled(model, options, cache=cache, progress=progress) as path,
        atomic_file(Path(out)) as file,
        path.open("rb") as source,
    ):
        shutil.copyfileobj(source, file, 1 << 22)


@contextlib.contextmanager
def compiled(
    model: Source, options: Options, *, cache: bool = True, progress: Progress | None = None
) -> Iterator[Path]:
    """The path of the finished artifact while the context lasts: in the cache, or else a temporary file."""
    from ..backends.runtime import cache as store

    options.check()
    say = progress or (lambda what, share: None)
    say("reading the model", 0.0)
    use_cache = cache and store.limit() > 0
    if not use_cache:
        with tempfile.TemporaryDirectory(prefix="optc-") as folder:
            path = Path(folder, "model.optc")
            _compile_file(model, options, path, say)
            yield path
        return
    key = _key(model, options)
    found = store.lookup(key)
    if found is None:
        found = store.artifact_path(key)
        _compile_file(model, options, found, say)
        store.evict(found)
    say("done", 1.0)
    yield found


def import_source(model: Source, options: Options) -> Graph:
    """The model as a graph, shapes fixed as the options say."""
    from .onnx.importer import import_model

    return import_model(model, shapes=dict(options.shapes), fallback=options.fallback is not None)


def optimize(graph: Graph, options: Options) -> Any:
    """Runs the backend's pipeline on a graph in place; returns the PassContext with its log."""
    from ..backends.cpu import PIPELINE
    from ..passes.base import PassContext, run_passes

    context = PassContext()
    if options.prune:
        from ..passes.pruning import prune

        context.notes += prune(graph, options.prune).lines()
    run_passes(graph, PIPELINE, context)
    return context


def _compile_file(model: Source, options: Options, out: Path, say: Progress) -> None:
    from ..backends.build import build_artifact
    from ..backends.cpu import lower
    from ..backends.fallback import Fallback
    from ..backends.summary import summarize
    from ..backends.target import Target

    started = time.perf_counter()
    target = Target.parse(options.target)
    graph = import_source(model, options)
    say("optimizing the graph", 0.02)
    nodes = len(graph)
    context = optimize(graph, options)
    say("lowering", 0.05)
    fallback = Fallback() if options.fallback else None
    lowered = lower(graph, target, fallback)
    summary = summarize(nodes, lowered, context, target)
    manifest = {"options": options.as_dict(), "model": graph.name, "versions": versions(), "summary": summary}
    extras = fallback.extras if fallback else {}
    build_artifact(lowered, target, manifest | {"fallback": sorted(extras)}, out, extras=extras, report=say)
    say(f"compiled in {time.perf_counter() - started:.1f} s", 1.0)


# --- cache keys --------------------------------------------------------------------------------------------------


def _key(model: Source, options: Options) -> str:
    from ..backends.runtime.cache import digest
    from ..backends.target import Target

    target = repr(Target.parse(options.target)).encode()
    parts: list[bytes | Path] = [_fingerprint(), target, options.text().encode()]
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
