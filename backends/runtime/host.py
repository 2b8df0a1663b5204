"""What this host is: its triple and CPU features by LLVM's names. Needs no compiled code and no TVM."""

from __future__ import annotations

import functools
import platform
import sys
from pathlib import Path

_ARCHITECTURES = {
    "amd64": "x86_64",
    "x86-64": "x86_64",
    "arm64": "aarch64",
    "armv7l": "arm",
    "armv7": "arm",
    "armv8l": "arm",
}

# The kernel's name (flags or Features in /proc/cpuinfo, which lists only what the kernel supports too) -> LLVM's names.
_LLVM_NAMES = {
    "pni": "sse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "pclmulqdq": "pclmul",
    "abm": "lzcnt",
    "bmi1": "bmi",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_vnni": "avx512vnni",
    "avx512_bitalg": "avx512bitalg",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "avx_vnni": "avxvnni",
    "avx_ifma": "avxifma",
    "avx_vnni_int8": "avxvnniint8",
    "avx_vnni_int16": "avxvnniint16",
    "avx_ne_convert": "avxneconvert",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "amx_fp16": "amx-fp16",
    "fp": "fp-armv8",
    "asimd": "neon",
    "asimdhp": "fullfp16 fp16",
    "fphp": "fullfp16 fp16",
    "asimddp": "dotprod",
    "asimdfhm": "fp16fml",
    "asimdrdm": "rdm",
    "atomics": "lse",
    "crc32": "crc",
    "vfpv3": "vfp3",
    "vfpv4": "vfp4",
}


def architecture(triple: str) -> str:
    """The first part of a target triple in its usual spelling, e.g. "x86_64" for "amd64-pc-linux-gnu"."""
    name = triple.split("-", 1)[0].lower()
    return "arm" if name.startswith("armv7") else _ARCHITECTURES.get(name, name)


def host_triple() -> str:
    """This host's triple, e.g. "x86_64-linux-gnu"."""
    machine = architecture(platform.machine())
    if sys.platform == "darwin":
        return f"{machine}-apple-darwin"
    return f"{machine}-linux-gnueabihf" if machine == "arm" else f"{machine}-linux-gnu"


@functools.cache
def host_features() -> frozenset[str]:
    """The CPU features that code may use here; empty where /proc/cpuinfo does not exist."""
    try:
        return features_of(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return frozenset()


def features_of(cpuinfo: str) -> frozenset[str]:
    """The features that the text of /proc/cpuinfo shows for its first processor, by LLVM's names."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(name for flag in value.split() for name in _LLVM_NAMES.get(flag, flag).split())
    return frozenset()


def runs_here(triple: str) -> bool:
    """True if code for `triple` can run in this process."""
    mine = host_triple()
    return architecture(triple) == architecture(mine) and ("linux" in triple) == ("linux" in mine)
