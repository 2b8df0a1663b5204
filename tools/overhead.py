"""What a call costs: `python -m optc.tools.overhead` times a one-op model from Python beside ONNX Runtime, interleaved,
and from C++ through tools/runner, which needs cmake.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from onnx import parser

from ..compiler.driver import compile
from .bench import compare
from .peers import onnxruntime_runner

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
one_op (float[1, 8] a, float[1, 8] b) => (float[1, 8] c) { c = Add(a, b) }
"""
RUNNER = Path(__file__).with_name("runner")
REPEATS = 200_000


def main() -> int:
    proto = parser.parse_model(MODEL)
    model = compile(proto, threads=1)
    sample = {name: np.ones((1, 8), np.float32) for name in ("a", "b")}
    peer = onnxruntime_runner(proto.SerializeToString(), 1)
    a, b = sample["a"], sample["b"]
    systems = [("model(a, b)", lambda: model(a, b)), ("model.run", lambda: model.run(sample))]
    for timing in compare([*systems, ("onnxruntime", lambda: peer(sample))]):
        print(f"{timing.name:<14}{timing.median_ms * 1e3:8.2f} us   model(a, b) / this: {timing.ratio:.2f}")
    with tempfile.TemporaryDirectory(prefix="optc-overhead-") as folder:
        model.save(Path(folder, "one_op.optc"))
        build = Path(folder, "build")
        for command in (
            ["cmake", "-S", str(RUNNER), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"],
            ["cmake", "--build", str(build)],
        ):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        runner = next(p for p in build.rglob("optc_runner*") if p.is_file() and p.stat().st_mode & 0o100)
        subprocess.run([runner, Path(folder, "one_op.optc"), "--threads", "1", "--repeat", str(REPEATS)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
