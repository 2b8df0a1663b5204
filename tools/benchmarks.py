"""The speed tables of the documentation: `python -m optc.tools.benchmarks --markdown docs/benchmarks.md`, and with
`--precision int8 --markdown docs/benchmarks-int8.md` that of int8 (see benchmarks_int8.py).

Every zoo model at its static shape, optc beside the peers in one process, interleaved (see bench.py), for each thread
count. The ratio is optc's time over the peer's: below 1 optc is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..backends.runtime.model import load
from ..compiler.driver import compiled
from ..compiler.errors import OptcError
from ..compiler.options import Options
from .bench import Timing, compare, geometric_mean
from .peers import peer


@dataclass(frozen=True)
class Row:
    """One model at one thread count: optc's timing, then the peers'."""

    model: str
    threads: int
    timings: tuple[Timing, ...]


def measure(name: str, peers: Sequence[str], threads: Sequence[int], rounds: int) -> list[Row]:
    """Times one zoo model. Raises OptcError if it does not compile or a peer cannot load it."""
    entry = models.get(name)
    path = entry.path()
    sample = at_shapes(entry.inputs(), entry.static_shapes)
    shapes = {key: array.shape for key, array in sample.items()}
    rows = []
    with compiled(path, Options(shapes=shapes)) as artifact:
        for count in threads:
            model = load(artifact, count)
            systems: list[tuple[str, Callable[[], object]]] = [("optc", lambda m=model: m.run(sample))]  # type: ignore[misc]
            for other in peers:
                run = peer(other)(path, count, shapes)
                systems.append((other, lambda run=run: run(sample)))  # type: ignore[misc]
            rows.append(Row(name, count, tuple(compare(systems, rounds, count))))
    return rows


def at_shapes(sample: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Realistic inputs repeated or cut to the benchmark's shapes."""
    out = {}
    for name, array in sample.items():
        shape = shapes.get(name, array.shape)
        for axis, size in enumerate(shape):
            array = np.take(array, np.arange(size) % max(array.shape[axis], 1), axis)
        out[name] = np.array(array, order="C")  # keeps rank 0, as ascontiguousarray does not
    return out


def markdown(rows: Sequence[Row], command: str) -> str:
    """The table, with the geometric mean of each peer and thread count."""
    peers = [t.name for t in rows[0].timings[1:]]
    lines = [
        "# Benchmarks",
        "",
        f"Made by `{command}` on {machine()}.",
        "Medians of interleaved rounds; a ratio is optc's time over the peer's, paired by round, with a 95% interval:",
        "below 1 optc is faster. Milliseconds on a shared machine swing between runs, ratios hardly do.",
        "",
        "| model | threads | optc ms | " + " | ".join(f"{p} ms | optc / {p}" for p in peers) + " |",
        "| --- | ---: | ---: |" + " ---: | ---: |" * len(peers),
    ]
    for row in rows:
        cells = [f"{t.median_ms:.3f} | {t.ratio:.2f} ({t.low:.2f}-{t.high:.2f})" for t in row.timings[1:]]
        lines.append(f"| {row.model} | {row.threads} | {row.timings[0].median_ms:.3f} | {' | '.join(cells)} |")
    for count in sorted({r.threads for r in rows}):
        mine = [r for r in rows if r.threads == count]
        means = [f" | {geometric_mean([r.timings[i + 1].ratio for r in mine]):.3f}" for i in range(len(peers))]
        lines.append(f"| **geometric mean** | {count} | {' '.join(means)} |".replace(" |  |", " | |"))
    return "\n".join([*lines, ""])


def machine() -> str:
    """The processor and how many cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m optc.tools.benchmarks", description=__doc__)
    parser.add_argument("models", nargs="*", help="zoo names; all if none is given")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--accuracy", type=Path, help="int8: where `python -m optc.tools.accuracy` kept its scores")
    parser.add_argument("--vs", default="onnxruntime", help="peers of fp32, comma-separated")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    words = " ".join(sys.argv[1:] if argv is None else argv)
    command = f"python -m optc.tools.benchmarks {words}".strip()
    names, threads = args.models or models.names(), [int(n) for n in args.threads.split(",")]
    tables = _int8_tables if args.precision == "int8" else _float_tables
    text, figures = tables(names, threads, args, command)
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def _float_tables(
    names: Sequence[str], threads: Sequence[int], args: argparse.Namespace, command: str
) -> tuple[str, list[Any]]:
    rows: list[Row] = []
    for name in names:
        try:
            found = measure(name, args.vs.split(","), threads, args.rounds)
        except OptcError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        rows += found
        for row in found:
            ratios = "  ".join(f"/ {t.name} {t.ratio:.2f} ({t.low:.2f}-{t.high:.2f})" for t in row.timings[1:])
            print(f"{name:<24} {row.threads} thread(s)  {row.timings[0].median_ms:9.3f} ms  {ratios}", flush=True)
    return markdown(rows, command), [asdict(r) for r in rows]


def _int8_tables(
    names: Sequence[str], threads: Sequence[int], args: argparse.Namespace, command: str
) -> tuple[str, list[Any]]:
    from .accuracy import default_folder, known
    from .benchmarks_int8 import Int8Row, line, markdown_int8, measure_int8

    holds = known(args.accuracy or default_folder())
    rows: list[Int8Row] = []
    for name in names:
        try:
            found = measure_int8(name, threads, args.rounds, holds.get(name, {}))
        except OptcError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        rows += found
        print("\n".join(line(row) for row in found), flush=True)
    return markdown_int8(rows, command), [asdict(r) for r in rows]


if __name__ == "__main__":
    sys.exit(main())
