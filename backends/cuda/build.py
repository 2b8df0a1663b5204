"""What links into an artifact for GPUs: the stubs that launch kernels, and the device's code as data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...compiler.errors import OptcError
from ..build import Compiled
from ..runtime.toolchain import RUNTIME_FOLDER, find_compiler
from .source import device_code
from .target import CudaTarget
from .toolchain import Usage, assemble

SOURCE_MEMBER, USAGE_MEMBER = "device.cu", "device.json"
"""Members of the artifact: the kernels as CUDA C, and what the assembler reported of each."""

_INCLUDE = """\
    .section .rodata
    .balign 64
    .globl optc_cuda_image
    .hidden optc_cuda_image
optc_cuda_image:
    .incbin "{path}"
    .section .note.GNU-stack,"",@progbits
"""


def compile_kernels(kernels: Mapping[str, Any], target: CudaTarget, say: Callable[[str, float], None]) -> Compiled:
    """Raises TargetError if there is no CUDA compiler, OptcError if it fails or a hot kernel spills registers."""
    say("printing the kernels", 0.1)
    code = device_code(kernels, target)
    say("compiling the kernels with nvcc", 0.3)
    image, usage = assemble(code.source, target.architectures)
    check_spills(usage, code.hot)
    extras = {
        SOURCE_MEMBER: code.source.encode(),
        USAGE_MEMBER: json.dumps([asdict(u) for u in usage], indent=1).encode(),
    }
    return Compiled([_data_object(image, target.triple)], code.stubs, [RUNTIME_FOLDER / "cuda.c"], extras)


def check_spills(usage: Iterable[Usage], hot: Collection[str]) -> None:
    """Raises OptcError that names each hot function whose registers went to memory, and where."""
    spilled = [u for u in usage if u.spilled and u.function in hot]
    if spilled:
        listed = ", ".join(f"{u.function} on {u.architecture} ({u.spilled} bytes)" for u in spilled)
        raise OptcError(f"hot kernels spill registers: {listed}", hint="Report the model: a smaller tile is needed.")


def _data_object(image: bytes, triple: str) -> bytes:
    """An object file that holds the image under the name the runtime knows."""
    with tempfile.TemporaryDirectory(prefix="optc-") as name:
        data, source, out = Path(name, "image"), Path(name, "image.s"), Path(name, "image.o")
        data.write_bytes(image)
        source.write_text(_INCLUDE.format(path=data), encoding="utf-8")
        find_compiler(triple).run("-c", source, "-o", out)
        return out.read_bytes()
