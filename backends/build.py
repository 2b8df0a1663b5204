"""From lowered steps to an artifact on disk: kernels to objects, program to C, all linked into `code.so`."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..compiler.ir import Graph
from ..compiler.types import dim_text
from .program import Program, build_program
from .runtime.artifact import write_artifact
from .runtime.toolchain import link
from .steps import Lowered
from .target import Target

Report = Callable[[str, float], None]
"""Called with what is being done and the share of the work done, 0 to 1."""


@dataclass(frozen=True)
class Compiled:
    """What kernels became: object files, C text to follow the program's, C sources of the runtime that the target
    needs, and members for the artifact."""

    objects: list[bytes]
    text: str = ""
    sources: Sequence[Path] = ()
    extras: Mapping[str, bytes] = field(default_factory=dict)


C_OP_FOLDER = Path(__file__).parent / "kernels" / "c"


def build_artifact(
    lowered: Lowered,
    target: Target,
    manifest: Mapping[str, Any],
    out: Path,
    *,
    extras: Mapping[str, bytes | Path] | None = None,
    report: Report | None = None,
) -> Program:
    """Writes the artifact to `out`, atomically. `manifest` is completed with target, ports and kernels.

    Raises TargetError if there is no C compiler, ArtifactError if the file cannot be written.
    """
    say = report or (lambda what, share: None)
    common = [f for f in target.features if not f.startswith("amx")]  # tiles: only where a kernel uses them
    program = build_program(lowered, features=common, device=target.device)
    compiled = target.compile(program.kernels, say)
    say("linking", 0.9)
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        code = Path(folder, "code.so")
        sources = [*compiled.sources, *(C_OP_FOLDER / name for name in program.c_sources)]
        text = program.source + compiled.text
        link(text, compiled.objects, sources, code, triple=target.triple, cflags=target.cflags)
        say("writing the artifact", 0.95)
        full = {
            **manifest,
            "target": {"name": target.name, "triple": target.triple, "features": program.features},
            **ports(lowered.graph),
            "kernels": program.provenance,
            "steps": program.step_names,
            "unpacked_bytes": program.unpacked_bytes,
            "costs": [cost.as_list() if cost else None for cost in program.costs],
        }
        write_artifact(out, full, code, program.weights, {**compiled.extras, **(extras or {})})
    say("done", 1.0)
    return program


def ports(graph: Graph) -> dict[str, Any]:
    """The manifest's `inputs` and `outputs`: name, dtype and shape, symbolic dims as text."""

    def entry(name: str, value: Any) -> dict[str, Any]:
        shape = [d if isinstance(d, int) else dim_text(d) for d in value.type.dims]
        dtype = "bfloat16" if value.type.dtype.text == "bf16" else value.type.dtype.numpy.name
        return {"name": name, "dtype": dtype, "shape": shape}

    return {
        "inputs": [entry(v.name, v) for v in graph.inputs],
        "outputs": [entry(n, v) for n, v in zip(graph.output_names, graph.outputs, strict=True)],
    }


BATCH = 8
"""Kernels of one LLVM module: enough to share its fixed cost, few enough that progress shows."""


def compile_objects(kernels: Mapping[str, Any], target: Target, say: Report) -> Compiled:
    """All kernels through LLVM, in order."""
    from .codegen import compile_kernels

    names = list(kernels)
    objects = []
    for start in range(0, len(names), BATCH):
        say(f"kernel {start + 1} of {len(names)}", 0.1 + 0.8 * start / len(names))
        with _interrupts_wait():
            objects.append(compile_kernels({n: kernels[n] for n in names[start : start + BATCH]}, target))
    return Compiled(objects)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C takes effect after the block: thrown through TVM's C++ frames it can corrupt their memory."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.default_int_handler)
    if caught:
        raise KeyboardInterrupt
