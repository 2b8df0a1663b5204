"""Zoo models and node tests on ARM under QEMU: `python -m optc.tools.arm_check ppocr-cls minilm-l3 --nodes`.

A float model must agree with ONNX Runtime on this host; a quantized one must give the bits that optc's code for this
host gives, where no float layer lies between (else it must agree too). Inputs are the zoo's own, small images and short
texts where the model takes them. Without names or options every zoo model runs.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from .. import models
from ..backends.runtime.model import load
from ..compiler.driver import compile_to
from ..compiler.errors import OptcError
from ..compiler.options import Options
from . import conformance
from .conformance import Arrays
from .emulator import EmulatedError, EmulatedModel, Emulator
from .peers import Sample, onnxruntime_runner
from .verify import TOLERANCE, compare

SMALL: dict[str, dict[str, tuple[int, ...]]] = {
    "ppocr-det": {"x": (1, 3, 96, 96)},
    "ppocr-rec": {"x": (1, 3, 48, 96)},
    "silero-vad-16k-sequence": {"input": (4, 576)},
    "minilm-l3": {name: (1, 16) for name in ("input_ids", "attention_mask")},
    "bert-base": {name: (1, 8) for name in ("input_ids", "attention_mask", "token_type_ids")},
    "gpt2": {"input_ids": (1, 8)},
}
"""Shapes to run at where the zoo's own would take minutes to emulate."""


@dataclass(frozen=True)
class Check:
    """One model: its worst error relative to an output's range, whether the bits equal the host's (None: float model),
    and what failed."""

    model: str
    target: str
    error: float
    equal: bool | None
    seconds: float
    failure: str = ""

    @property
    def passes(self) -> bool:
        return not self.failure and (self.equal is True or self.error <= TOLERANCE)

    def line(self) -> str:
        bits = {None: "", True: "same bits as the host", False: "other bits than the host"}[self.equal]
        state = "ok  " if self.passes else "FAIL"
        return (
            f"{state} {self.model:<24} {self.target:<24} {self.error:.1e} {bits}{self.failure} ({self.seconds:.0f} s)"
        )


def small_sample(name: str) -> Sample:
    """Inputs of a zoo model, cut to a size that is quick to emulate."""
    entry = models.get(name)
    shapes = {**entry.static_shapes, **SMALL.get(name, {})}
    sample = entry.inputs()
    return {key: _cut(array, shapes.get(key, array.shape)) for key, array in sample.items()}


def _cut(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The array thinned out evenly, or repeated, to a shape: what an image shows stays in it."""
    for axis, size in enumerate(shape):
        found = max(array.shape[axis], 1)
        array = np.take(array, np.arange(size) * max(found, size) // size % found, axis)
    return np.array(array, order="C")


def check_model(name: str, target: str, int8: bool = False) -> Check:
    """Compiles a zoo model for `target` and runs it under QEMU; quantized, also for this host."""
    started = time.perf_counter()
    try:
        path, sample = models.get(name).path(), small_sample(name)
        with tempfile.TemporaryDirectory(prefix="optc-arm-") as folder, Emulator(target) as emulator:
            arm, host = Path(folder, "arm.optc"), Path(folder, "host.optc")
            compile_to(path, arm, Options(target=target, int8=int8), cache=False)
            found = emulator.load(arm).run(sample)
            if int8:
                compile_to(path, host, Options(int8=int8), cache=False)
                expected = load(host, 1).run(sample)
            else:
                expected = onnxruntime_runner(path)(sample)
    except OptcError as error:
        return Check(name, target, 0.0, None, time.perf_counter() - started, str(error).splitlines()[0])
    worst = max(e.relative for e in compare(found, expected))
    equal = all(np.array_equal(found[key], expected[key]) for key in expected) if int8 else None
    return Check(name + " int8" * int8, target, worst, equal, time.perf_counter() - started)


# --- node tests ---


class _Engine:
    """Runs node tests for a target; one emulated process serves all of them until one dies."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._emulator: Emulator | None = None
        self._loaded: EmulatedModel | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="optc-arm-")

    def __call__(self, model: ModelProto) -> Callable[[Arrays], Arrays]:
        path = Path(self._folder.name, "model.optc")
        compile_to(model, path, Options(target=self.target, threads=1), cache=False)
        if self._emulator is None:
            self._emulator = Emulator(self.target)
            atexit.register(self._emulator.close)
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None
        loaded = self._loaded = self._emulator.load(path)
        names = [port.name for port in loaded.inputs]

        def run(arrays: Arrays) -> Arrays:
            try:
                return list(loaded.run(dict(zip(names, arrays, strict=True))).values())
            except EmulatedError as error:
                if error.status is None and self._emulator is not None:
                    self._emulator.close()
                    self._emulator = self._loaded = None
                raise

        return run


def check_nodes(target: str, pattern: str = "", every: int = 1, jobs: int = 1) -> list[conformance.Result]:
    """Every n-th node test whose name matches, on `target`."""
    conformance.ENGINES[target] = functools.cache(_Engine)(target)
    wanted = re.compile(pattern)
    cases = [c for c in conformance.node_cases() if not c.excluded and wanted.search(c.name)][::every]
    results = []
    for result in conformance.run_cases(cases, target, jobs, 120.0):
        results.append(result)
        if len(results) % 100 == 0:
            failed = sum(r.error is not None for r in results)
            print(f"{len(results)} of {len(cases)} run, {failed} failed", file=sys.stderr, flush=True)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 if all passed, else 5."""
    parser = argparse.ArgumentParser(prog="python -m optc.tools.arm_check", description=__doc__)
    parser.add_argument("models", nargs="*", help="zoo names; all if neither names nor --nodes are given")
    parser.add_argument("--target", default="arm", help="arm, arm:CORE,+FEATURE... (default arm)")
    parser.add_argument("--int8", action="store_true", help="quantized models")
    parser.add_argument("--nodes", action="store_true", help="the node tests of onnx.backend.test")
    parser.add_argument("--filter", default="", metavar="RE", help="node tests whose name matches")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th node test")
    parser.add_argument("--jobs", type=int, default=1, help="processes for node tests")
    args = parser.parse_args(argv)
    passed = True
    for name in args.models or ([] if args.nodes else models.names()):
        result = check_model(name, args.target, args.int8)
        print(result.line(), flush=True)
        passed &= result.passes
    if args.nodes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = check_nodes(args.target, args.filter, args.every, args.jobs)
        print(conformance.text_report(results))
        passed &= all(r.error is None for r in results)
    return 0 if passed else 5


if __name__ == "__main__":
    sys.exit(main())
