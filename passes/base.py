"""Passes: what one is, how they run in order, and how a pipeline is written as text.

A pass is a frozen dataclass whose fields are its options, so a pipeline prints as `"cse,fold-constants{max_bytes=9}"`
and that text makes the same pipeline again. A pass may count on a valid graph and must leave one.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from ..compiler.errors import OptcError, UsageError
from ..compiler.ir import Graph

Progress = Callable[[str, int, int], None]
"""Called with a pass's name, its index and the number of passes, before it runs."""


@dataclass
class PassContext:
    """What passes share in one run, and the log they leave.

    `applied` counts the rewrites by rule or pass name; `seconds` the time by pass name; `notes` are sentences for the
    user. `verify` checks the graph after every pass that changed it; `check_changed` (tests) also compares what a
    pass returned with the graph's structural hash.
    """

    applied: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    progress: Progress | None = None
    verify: bool = True
    check_changed: bool = False

    def count(self, what: str, times: int = 1) -> None:
        """Notes that `what` was done `times` times."""
        if times:
            self.applied[what] += times


@runtime_checkable
class Pass(Protocol):
    """A frozen dataclass with a `name` and `run`, which says whether it changed the graph."""

    name: ClassVar[str]

    def run(self, graph: Graph, ctx: PassContext) -> bool: ...


# --- pipelines as text -------------------------------------------------------------------------------------------

PASSES: dict[str, type[Any]] = {}
_PassClass = TypeVar("_PassClass", bound=type[Any])


def register_pass(cls: _PassClass) -> _PassClass:
    """Makes a pass known to `parse_pipeline` under its name."""
    PASSES[cls.name] = cls
    return cls


def pass_text(step: Pass) -> str:
    """`name{option=value,...}`, options at their default left out."""
    options = []
    for item in dataclasses.fields(step):  # type: ignore[arg-type]
        value = getattr(step, item.name)
        if value != item.default:
            options.append(f"{item.name}={'+'.join(value) if isinstance(value, tuple) else value}")
    return step.name + (f"{{{','.join(options)}}}" if options else "")


def pipeline_text(passes: Sequence[Pass]) -> str:
    return ",".join(pass_text(p) for p in passes)


def parse_pipeline(text: str) -> list[Pass]:
    """Reads what pipeline_text wrote. Raises UsageError for an unknown pass, option or value."""
    importlib.import_module(".pipelines", __package__)  # registers all passes
    passes: list[Pass] = []
    rest = text.strip()
    while rest:
        match = re.match(r"([\w-]+)\s*(?:\{([^}]*)\})?\s*(?:,\s*|$)", rest)
        if not match:
            raise UsageError("not a pipeline", found=rest, hint="Write it as name{option=value,...},name,...")
        name, options = match.groups()
        if name not in PASSES:
            raise UsageError(f"there is no pass {name!r}", hint=f"Known are {', '.join(sorted(PASSES))}.")
        passes.append(PASSES[name](**_parse_options(PASSES[name], options or "")))
        rest = rest[match.end() :]
    return passes


def _parse_options(cls: type[Any], text: str) -> dict[str, Any]:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    options: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = item.partition("=")
        if key not in fields:
            raise UsageError(f"pass {cls.name} has no option {key!r}", hint=f"It has {', '.join(fields) or 'none'}.")
        default = fields[key].default
        try:
            options[key] = _parse_value(default, value)
        except ValueError as error:
            raise UsageError(
                f"option {key} of pass {cls.name}", expected=type(default).__name__, found=value
            ) from error
    return options


def _parse_value(default: Any, text: str) -> Any:
    if isinstance(default, bool):
        if text not in ("True", "False"):
            raise ValueError(text)
        return text == "True"
    if isinstance(default, tuple):
        return tuple(filter(None, text.split("+")))
    return type(default)(text)


# --- running -----------------------------------------------------------------------------------------------------


def run_passes(graph: Graph, passes: Sequence[Pass], ctx: PassContext | None = None) -> bool:
    """Runs passes in order; True if one changed the graph.

    With OPTC_PRINT_AFTER set to pass names (or "all"), prints the graph after each of them; with OPTC_DUMP set to a
    folder, writes it there after every pass. If a pass fails, the graph as it was before that pass (as the pass left
    it, if nothing is verified) and the passes from there on are written to a temporary folder. Raises OptcError
    naming the pass, the node and that folder.
    """
    ctx = ctx or PassContext()
    keep = ctx.verify or ctx.check_changed
    before = graph.clone() if keep else graph
    changed = False
    for index, step in enumerate(passes):
        if ctx.progress:
            ctx.progress(step.name, index, len(passes))
        start = time.perf_counter()
        try:
            did = step.run(graph, ctx)
            if did and ctx.verify:
                _verify(graph)
        except Exception as error:
            raise _failure(before, passes[index:], error) from error
        ctx.seconds[step.name] = ctx.seconds.get(step.name, 0.0) + time.perf_counter() - start
        if ctx.check_changed:
            _check_changed(step, before, graph, did)
        if keep and did:
            before = graph.clone()
        _show(graph, step, index)
        changed |= did
    return changed


def _verify(graph: Graph) -> None:
    from ..compiler.verify import verify

    verify(graph)


def _check_changed(step: Pass, before: Graph, graph: Graph, did: bool) -> None:
    from ..compiler.text import structural_hash

    really = structural_hash(before) != structural_hash(graph)
    if really != did:
        raise OptcError(f"pass {step.name} reported a wrong change", expected=really, found=did)


def _show(graph: Graph, step: Pass, index: int) -> None:
    wanted = os.environ.get("OPTC_PRINT_AFTER", "").split(",")
    if step.name in wanted or "all" in wanted:
        print(f"// after {pass_text(step)}\n{graph!r}", file=sys.stderr)
    folder = os.environ.get("OPTC_DUMP")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{index:02}-{step.name}.txt").write_text(f"{graph!r}\n")


def _failure(graph: Graph, remaining: Sequence[Pass], error: Exception) -> OptcError:
    """The error to raise about a failed pass; `graph` is what the pass was given."""
    folder = Path(tempfile.mkdtemp(prefix="optc-failed-"))
    (folder / "pipeline.txt").write_text(pipeline_text(remaining) + "\n")
    saved = "pipeline.txt"
    try:
        from ..compiler.onnx.exporter import save_model

        save_model(graph, folder / "model.onnx")
        saved = "model.onnx and pipeline.txt"
    except Exception as second:  # the graph may be what is broken; its text says more than nothing
        (folder / "model.txt").write_text(f"// not exportable: {second}\n{_text_of(graph)}\n")
        saved = "model.txt and pipeline.txt"
    node = error.node if isinstance(error, OptcError) else None
    message = error.message if isinstance(error, OptcError) else f"{type(error).__name__}: {error}"
    return OptcError(
        f"pass {pass_text(remaining[0])} failed: {message}",
        node=node,
        hint=f"{saved} in {folder} reproduce it: please report them.",
    )


def _text_of(graph: Graph) -> str:
    try:
        return repr(graph)
    except Exception as error:
        return f"not printable: {error}"
