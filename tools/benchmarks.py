"""The speed pages of the documentation, each made by one command:

    python -m optc.tools.benchmarks --precision fp32 --threads 1,2 --markdown docs/benchmarks.md
    python -m optc.tools.benchmarks --precision bf16 --threads 1,2 --markdown docs/benchmarks-bf16.md
    python -m optc.tools.benchmarks --precision int8 --threads 1,2 --markdown docs/benchmarks-int8.md

Every zoo model at its static shape, optc beside the peers of that precision in one process, interleaved (see bench.py).
Each model has a process of its own: one that fails, or is killed for its memory or time, is named in the page, and the
rest go on. With --resume FILE rows are kept there, a line of JSON each as it is measured, and a second run goes on.
--prepare only compiles and quantizes, so that a run afterwards measures from the first minute; --tune SECONDS tunes
before that. Artifacts are then compiled with the tuning database that --db names, here and when measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import models
from ..compiler.errors import OptcError
from .accuracy import default_folder, known
from .benchmarks_page import markdown
from .benchmarks_systems import COMPARISONS, DEFAULT_ROUNDS, DEFAULT_SECONDS, Bench, Row, quick

LIMIT_SECONDS = 900
"""For one model, compiling and quantizing included."""
CACHE_BYTES = 12 << 30
"""Room for the artifacts of the whole zoo in all precisions, so that what --prepare made is still there."""

Key = tuple[str, str, int]
"""Precision, model, threads."""


def key_of(row: Row) -> Key:
    return row.precision, row.model, row.threads


def read_rows(file: Path) -> dict[Key, Row]:
    """The rows kept in a file, the last of each model and thread count; a line cut short by a kill is skipped."""
    rows: dict[Key, Row] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            row = Row.from_dict(json.loads(line))
        except json.JSONDecodeError:
            continue
        rows[key_of(row)] = row
    return rows


def append_row(file: Path, row: Row) -> None:
    """Adds a line; one that a kill cut short before it stays by itself."""
    cut = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a") as out:
        out.write("\n" * cut + json.dumps(row.as_dict()) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m optc.tools.benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="zoo names; all if none is given")
    parser.add_argument("--precision", choices=tuple(COMPARISONS), default="fp32")
    parser.add_argument("--accuracy", type=Path, default=default_folder(), help="where optc.tools.accuracy kept scores")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS)
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="a model and thread count, about")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds a model, all included")
    parser.add_argument("--resume", type=Path, help="keep rows here, and do not measure again what it holds")
    parser.add_argument("--prepare", action="store_true", help="fill the caches and measure nothing")
    parser.add_argument("--db", type=Path, help="tuning database for optc")
    parser.add_argument("--tune", type=float, default=0.0, help="with --prepare and --db: seconds of tuning a model")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    words = list(sys.argv[1:] if argv is None else argv)
    if args.tune and not (args.prepare and args.db):
        parser.error("--tune needs --prepare and --db")
    if args.child:
        return _child(args)
    names = args.models or models.names()
    if args.prepare:
        return max(_spawn(name, words, args, Path(tempfile.gettempdir(), "unused"))[0] for name in names) and 5
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder:
        rows = _measure_all(names, words, args, args.resume or Path(folder, "rows.jsonl"))
    if not any(row.timings for row in rows):
        return 5
    command = f"python -m optc.tools.benchmarks {' '.join(words)}".strip()
    text = markdown(rows, command)
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    return 0 if all(row.timings for row in rows) else 5


def _counts(args: argparse.Namespace) -> list[int]:
    return [int(n) for n in args.threads.split(",")]


def _measure_all(names: Sequence[str], words: Sequence[str], args: argparse.Namespace, file: Path) -> list[Row]:
    """The rows in the order of names and thread counts; those of a failed model hold what is known of the failure."""
    for name in names:
        keys = [(args.precision, name, count) for count in _counts(args)]
        have = read_rows(file)
        missing = [key for key in keys if key not in have or not have[key].timings]
        if missing:
            _, why = _spawn(name, words, args, file)
            have = read_rows(file)
            for key in missing:
                if key not in have or not have[key].timings:
                    append_row(file, Row(*key, (), {}, {COMPARISONS[args.precision].own[0]: why}))
    rows = read_rows(file)
    return [rows[args.precision, name, count] for name in names for count in _counts(args)]


def _spawn(name: str, words: Sequence[str], args: argparse.Namespace, file: Path) -> tuple[int, str]:
    """Measures one model in a process of its own; (exit code, why it failed)."""
    own = [word for word in words if word not in args.models]
    command = [sys.executable, "-m", "optc.tools.benchmarks", name, *own, "--child", str(file)]
    env = {"OPTC_CACHE_BYTES": str(CACHE_BYTES), **os.environ}
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=args.limit, check=False, env=env)
    except subprocess.TimeoutExpired:
        why, code = f"not done after {args.limit:.0f} s", 5
    else:
        code = done.returncode
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
        why = f"killed by signal {-code}" if code < 0 else last[0][:300]
    if code:
        print(f"{name}: {why}", file=sys.stderr, flush=True)
    return abs(code), why


def _child(args: argparse.Namespace) -> int:
    """Measures (or prepares) the one model named and appends its rows."""
    (name,) = args.models
    holds = known(args.accuracy).get(name, {})
    have = read_rows(args.child)
    try:
        with Bench(COMPARISONS[args.precision], name, args.db) as bench:
            if args.prepare:
                failures = bench.prepare(args.tune)
                print(f"{name:<24} ready{''.join(f'; {s}: {why}' for s, why in failures.items())}", flush=True)
                return 0
            for count in _counts(args):
                done = have.get((args.precision, name, count))
                if done is None or not done.timings:
                    row = bench.measure(count, args.rounds, args.seconds, holds)
                    append_row(args.child, row)
                    print(quick(row), flush=True)
    except OptcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
