"""Look into tuning databases, merge and thin them out.

Examples: optc db list plans.db / optc db merge all.db one.db two.db / optc db export plans.db plans.jsonl /
optc db merge plans.db plans.jsonl / optc db prune plans.db
"""

from __future__ import annotations

import json as jsonlib
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from ...backends.tuning.database import Database, Setting, read_lines
from ...backends.tuning.tasks import Task
from .common import Json, Printer, Quiet, guarded, table

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
File = Annotated[Path, typer.Argument(help="The database.", metavar="FILE")]
SHOWN = 12
"""Characters of a region's key."""


def list_(
    file: File,
    trials: Annotated[bool, typer.Option("--trials", help="Every trial, not only the best of each region.")] = False,
    json: Json = False,
) -> None:
    """List the regions of a database: what was measured, and the fastest kernel."""
    with Database(file) as database:
        rows = list(database.rows())
    if trials:
        shown = rows
        cells = [
            [r["region"][:SHOWN], _time(r["seconds"]), _ratio(r["ratio"]), r["error"] or r["candidate"]] for r in rows
        ]
        text = table(cells, ["region", "us", "ratio", "kernel"])
    else:
        shown = _regions(rows)
        cells = [
            [r["region"][:SHOWN], str(r["trials"]), _time(r["seconds"]), _ratio(r["ratio"]), r["name"], r["kernel"]]
            for r in shown
        ]
        text = table(cells, ["region", "trials", "us", "ratio", "what", "fastest"])
        text += "".join(f"\n{n} trials for {setting}" for setting, n in Counter(map(_setting, rows)).items())
    Printer(json).show(text, shown)


def _regions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best trial of each region and setting."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["region"], _setting(row)), []).append(row)
    found = []
    for (region, setting), own in groups.items():
        good = [r for r in own if r["ratio"] is not None]
        best = min(good, key=lambda r: r["ratio"], default=None)
        found.append({
            "region": region, "name": Task(own[0]["text"], own[0]["spec"], ()).name, "setting": setting,
            "trials": len(own), "failed": len(own) - len(good), "kernel": best and best["candidate"],
            "seconds": best and best["seconds"], "ratio": best and best["ratio"],
        })  # fmt: skip
    return found


def _setting(row: dict[str, Any]) -> str:
    triple, mcpu = row["target"].split(" ")[:2]
    return f"{mcpu} ({triple}), {row['threads']} threads, kernels {row['kernels'][:8]}, TVM {row['tvm']}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e6 * seconds:.1f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f}"


def merge(
    file: Annotated[Path, typer.Argument(help="The database to add to; made if there is none.", metavar="FILE")],
    others: Annotated[list[Path], typer.Argument(help="Databases, or exports (.jsonl).", metavar="OTHER...")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add the trials of other databases or exports to FILE; what is there already is not added again."""
    with Database(file, create=True) as database:
        added = sum(_add(database, other) for other in others)
    Printer(json, quiet).show(f"{added} trials added to {file}", {"added": added, "db": str(file)})


def _add(database: Database, path: Path) -> int:
    if path.suffix == ".jsonl":
        return database.add(read_lines(path))
    with Database(path) as other:
        return database.add(other.rows())


def export(
    file: File,
    output: Annotated[Path | None, typer.Argument(help="Default: standard output.", metavar="OUT.jsonl")] = None,
) -> None:
    """Write every trial as a line of JSON."""
    with Database(file) as database:
        lines = (jsonlib.dumps(row) + "\n" for row in database.rows())
        if output is None:
            sys.stdout.writelines(lines)
        else:
            with output.open("w", encoding="utf-8") as out:
                out.writelines(lines)


def prune(
    file: File,
    failed: Annotated[bool, typer.Option("--failed", help="Trials that failed, too.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove what this version cannot use: trials of other versions of the kernels or of TVM."""
    from ...backends.target import Target

    with Database(file) as database:
        gone = database.prune(Setting.of(Target.host()), failed=failed)
    Printer(json, quiet).show(f"{gone} trials removed from {file}", {"removed": gone, "db": str(file)})


for _name, _command in (("list", list_), ("merge", merge), ("export", export), ("prune", prune)):
    app.command(name=_name)(guarded(_command))
