"""Finds a C compiler and links a compiled model's shared library.

A compiler is looked for in this order: OPTC_CC, CC (for this host only), the system's (`cc`, `gcc`, `clang`, or the
cross gcc of the triple), and ziglang from PyPI, which compiles for every target.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...compiler.errors import OptcError, TargetError
from .host import architecture, host_triple, runs_here

RUNTIME_FOLDER = Path(__file__).parent / "c"
RUNTIME_SOURCES = ("runtime.c", "planner.c", "pool.c", "unpack.c", "features.c", "arrays.c")
_BASE_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Werror=implicit")
# Only the public functions leave the library: kernels and TVM's slots of two loaded models can then never meet.
_EXPORTS = "{ global: optc_*; local: *; };\n"

# ABI suffixes as Debian and zig spell them.
_CROSS_PREFIX = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu", "arm": "arm-linux-gnueabihf"}


@dataclass(frozen=True)
class Compiler:
    """A C compiler for one target. `command` starts every call; `kind` is "cc" or "zig"."""

    command: tuple[str, ...]
    kind: str

    def run(self, *arguments: str | Path) -> None:
        """Raises OptcError with the compiler's own first error lines if it fails."""
        command = [*self.command, *map(str, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise TargetError(f"cannot start the C compiler: {error}", hint=install_hint()) from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
            detail = "\n".join(lines[:8] or done.stderr.splitlines()[-8:])
            raise OptcError(f"{self.command[0]} failed with status {done.returncode}:\n{detail}")

    @functools.cached_property
    def version(self) -> str:
        """One line that names the compiler, part of cache keys."""
        done = subprocess.run([*self.command, "--version"], capture_output=True, text=True, check=False)
        return (done.stdout.splitlines() or [""])[0]


def cross_prefix(triple: str) -> str:
    """How Debian calls the tools and the folder of libraries of a target, e.g. "aarch64-linux-gnu"."""
    return _CROSS_PREFIX.get(architecture(triple), triple)


def install_hint(triple: str | None = None) -> str:
    """How to get a compiler for `triple` (default: this host)."""
    native = triple is None or runs_here(triple)
    package = "gcc" if native else f"gcc-{cross_prefix(triple or '').replace('_', '-')}"
    return f"Install one with `apt-get install {package}` or `pip install optc[toolchain]`, or set OPTC_CC"


def find_compiler(triple: str | None = None) -> Compiler:
    """A compiler for `triple` (default: this host). Raises TargetError that says how to install one."""
    triple = triple or host_triple()
    native = runs_here(triple)
    named = os.environ.get("OPTC_CC") or (os.environ.get("CC") if native else None)
    if named:
        command = shlex.split(named)
        if not shutil.which(command[0]):
            raise TargetError(f"the C compiler {command[0]!r} named by OPTC_CC or CC does not exist")
        return Compiler(tuple(command), "cc")
    prefix = _CROSS_PREFIX.get(architecture(triple))
    for name in ("cc", "gcc", "clang") if native else (f"{prefix}-gcc",) if prefix else ():
        if path := shutil.which(name):
            return Compiler((path,), "cc")
    if prefix and importlib.util.find_spec("ziglang"):
        return Compiler((sys.executable, "-m", "ziglang", "cc", "-target", prefix), "zig")
    raise TargetError(f"no C compiler for {triple} was found", hint=install_hint(triple))


def cache_folder() -> Path:
    """Where compiled runtime objects are kept: OPTC_CACHE_DIR, else optc's folder in the user's cache."""
    if named := os.environ.get("OPTC_CACHE_DIR"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optc"


def _compile(compiler: Compiler, source: Path, flags: Sequence[str], out: Path) -> None:
    compiler.run(*_BASE_FLAGS, *flags, f"-I{RUNTIME_FOLDER}", f"-I{source.parent}", "-c", source, "-o", out)


def _cached_object(compiler: Compiler, source: Path, flags: Sequence[str], scratch: Path) -> Path:
    """The object file of a source that optc ships, from the cache if it is there.

    Its name holds a hash of all that decides its content: compiler, flags, the source and every header beside it.
    """
    digest = hashlib.sha256(repr((compiler.command, compiler.version, _BASE_FLAGS, tuple(flags))).encode())
    headers = {path for folder in (RUNTIME_FOLDER, source.parent) for path in folder.glob("*.h")}
    for path in (source, *sorted(headers)):
        digest.update(path.read_bytes())
    cached = cache_folder() / "runtime" / f"{source.stem}-{digest.hexdigest()[:24]}.o"
    if cached.is_file():
        return cached
    fresh = scratch / f"cached_{source.stem}.o"
    _compile(compiler, source, flags, fresh)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(f".{os.getpid()}.tmp")
        shutil.copyfile(fresh, partial)
        os.replace(partial, cached)
    except OSError:
        return fresh  # a cache that cannot be written costs time, not the result
    return cached


def link(
    program_source: str,
    objects: Sequence[bytes],
    c_sources: Sequence[Path],
    out: Path,
    *,
    triple: str | None = None,
    cflags: Sequence[str] = (),
) -> None:
    """Compiles the generated C program and `c_sources`, and links them with kernel objects and the runtime into `out`.

    `objects` are relocatable ELF files; `triple` is the target (default: this host); `cflags` are added for the program
    and `c_sources`, not for the runtime, which must start on any CPU of the architecture to say what the model needs.
    The library needs libc, libm and libpthread only. Raises TargetError without a compiler, OptcError if it fails.
    """
    compiler = find_compiler(triple)
    with tempfile.TemporaryDirectory(prefix="optc-") as name:
        folder = Path(name)
        program = folder / "program.c"
        program.write_text(program_source, encoding="utf-8")
        parts = [folder / "program.o"]
        _compile(compiler, program, cflags, parts[0])
        for index, code in enumerate(objects):
            parts.append(folder / f"kernels{index}.o")
            parts[-1].write_bytes(code)
        parts += [_cached_object(compiler, Path(source), cflags, folder) for source in c_sources]
        parts += [_cached_object(compiler, RUNTIME_FOLDER / name, (), folder) for name in RUNTIME_SOURCES]
        exports = folder / "exports.map"
        exports.write_text(_EXPORTS, encoding="utf-8")
        flags = ["-shared", "-Wl,-Bsymbolic", "-Wl,-s", "-Wl,-z,defs", f"-Wl,--version-script={exports}"]
        if compiler.kind == "cc":
            flags += ["-static-libgcc", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]
        compiler.run(*flags, *parts, "-lm", "-lpthread", "-o", out)
