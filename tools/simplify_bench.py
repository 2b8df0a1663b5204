"""`optc simplify` beside onnxsim and onnxslim: nodes, and ONNX Runtime's latency before and after.

python -m optc.tools.simplify_bench [MODEL ...] [--threads N] [--rounds N] [-o docs/benchmarks-simplify.md]

Each model of the zoo is simplified by every tool; the results run on ONNX Runtime with all its own optimizations on, in
one process, interleaved round by round.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from .. import models
from .bench import Timing, compare
from .peers import onnxruntime_runner

Simplifier = Callable[[Path], bytes]


def optc_simplify(path: Path) -> bytes:
    from ..compiler.onnx.exporter import export_model
    from ..compiler.onnx.importer import import_model
    from ..passes.pipelines import simplify

    graph = import_model(path)
    simplify(graph)
    return bytes(export_model(graph).SerializeToString())


def onnxsim_simplify(path: Path) -> bytes:
    simplified, valid = importlib.import_module("onnxsim").simplify(onnx.load(path))
    if not valid:
        raise ValueError("onnxsim's own check failed")
    return bytes(simplified.SerializeToString())


def onnxslim_simplify(path: Path) -> bytes:
    return bytes(importlib.import_module("onnxslim").slim(onnx.load(path)).SerializeToString())


TOOLS: dict[str, Simplifier] = {
    "optc": optc_simplify,
    "onnxsim": onnxsim_simplify,
    "onnxslim": onnxslim_simplify,
}


@dataclass
class Row:
    """One model: nodes and seconds by tool ("original" too), why a tool failed, and timings, optc's first."""

    model: str
    nodes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)


def count_nodes(graph: onnx.GraphProto) -> int:
    """Nodes of a graph and its subgraphs, Constant nodes (which are data) left out."""
    total = 0
    for node in graph.node:
        total += node.op_type != "Constant"
        total += sum(count_nodes(a.g) for a in node.attribute if a.HasField("g"))
    return total


def measure(name: str, threads: int, rounds: int) -> Row:
    """Simplifies one model by every tool and times what came out."""
    model = models.get(name)
    row = Row(name)
    results = {"original": model.path().read_bytes()}
    for tool, simplify in TOOLS.items():
        start = time.perf_counter()
        try:
            results[tool] = simplify(model.path())
        except Exception as error:  # whatever a peer raises is its result in the table
            row.failures[tool] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        row.seconds[tool] = time.perf_counter() - start
    sample = model.inputs()
    systems = []
    for tool in sorted(results, key=lambda t: t != "optc"):
        row.nodes[tool] = count_nodes(onnx.load_from_string(results[tool]).graph)
        run = onnxruntime_runner(results[tool], threads)
        systems.append((tool, lambda run=run: run(sample)))
    row.timings = compare(systems, rounds)
    return row


def table(rows: Sequence[Row]) -> str:
    """Markdown: nodes by tool, milliseconds of optc's, and optc's time over each other's (below 1: optc is faster)."""
    others = ["original", *(t for t in TOOLS if t != "optc")]
    head = ["model", *(f"nodes {t}" for t in ("original", *TOOLS)), "ms optc", *(f"optc / {t}" for t in others)]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        by_name = {t.name: t for t in row.timings}
        cells = [row.model, *(str(row.nodes.get(t, "failed")) for t in ("original", *TOOLS))]
        cells.append(f"{by_name['optc'].median_ms:.3f}" if "optc" in by_name else "failed")
        for tool in others:
            timing = by_name.get(tool)
            cells.append(f"{timing.ratio:.2f} ({timing.low:.2f}-{timing.high:.2f})" if timing else "failed")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", help="zoo models (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, help="write the table as a page of the docs")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.models or models.names():
        rows.append(measure(name, options.threads, options.rounds))
        row = rows[-1]
        print(table([row]).splitlines()[-1], flush=True)
        print(f"  seconds { ({k: round(v, 2) for k, v in row.seconds.items()}) } failures {row.failures}", flush=True)
    page = _PAGE.format(threads=options.threads, rounds=options.rounds, table=table(rows))
    if options.output:
        options.output.write_text(page)
    else:
        print(page)


_PAGE = """# `optc simplify` beside onnxsim and onnxslim

ONNX Runtime on {threads} thread(s), all its own optimizations on; {rounds} interleaved rounds, ratios paired by round,
medians with their 95% interval; a ratio below 1 means that the model optc wrote is faster. Nodes include those of
subgraphs and leave out Constant nodes. Batch 1, dynamic dims left dynamic.

    python -m optc.tools.simplify_bench --threads {threads} --rounds {rounds} -o docs/benchmarks-simplify.md

{table}
"""

if __name__ == "__main__":
    main()
