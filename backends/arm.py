"""ARM processors: cores by LLVM's names, and the features that a target may add to or take from one.

Code is generated for NEON only, vectors of 128 bits: the cores with SVE run NEON on the same units, and what a kernel
computes then does not depend on the width of a vector that is known only at run time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..compiler.errors import TargetError
from .target import Target

_V8 = ("fp-armv8", "neon")
_V8_CRC = (*_V8, "crc")
_V82 = (*_V8_CRC, "fullfp16", "lse", "rdm")
_A76 = (*_V82, "dotprod")
_V1 = (*_A76, "bf16", "fp16fml", "i8mm")
OPTIONAL = ("dotprod", "fullfp16", "i8mm")
"""What code generation makes use of where a target has it."""


def _aarch64(core: str, features: tuple[str, ...], l1: int, l2: int) -> Target:
    """The C parts of a model are compiled for every ARMv8: only kernels use what a core has beyond that."""
    name = "arm" if core == "generic" else f"arm:{core}"
    return Target(
        name, core, features, lanes=4, registers=32, l1=l1 << 10, l2=l2 << 10,
        triple="aarch64-unknown-linux-gnu", cflags=("-march=armv8-a",), mattr=("-sve",),
        multiplies_by_lane=True,
    )  # fmt: skip


CORES = {
    **{
        core: _aarch64(core, features, l1, l2)
        for core, features, l1, l2 in (
            ("generic", _V8, 32, 256),
            ("cortex-a53", _V8_CRC, 32, 256),
            ("cortex-a72", _V8_CRC, 32, 512),
            ("cortex-a76", _A76, 64, 256),
            ("neoverse-n1", _A76, 64, 1024),
            ("neoverse-v1", _V1, 64, 1024),
            ("neoverse-v2", _V1, 64, 1024),
        )
    },
    "armv7": Target(
        "arm:armv7", "cortex-a9", ("neon", "vfp3"), lanes=4, registers=16, l1=32 << 10, l2=256 << 10,
        triple="armv7l-unknown-linux-gnueabihf", cflags=("-march=armv7-a", "-mfpu=neon", "-mfloat-abi=hard"),
        mattr=("+neon",), multiplies_by_lane=True,
    ),
}  # fmt: skip
"""Cores by name: "generic" is every 64-bit ARM; caches in KiB, the least that a core may have."""


def parse_arm(spec: str) -> Target:
    """The target of "arm", "arm:CORE", "arm:CORE,+FEATURE,-FEATURE" or "arm:+FEATURE".

    Raises TargetError for a core or feature that is not known.
    """
    core, *changes = [part for part in spec.partition(":")[2].split(",") if part] or ["generic"]
    if core[0] in "+-":
        core, changes = "generic", [core, *changes]
    if core not in CORES:
        raise TargetError("unknown ARM core", expected=" or ".join(CORES), found=core)
    target = CORES[core]
    features = dict.fromkeys(target.features)
    for change in changes:
        feature = change[1:]
        if change[0] not in "+-" or feature not in OPTIONAL or core == "armv7":
            expected = "none for armv7" if core == "armv7" else " or ".join(f"+{f}" for f in OPTIONAL)
            raise TargetError("unknown ARM feature", expected=expected, found=change)
        if change[0] == "+":
            features[feature] = None
        else:
            features.pop(feature, None)
    if not changes:
        return target
    return replace(target, name=spec, features=tuple(features), mattr=(*target.mattr, *changes))


def host_core(present: Collection[str]) -> Target:
    """The 64-bit ARM processor that has the features `present`."""
    extra = tuple(f for f in OPTIONAL if f in present)
    target = CORES["generic"]
    return replace(target, features=(*target.features, *extra), mattr=(*target.mattr, *(f"+{f}" for f in extra)))
