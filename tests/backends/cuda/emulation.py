"""CUDA artifacts on a machine without a GPU: the kernels' CUDA C compiled for the CPU, behind a fake driver library."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optc.backends.cuda.build import SOURCE_MEMBER
from optc.backends.cuda.grid import launches
from optc.backends.cuda.source import device_code
from optc.backends.cuda.target import CudaTarget
from optc.backends.runtime.artifact import read_artifact

HERE = Path(__file__).parent
END = "}  // namespace optc\n"
"""The last line of the device header."""
_FOLDER = Path(tempfile.mkdtemp(prefix="optc-emulation-"))
_COMPILE = ("g++", "-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-fPIC", "-shared", "-ffp-contract=off")


@contextmanager
def emulated(artifact: Path, seed: int = 0) -> Iterator[None]:
    """While it lasts, `artifact` loads and runs as if there were a GPU."""
    source = bytes(read_artifact(artifact).extras[SOURCE_MEMBER]).decode()
    settings = {
        "OPTC_CUDA_DRIVER": str(fake_driver()),
        "OPTC_EMULATED_KERNELS": str(kernels_for_cpu(source)),
        "OPTC_EMULATOR_SEED": str(seed),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@functools.cache
def fake_driver() -> Path:
    """The driver library."""
    out = _FOLDER / "libcuda_fake.so"
    subprocess.run([*_COMPILE, str(HERE / "fake_driver.cc"), "-ldl", "-o", str(out)], check=True)
    return out


def kernels_for_cpu(source: str) -> Path:
    """A library with `NAME_launch(arguments, dims, shared bytes)` for every kernel of a CUDA C source."""
    text = for_cpu(source)
    out = _FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.so"
    if not out.exists():
        code = out.with_suffix(".cc")
        code.write_text(text)
        subprocess.run([*_COMPILE, f"-I{HERE}", str(code), "-o", str(out)], check=True)
    return out


def load(kernels: Mapping[str, Any], target: CudaTarget) -> Callable[..., None]:
    """All kernels, of known shapes, in one library: `run(name, *arrays)` runs one on numpy arrays, emulated."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed: kernels for GPUs cannot be emulated")
    library = ctypes.CDLL(str(kernels_for_cpu(device_code(kernels, target).source)))

    def run(name: str, *arrays: np.ndarray) -> None:
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
        arguments = (ctypes.c_void_p * len(pointers))(*map(ctypes.addressof, pointers))
        for number, part in enumerate(launches(name, kernels[name])):
            dims = (ctypes.c_uint * 6)(*map(int, (*part.grid, *part.block)))
            getattr(library, f"{name}_{number}_launch")(arguments, dims, part.shared_bytes)

    return run


_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\);')


def for_cpu(source: str) -> str:
    """CUDA C as C++ over emulator.h, with a launch function for each kernel."""
    header, _, kernels = source.partition(END)
    begin = kernels.index('extern "C" __global__')
    lines = ['#include "emulator.h"']
    lines += [f"#define u{name} unsigned {name}" for name in ("int", "char", "short")]
    shared = r"extern __shared__ (?:__align__\(\d+\)|alignas\(\d+\)) (\w+(?: \w+)?) (\w+)\[\];"
    body = re.sub(shared, r"\1* \2 = (\1*)emu::dynamic_shared;", kernels[begin:])
    lines += [header.replace("#pragma once", ""), END, body]
    for name, parameters in _KERNEL.findall(kernels):
        types = [re.sub(r"\s*\w+$", "", p.strip()) for p in parameters.split(",") if p.strip()]
        call = ", ".join(f"*({t}*)a[{n}]" for n, t in enumerate(types))
        lines += [
            f"static void {name}_entry(void** a) {{ {name}({call}); }}",
            f'extern "C" void {name}_launch(void** a, const unsigned* d, unsigned shared) {{',
            "  (void)shared;",
            '  if (const char* seed = getenv("OPTC_EMULATOR_SEED")) emu::random_numbers.seed(atoi(seed));',
            f'  emu::kernel_name = "{name}";',
            f"  emu::launch({name}_entry, a, {{d[0], d[1], d[2]}}, {{d[3], d[4], d[5]}});",
            "}",
        ]
    return "\n".join(lines)
