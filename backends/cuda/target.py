"""NVIDIA GPUs as targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...compiler.errors import TargetError
from ..target import Target

if TYPE_CHECKING:
    from ...compiler.ir import Graph
    from ..build import Compiled
    from ..fallback import Fallback
    from ..planning import Planner
    from ..steps import Lowered

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100")
"""Turing to Blackwell. Code for one runs on later ones of its major version, its PTX on all later ones."""
DEFAULT = ("sm_80", "sm_90")
FEATURES = ("tf32",)
"""What a user may ask for. tf32: products of floats rounded to eleven bits, on tensor cores; without it float32
products are exact."""


@dataclass(frozen=True)
class CudaTarget(Target):
    """GPUs of one or more architectures. One thread computes one element at a time, so `lanes` is 1; the host program
    around the kernels is x86-64 code."""

    architectures: tuple[str, ...] = field(default=DEFAULT)
    asked: tuple[str, ...] = ()
    """Features of the GPU that a user asked for; `features` are those that the host's processor needs."""

    @staticmethod
    def of(spec: str) -> CudaTarget:
        """From "cuda", "cuda:sm_80,sm_90" or "cuda:sm_80,+tf32". Raises TargetError for an architecture or a feature
        that is not known, and for one that an architecture lacks."""
        _, _, listed = spec.partition(":")
        parts = [part.strip() for part in listed.split(",")] if listed else []
        features = tuple(part[1:] for part in parts if part.startswith("+"))
        wanted = tuple(part for part in parts if not part.startswith("+")) or DEFAULT
        for name in wanted:
            if name not in ARCHITECTURES:
                raise TargetError("unknown GPU architecture", expected=" or ".join(ARCHITECTURES), found=name)
        for feature in features:
            if feature not in FEATURES:
                raise TargetError("unknown feature of GPUs", expected=" or ".join(FEATURES), found=feature)
            if "sm_75" in wanted:
                raise TargetError(f"sm_75 has no {feature}", hint="Leave one of them out.")
        ordered = tuple(a for a in ARCHITECTURES if a in wanted)
        return CudaTarget(spec, "x86-64", (), 1, 64, num_cores=1 << 12, architectures=ordered, asked=features)

    device: ClassVar[str | None] = "optc_cuda_device"

    def lower(self, graph: Graph, fallback: Fallback | None = None, planner: Planner | None = None) -> Lowered:
        from .lower import lower

        return lower(graph, self, fallback, planner)

    def compile(self, kernels: Mapping[str, Any], say: Callable[[str, float], None]) -> Compiled:
        from .build import compile_kernels

        return compile_kernels(kernels, self, say)

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
