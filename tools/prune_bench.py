"""What pruning brings: latency against multiply-adds, and what it costs in accuracy, on fashion-cnn.

    python -m optc.tools.prune_bench [--spec channels=50%] [--batch 1,64,256] [--images 10000] [--threads 1] [--json]

For every batch size the dense and the pruned model are compiled for that shape and timed in one process, interleaved
round by round. Pruning has kept its promise where latency shrinks (nearly) as much as the multiply-adds did: `over` is
the pruned latency over MACs share x dense latency, at best 1; a call from Python adds the same few microseconds to both
(at batch 1 a tenth of the pruned model's time). Nothing is fine-tuned after the cut.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from ..compiler.driver import compile as compile_model
from ..compiler.driver import import_source
from ..compiler.options import Options
from ..models import get
from ..passes.pruning import PruneReport, prune
from .bench import ROUNDS, compare
from .cli.common import table
from .data import as_json

MODEL = "fashion-cnn"


@dataclass(frozen=True)
class Row:
    """One batch size: medians in ms, the pruned latency over the dense one (median of paired rounds, with its 95%
    interval), and that ratio over the MACs share."""

    batch: int
    dense_ms: float
    pruned_ms: float
    ratio: float
    low: float
    high: float
    over: float


def pruned_report(spec: str) -> PruneReport:
    """What the spec does to the model."""
    return prune(import_source(get(MODEL).path(), Options()), spec)


def latency(spec: str, batch: int, threads: int, share: float, rounds: int = ROUNDS) -> Row:
    """Times the dense and the pruned model, specialised to a batch size; `share` is the pruned MACs over the dense."""
    model = get(MODEL)
    inputs = model.inputs(batch)
    shapes = {name: array.shape for name, array in inputs.items()}
    dense, pruned = (compile_model(model.path(), shapes=shapes, threads=threads, prune=p) for p in (None, spec))
    systems = [("pruned", lambda: pruned.run(inputs)), ("dense", lambda: dense.run(inputs))]
    small, large = compare(systems, rounds)
    return Row(batch, large.median_ms, small.median_ms, large.ratio, large.low, large.high, large.ratio / share)


def accuracy(spec: str, images: int | None, threads: int) -> dict[str, Any]:
    """Top-1 of the dense and the pruned model on the first test images (all: None), with 95% intervals."""
    model = get(MODEL)
    metric = model.metric
    if metric is None:
        return {}
    dense, pruned = (compile_model(model.path(), threads=threads, prune=p) for p in (None, spec))
    runs = {"dense": dense.run, "pruned": pruned.run}
    return {name: asdict(metric.evaluate(run, images)) for name, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="channels=50%")
    parser.add_argument("--batch", default="1,64,256", help="batch sizes")
    parser.add_argument("--images", type=int, default=10_000, help="test images; up to 64 need no download, 0: skip")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = pruned_report(options.spec)
    share = report.macs_share
    rows = [
        latency(options.spec, int(batch), options.threads, share, options.rounds) for batch in options.batch.split(",")
    ]
    found = accuracy(options.spec, options.images, options.threads) if options.images else {}
    if options.json:
        print(as_json({"report": report.as_dict(), "latency": [asdict(row) for row in rows], "top-1": found}))
        return
    print("\n".join(report.lines()))
    header = ["batch", "dense ms", "pruned ms", "pruned/dense", "95%", "over MACs share"]
    cells = [
        [
            str(r.batch),
            f"{r.dense_ms:.3f}",
            f"{r.pruned_ms:.3f}",
            f"{r.ratio:.3f}",
            f"{r.low:.3f}-{r.high:.3f}",
            f"{r.over:.2f}",
        ]
        for r in rows
    ]
    print(table(cells, header))
    for name, result in found.items():
        low, high = result["ci95"]
        print(f"top-1 {name}: {result['value']:.4f} on {result['n']} images (95% {low:.4f}-{high:.4f})")


if __name__ == "__main__":
    main()
