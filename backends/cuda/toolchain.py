"""From CUDA C to what the driver loads: nvcc, from the system or from PyPI, and what its assembler reports.

Products are not fused with sums (--fmad=false): what a kernel computes in float32 has the same bits as on a CPU. Where
a fused product is wanted, the kernel says so.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.errors import OptcError, TargetError

HINT = (
    "Install it with `pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl`, with the CUDA toolkit, "
    "or set OPTC_NVCC"
)
_FLAGS = ("-std=c++17", "-O3", "--fmad=false", "--threads", "0", "-Xptxas", "-v")


@dataclass(frozen=True)
class Usage:
    """What the assembler says of one function on one architecture: registers a thread, bytes of static shared memory,
    bytes of registers spilled to memory (stores and loads)."""

    function: str
    architecture: str
    registers: int
    shared: int
    spilled: int


def find_nvcc() -> Path:
    """nvcc: OPTC_NVCC, else on the path, else a package's. Raises TargetError that says how to install one."""
    named = os.environ.get("OPTC_NVCC")
    if named:
        if not shutil.which(named):
            raise TargetError(f"the CUDA compiler {named!r} named by OPTC_NVCC does not exist")
        return Path(named)
    if found := shutil.which("nvcc"):
        return Path(found)
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob("*/bin/nvcc")):
            return path
    raise TargetError("no CUDA compiler (nvcc) was found", hint=HINT)


def assemble(source: str, architectures: Sequence[str]) -> tuple[bytes, list[Usage]]:
    """A fat binary with machine code for each architecture and PTX of the oldest, which newer drivers compile.

    Raises TargetError without nvcc, OptcError if it refuses the source.
    """
    nvcc = find_nvcc()
    with tempfile.TemporaryDirectory(prefix="optc-") as name:
        code, out = Path(name, "kernels.cu"), Path(name, "kernels.fatbin")
        code.write_text(source, encoding="utf-8")
        command = [str(nvcc), *_FLAGS, *_gencode(architectures), "--fatbin", str(code), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line]
            raise OptcError("nvcc failed:\n" + "\n".join((lines or done.stderr.splitlines())[:8]))
        return out.read_bytes(), usages(done.stderr)


def _gencode(architectures: Sequence[str]) -> list[str]:
    numbers = [name.removeprefix("sm_") for name in architectures]
    flags = [f"arch=compute_{n},code=sm_{n}" for n in numbers] + [
        f"arch=compute_{numbers[0]},code=compute_{numbers[0]}"
    ]
    return [part for flag in flags for part in ("-gencode", flag)]


def usages(report: str) -> list[Usage]:
    """What `ptxas -v` printed, by function and architecture."""
    found = []
    entry, spilled = ("", ""), 0
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            entry, spilled = (match[1], match[2]), 0
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found.append(Usage(*entry, int(match[1]), int(shared[1]) if shared else 0, spilled))
    return found
