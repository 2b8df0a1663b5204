"""The processors that optc compiles for: what code generation, kernel plans and the loader must know of them."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..compiler.errors import TargetError
from .runtime.host import architecture, host_features

if TYPE_CHECKING:
    from ..compiler.ir import Graph
    from .build import Compiled
    from .fallback import Fallback
    from .planning import Planner
    from .steps import Lowered

_V2 = ("cx16", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_ALDERLAKE = (*_V3, "avxvnni")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_CASCADELAKE = (*_V4, "avx512vnni")
_COOPERLAKE = (*_CASCADELAKE, "avx512bf16")
_SAPPHIRE_RAPIDS = (
    *_V4, "amx-bf16", "amx-int8", "amx-tile", "avx512bf16", "avx512fp16", "avx512vbmi", "avx512vnni", "avxvnni",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One processor model.

    `lanes` is the number of float32 in a vector register, `registers` how many of those there are, `l1`, `l2` the
    bytes of a core's data caches, `num_cores` for how many threads kernels are laid out (fewer may run them). `cflags`
    make the C compiler generate for this processor, `mattr` changes the features that `mcpu` implies to LLVM.
    `multiplies_by_lane`: an operand of a multiply-add may be one lane of a vector.
    """

    name: str
    mcpu: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    l1: int = 32 << 10
    l2: int = 512 << 10
    num_cores: int = 4
    triple: str = "x86_64-unknown-linux-gnu"
    cflags: tuple[str, ...] = ()
    mattr: tuple[str, ...] = ()
    multiplies_by_lane: bool = False

    device: ClassVar[str | None] = None
    """The C name of the optc_device that runs the kernels; None: the CPU that runs the program."""

    @staticmethod
    def parse(spec: str) -> Target:
        """The target a user names: "cpu" (this host), "cpu:LEVEL", "arm" or "arm:CORE,+FEATURE" (see arm.py).

        Raises TargetError for an unknown name and UnsupportedError for a target that this version does not have.
        """
        family, _, level = spec.partition(":")
        if family == "arm":
            from .arm import parse_arm  # cores are targets themselves

            return parse_arm(spec)
        if family == "cuda":
            from .cuda.target import CudaTarget

            return CudaTarget.of(spec)
        if spec == "cpu":
            return Target.host()
        if family == "cpu" and level in LEVELS:
            return LEVELS[level]
        raise TargetError("unknown target", expected=" or ".join(names()), found=spec)

    @staticmethod
    def host() -> Target:
        """This machine: the highest level whose features it has, with its own caches and cores.

        Raises TargetError where the machine is neither 64-bit ARM nor x86-64-v2 or newer.
        """
        return _host()

    @property
    def multiplies_bytes(self) -> bool:
        """Whether one instruction multiplies bytes and sums them in 32 bits, which is where integers beat floats."""
        return any(map(self.has, ("avx512vnni", "avxvnni", "dotprod", "i8mm")))

    def has(self, feature: str) -> bool:
        """Whether the processor has a feature, by LLVM's name, e.g. "avx512vnni"."""
        return feature in self.features

    def tvm(self) -> Any:
        """The same as a TVM target."""
        import tvm

        facts = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.mcpu, "num-cores": self.num_cores}
        if self.mattr:
            facts["mattr"] = list(self.mattr)
        if self.triple.endswith("hf"):
            facts["mfloat-abi"] = "hard"
        return tvm.target.Target(facts)

    def lower(self, graph: Graph, fallback: Fallback | None = None, planner: Planner | None = None) -> Lowered:
        """Steps for a graph from the target's pipeline. Raises UnsupportedError naming each node it cannot take."""
        from .cpu import lower

        return lower(graph, self, fallback, planner)

    def compile(self, kernels: Mapping[str, Any], say: Callable[[str, float], None]) -> Compiled:
        """What kernels (TIR by symbol) become; `say` hears of the progress. Raises TargetError if a tool is missing."""
        from .build import compile_objects

        return compile_objects(kernels, self, say)


LEVELS = {
    level: Target(f"cpu:{level}", level, features, lanes, registers, l1, l2, cflags=(f"-march={level}",))
    for level, features, lanes, registers, l1, l2 in (
        ("x86-64-v2", _V2, 4, 16, 32 << 10, 256 << 10),
        ("x86-64-v3", _V3, 8, 16, 32 << 10, 512 << 10),
        ("alderlake", _ALDERLAKE, 8, 16, 32 << 10, 1 << 20),
        ("x86-64-v4", _V4, 16, 32, 32 << 10, 1 << 20),
        ("cascadelake", _CASCADELAKE, 16, 32, 32 << 10, 1 << 20),
        ("cooperlake", _COOPERLAKE, 16, 32, 32 << 10, 1 << 20),
        ("sapphirerapids", _SAPPHIRE_RAPIDS, 16, 32, 48 << 10, 2 << 20),
    )
}
"""The x86-64 levels: a host is the last of them whose features it has. (alderlake lacks what x86-64-v4 needs.)"""


def names() -> list[str]:
    """Every name that Target.parse takes."""
    from .arm import CORES

    return ["cpu", *(target.name for target in (*LEVELS.values(), *CORES.values()))]


@functools.cache
def _host() -> Target:
    machine, present = architecture(platform.machine()), host_features()
    if machine == "aarch64":
        from .arm import host_core

        best = host_core(present)
    elif machine == "x86_64":
        levels = [level for level in LEVELS.values() if present.issuperset(level.features)]
        if not levels:
            raise TargetError("this processor is too old", expected="at least x86-64-v2")
        best = levels[-1]
    else:
        raise TargetError("this host's processor is not supported", expected="x86_64 or aarch64", found=machine)
    return replace(
        best,
        name="cpu",
        l1=_cache_bytes("SC_LEVEL1_DCACHE_SIZE", best.l1),
        l2=_cache_bytes("SC_LEVEL2_CACHE_SIZE", best.l2),
        num_cores=len(os.sched_getaffinity(0)),
    )


def _cache_bytes(name: str, default: int) -> int:
    """A cache size as the system tells it; some virtual machines tell nothing."""
    try:
        return os.sysconf(name) or default
    except (ValueError, OSError):
        return default
