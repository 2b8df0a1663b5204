"""NVIDIA GPUs as targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...compiler.errors import TargetError
from ..target import Target

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100")
"""Turing to Blackwell. Code for one runs on later ones of its major version, its PTX on all later ones."""
DEFAULT = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")


@dataclass(frozen=True)
class CudaTarget(Target):
    """GPUs of one or more architectures. One thread computes one element at a time, so `lanes` is 1; the host program
    around the kernels is x86-64 code."""

    architectures: tuple[str, ...] = field(default=DEFAULT)

    @staticmethod
    def of(spec: str) -> CudaTarget:
        """From "cuda" or "cuda:sm_80,sm_90". Raises TargetError for an architecture that is not known."""
        _, _, listed = spec.partition(":")
        wanted = tuple(part.strip() for part in listed.split(",")) if listed else DEFAULT
        for name in wanted:
            if name not in ARCHITECTURES:
                raise TargetError("unknown GPU architecture", expected=" or ".join(ARCHITECTURES), found=name)
        ordered = tuple(a for a in ARCHITECTURES if a in wanted)
        return CudaTarget(spec, "x86-64", (), lanes=1, registers=64, num_cores=1 << 12, architectures=ordered)

    def tvm(self) -> Any:
        """TVM's target for the oldest of the architectures: its code runs on all."""
        import tvm

        return tvm.target.Target(
            {
                "kind": "cuda",
                "arch": self.architectures[0],
                "max_shared_memory_per_block": 49152,
                "max_threads_per_block": 1024,
                "thread_warp_size": 32,
            }
        )
