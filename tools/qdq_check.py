"""Does the QDQ ONNX that optc writes mean elsewhere what optc computes? `python -m optc.tools.qdq_check`

Each zoo model is quantized and written as QDQ ONNX; optc compiles that file, ONNX Runtime and OpenVINO load it, and all
run the same test items. Reported is the share of output values within one step of optc's: 1/255 of what the output
spans. The goal is 99.9%.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import models
from ..compiler.driver import compile, shrunk
from ..compiler.onnx.exporter import save_model
from ..compiler.options import Calibration, Options
from .peers import Run, onnxruntime_runner, openvino_runner

GOAL = 0.999
STEPS = 255
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
        expected = [ours.run(s) for s in samples]
        for peer, runner in PEERS.items():
            try:
                found[peer] = _share(runner(path, 1), samples, expected)
            except Exception as error:  # whatever an engine raises on a model is a result of this check
                found[peer] = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return found


def _share(run: Run, samples: Sequence[dict[str, np.ndarray]], expected: Sequence[dict[str, np.ndarray]]) -> str:
    near = count = 0
    for sample, wanted in zip(samples, expected, strict=True):
        got = run(sample)
        for name, values in wanted.items():
            if values.dtype.kind != "f" or not values.size:
                continue
            step = float(np.ptp(values)) / STEPS
            near += int(np.count_nonzero(np.abs(got[name] - values) <= step * 1.001))
            count += values.size
    share = near / max(count, 1)
    return f"{share:.3%}{'' if share >= GOAL else ' NOT MET'}"


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
