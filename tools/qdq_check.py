"""Does the QDQ ONNX that optc writes mean elsewhere what optc computes? `python -m optc.tools.qdq_check`

Each zoo model is quantized and written as QDQ ONNX; optc compiles that file, ONNX Runtime and OpenVINO load it, and all
run the same test items. Reported is the share of values within one step, as `optc verify` counts it, of the output that
agrees least.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import models
from ..backends.runtime.model import Model
from ..compiler.driver import compile, shrunk
from ..compiler.onnx.exporter import save_model
from ..compiler.options import Calibration, Options
from .peers import Run, Sample, onnxruntime_runner, openvino_runner
from .verify_int8 import WITHIN_A_STEP, compare_int8

PEERS = {"onnxruntime": onnxruntime_runner, "openvino": openvino_runner}


def check(name: str, calibration: int, items: int) -> dict[str, str]:
    """{peer: share of values within a step, or why it cannot run the file}."""
    model = models.get(name)
    graph, *_ = shrunk(model.path(), Options(int8=True), Calibration(list(model.samples("calibration", calibration))))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "quantized.onnx")
        save_model(graph, path)
        ours = compile(path, threads=1, cache=False)
        samples = [dict(s) for s in model.samples("test", items)]
        for peer, runner in PEERS.items():
            try:
                found[peer] = _share(ours, runner(path, 1), samples)
            except Exception as error:  # whatever an engine raises on a model is a result of this check
                found[peer] = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return found


def _share(ours: Model, run: Run, samples: Sequence[Sample]) -> str:
    share = min(o.within_step for o in compare_int8(ours, run, samples, from_quantized=True).outputs)
    return f"{share:.3%}{'' if share >= WITHIN_A_STEP else ' NOT MET'}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m optc.tools.qdq_check", description=__doc__)
    named = [n for n in models.names() if models.get(n).metrics]
    parser.add_argument("--models", nargs="+", default=named, metavar="NAME", help="zoo names")
    parser.add_argument("--calibration", type=int, default=32, help="calibration samples")
    parser.add_argument("--items", type=int, default=10, help="test items")
    args = parser.parse_args(argv)
    passed = True
    for name in args.models:
        found = check(name, args.calibration, args.items)
        passed &= all(text.endswith("%") for text in found.values())
        print(f"{name:<26}" + "  ".join(f"{peer} {text}" for peer, text in found.items()), flush=True)
    return 0 if passed else 5


if __name__ == "__main__":
    sys.exit(main())
