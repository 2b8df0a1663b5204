"""What inference costs on ARM, in executed instructions: optc beside ONNX Runtime, both under the same emulator.

`python -m optc.tools.arm_cost ppocr-cls minilm-l3 --onnxruntime FOLDER`, FOLDER being the aarch64 wheel of onnxruntime
unzipped (`pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 onnxruntime`). It needs
qemu-user, which loads plugins as qemu-user-static cannot. A count is the difference between a process that runs the
model three times and one that runs it once, on one thread. Instructions are no times: they say nothing of caches and of
how many a core takes at once.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import models
from ..backends.runtime.toolchain import cross_prefix, find_compiler
from ..backends.runtime.types import number_of
from ..backends.target import Target
from ..compiler.driver import compile_to
from ..compiler.errors import TargetError, UsageError
from ..compiler.options import Options
from .benchmarks_systems import at_shapes
from .emulator import Emulator, count_of, counting_plugin, qemu
from .peers import Sample

ORT_HOST = Path(__file__).parent / "emulator" / "ort_host.c"
RUNS = 2
"""Runs that the counts differ by."""
# ONNX Runtime asks the system what it runs on and fails where that is an x86 processor.
_CPUINFO = """processor\t: 0
Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""


@dataclass(frozen=True)
class Cost:
    """Instructions of one inference; `peer` are ONNX Runtime's, None if it was not asked."""

    model: str
    optc: float
    peer: float | None

    def line(self) -> str:
        beside = f"{self.peer / 1e6:10.2f} {self.optc / self.peer:7.3f}" if self.peer else ""
        return f"{self.model:<28} {self.optc / 1e6:10.2f} {beside}"


def instructions_of_optc(artifact: Path, sample: Sample, target: str, cpu: str) -> float:
    """Instructions of one run of an artifact."""

    def count(runs: int) -> int:
        with Emulator(target, cpu, plugin=counting_plugin()) as emulator:
            model = emulator.load(artifact)
            for _ in range(runs):
                model.run(sample)
            return count_of(emulator.finish())

    return _difference(count)


def instructions_of_onnxruntime(model: Path, sample: Sample, library: Path, target: str, cpu: str) -> float:
    """Instructions of one run on ONNX Runtime's shared library for the target's architecture."""
    triple = Target.parse(target).triple
    with tempfile.TemporaryDirectory(prefix="optc-cost-") as name:
        folder = Path(name)
        host, inputs, root = folder / "host", folder / "inputs", folder / "root"
        find_compiler(triple).run("-std=c11", "-O2", ORT_HOST, "-o", host, "-ldl")
        inputs.write_bytes(b"".join(map(_packed, _ordered(model, sample))))
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text(_CPUINFO)
        (root / "lib").symlink_to(f"/usr/{cross_prefix(triple)}/lib")
        emulator = [*qemu(triple, plugins=True)[:1], "-cpu", cpu, "-plugin", str(counting_plugin()), "-L", str(root)]

        def count(runs: int) -> int:
            command = [*emulator, str(host), str(library), str(model), str(inputs), str(runs)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise TargetError(f"ONNX Runtime failed under QEMU: {done.stderr.strip()[-200:]}")
            return count_of(done.stderr)

        return _difference(count)


def _difference(count: Callable[[int], int]) -> float:
    """Instructions of a run; of two processes each the one that waited less for the system counts."""
    few, many = (min(count(runs) for _ in range(2)) for runs in (1, 1 + RUNS))
    return (many - few) / RUNS


def _ordered(model: Path, sample: Sample) -> list[np.ndarray]:
    """The sample's arrays in the order of the model's inputs."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return [sample[value.name] for value in graph.input if value.name in sample]


def _packed(array: np.ndarray) -> bytes:
    """An input as ort_host.c reads it."""
    shape = struct.pack(f"<ii{array.ndim}q", number_of(array.dtype), array.ndim, *array.shape)
    return shape + struct.pack("<q", array.nbytes) + array.tobytes()


def shared_library(folder: Path) -> Path:
    """ONNX Runtime's library in an unzipped wheel. Raises UsageError if there is none."""
    for path in sorted(folder.rglob("libonnxruntime.so*")):
        return path.resolve()
    raise UsageError(f"no libonnxruntime.so in {folder}", hint="Unzip onnxruntime's aarch64 wheel there.")


def cost(name: str, target: str, cpu: str, library: Path | None, peer_model: Path | None, int8: bool) -> Cost:
    """A zoo model at its static shape; `peer_model` is what ONNX Runtime runs instead of the float model."""
    entry = models.get(name)
    sample = at_shapes(entry.inputs(), entry.static_shapes)
    shapes = {key: array.shape for key, array in sample.items()}
    with tempfile.TemporaryDirectory(prefix="optc-cost-") as folder:
        artifact = Path(folder, "model.optc")
        compile_to(entry.path(), artifact, Options(target=target, shapes=shapes, int8=int8), cache=False)
        ours = instructions_of_optc(artifact, sample, target, cpu)
    theirs = None
    if library is not None:
        theirs = instructions_of_onnxruntime(peer_model or entry.path(), sample, library, target, cpu)
    return Cost(name + " int8" * int8, ours, theirs)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m optc.tools.arm_cost", description=__doc__)
    parser.add_argument("models", nargs="+", help="zoo names; NAME=FILE.onnx gives the peer another file to run")
    parser.add_argument("--target", default="arm:cortex-a76")
    parser.add_argument("--int8", action="store_true", help="quantize; the peer's files are to be quantized too")
    parser.add_argument("--onnxruntime", type=Path, metavar="FOLDER", help="its aarch64 wheel, unzipped")
    args = parser.parse_args(argv)
    library = shared_library(args.onnxruntime) if args.onnxruntime else None
    cpu = re.sub(r"^arm:?|,.*", "", args.target) or "cortex-a53"
    print(f"{'model':<28} {'optc (M)':>10} {'ORT (M)':>10} {'ratio':>7}")
    ratios = []
    for item in args.models:
        name, _, file = item.partition("=")
        found = cost(name, args.target, cpu, library, Path(os.path.abspath(file)) if file else None, args.int8)
        print(found.line(), flush=True)
        if found.peer:
            ratios.append(found.optc / found.peer)
    if ratios:
        print(f"geometric mean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
