"""List the targets, this host's features, and which toolchain pieces are there."""

from __future__ import annotations

from .common import Json, Printer, Quiet, table


def command(json: Json = False, quiet: Quiet = False) -> None:
    from ...backends.runtime.host import host_features, host_triple
    from ...backends.runtime.toolchain import find_compiler
    from ...backends.target import LEVELS, Target
    from ...compiler.errors import TargetError

    mine = host_features()
    rows, facts = [], []
    for level in LEVELS.values():
        missing = [f for f in level.features if f not in mine]
        here = "runs here" if not missing else f"needs {' '.join(missing)}"
        rows.append([level.name, f"{level.lanes} x f32", here])
        facts.append({"target": level.name, "lanes": level.lanes, "missing": missing})
    try:
        host = Target.host().mcpu
    except TargetError as error:
        host = f"not available: {error.message}"
    try:
        compiler = find_compiler().version
    except TargetError as error:
        compiler = str(error)
    text = [f"host      {host_triple()}, compiles as {host}", f"compiler  {compiler}"]
    text += [table(rows, ["target", "vector", "this host"]), "arm, cuda: not in this version"]
    data = {"host": host_triple(), "cpu": host, "compiler": compiler, "features": sorted(mine), "targets": facts}
    Printer(json, quiet).show("\n".join(text), data)
