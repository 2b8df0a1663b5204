"""List the targets, this host's features, and which toolchain pieces are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .common import Json, Printer, Quiet, table


def command(json: Json = False, quiet: Quiet = False) -> None:
    from ...backends.arm import CORES
    from ...backends.cuda.target import ARCHITECTURES
    from ...backends.cuda.toolchain import find_nvcc
    from ...backends.runtime.host import host_features, host_triple, runs_here
    from ...backends.runtime.toolchain import find_compiler
    from ...backends.target import LEVELS, Target
    from ...compiler.errors import TargetError

    mine = host_features()
    rows, facts = [], []
    for target in (*LEVELS.values(), *CORES.values()):
        native = runs_here(target.triple)
        missing = [f for f in target.features if f not in mine] if native else [target.triple]
        here = f"needs {' '.join(missing)}" if missing else "runs here"
        rows.append([target.name, f"{target.lanes} x f32", here if native else _cross(target.triple)])
        facts.append({"target": target.name, "lanes": target.lanes, "missing": missing})
    try:
        host = Target.host().mcpu
    except TargetError as error:
        host = f"not available: {error.message}"
    try:
        compiler = find_compiler().version
    except TargetError as error:
        compiler = str(error)
    try:
        nvcc = str(find_nvcc())
    except TargetError as error:
        nvcc = str(error)
    text = [f"host      {host_triple()}, compiles as {host}", f"compiler  {compiler}"]
    text += [table(rows, ["target", "vector", "this host"])]
    text += [f"cuda (not yet run on hardware): {', '.join(ARCHITECTURES)}; compiler {nvcc}"]
    data: dict[str, Any] = {
        "host": host_triple(),
        "cpu": host,
        "compiler": compiler,
        "nvcc": nvcc,
        "features": sorted(mine),
    }
    data |= {"targets": facts, "gpus": list(ARCHITECTURES)}
    Printer(json, quiet).show("\n".join(text), data)


def _cross(triple: str) -> str:
    """What code for another architecture needs here."""
    from ...backends.runtime.toolchain import find_compiler
    from ...compiler.errors import TargetError
    from ..emulator import qemu

    try:
        find_compiler(triple)
    except TargetError as error:
        return f"compiles after: {error.hint}"
    try:
        return f"compiles, runs under {Path(qemu(triple)[0]).name}"
    except TargetError:
        return "compiles; runs here after: apt-get install qemu-user-static"
