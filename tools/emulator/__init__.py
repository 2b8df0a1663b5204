"""Runs artifacts of other processors under QEMU's user mode: `Emulator("arm").load("m.optc").run({"x": x})`.

One emulated process (server.c, cross-compiled at first use and kept) serves many models. Results are those of the
processor; times say nothing about it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ...backends.runtime.artifact import read_artifact
from ...backends.runtime.host import architecture, runs_here
from ...backends.runtime.model import Port
from ...backends.runtime.toolchain import RUNTIME_FOLDER, Compiler, cache_folder, cross_prefix, find_compiler
from ...backends.runtime.types import NUMBERS, dtype_of, numpy_dtype
from ...backends.target import Target
from ...compiler.errors import OptcError, ShapeError, TargetError

SOURCES = (Path(__file__).parent / "server.c", RUNTIME_FOLDER / "loader.c", RUNTIME_FOLDER / "inflate.c")
QEMU = {"aarch64": "qemu-aarch64", "arm": "qemu-arm"}


class EmulatedError(OptcError):
    """The emulated code failed; `status` is the runtime's (see optc.h), None where the process died."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def missing(target: Target) -> str | None:
    """What must be installed to run code of a target here; None if nothing is."""
    try:
        find_compiler(target.triple)
        qemu(target.triple)
    except TargetError as error:
        return str(error)
    return None


def qemu(triple: str, *, plugins: bool = False) -> list[str]:
    """The command that runs a program of `triple`; empty where the host does. Raises TargetError if there is none.

    `plugins`: one that loads plugins, which a static program cannot.
    """
    if runs_here(triple) and not plugins:
        return []
    name = QEMU.get(architecture(triple), "")
    path = (not plugins and shutil.which(f"{name}-static")) or (name and shutil.which(name))
    if not path:
        package = "qemu-user" if plugins else "qemu-user-static"
        raise TargetError(f"no emulator for {triple} was found", hint=f"Install one: apt-get install {package}")
    return [path, "-L", f"/usr/{cross_prefix(triple)}"]


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<i", len(data)) + data


def build_server(triple: str) -> Path:
    """The server for a target."""
    return _built("server", find_compiler(triple), SOURCES, ("-std=c11", "-O2", f"-I{RUNTIME_FOLDER}"))


def counting_plugin() -> Path:
    """QEMU's plugin that counts instructions; its count is printed when the process ends (see `count_of`)."""
    return _built("count", find_compiler(), (Path(__file__).parent / "count.c",), ("-O2", "-shared", "-fPIC"))


def count_of(said: str) -> int:
    """The instructions that the plugin counted, from what the process printed. Raises EmulatedError if it did not."""
    lines = [line for line in said.splitlines() if line.startswith("instructions ")]
    if not lines:
        raise EmulatedError(f"no instructions were counted: {said[-200:]}")
    return int(lines[-1].split()[1])


def _built(name: str, compiler: Compiler, sources: Sequence[Path], flags: Sequence[str]) -> Path:
    """A program compiled once: its name holds a hash of its sources, headers, flags and the compiler."""
    digest = hashlib.sha256(repr((compiler.command, compiler.version, tuple(flags))).encode())
    for path in (*sources, *sorted(RUNTIME_FOLDER.glob("*.h"))):
        digest.update(path.read_bytes())
    program = cache_folder() / "runtime" / f"{name}-{digest.hexdigest()[:24]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            fresh = Path(folder, name)
            compiler.run(*flags, *sources, "-o", fresh, "-ldl", "-lpthread")
            os.replace(fresh, program)
    return program


class Emulator:
    """A process of another processor that runs artifacts. Close it, or use it in a `with` block.

    `cpu` is QEMU's name of the processor to emulate ("max": every feature it knows), `plugin` one of its plugins.
    Raises TargetError where the compiler or QEMU is missing.
    """

    def __init__(self, target: Target | str = "arm", cpu: str = "max", plugin: Path | None = None) -> None:
        self.target = Target.parse(target) if isinstance(target, str) else target
        emulator = qemu(self.target.triple, plugins=plugin is not None)
        options = ["-cpu", cpu, *(["-plugin", str(plugin)] if plugin else [])] if emulator else []
        command = [*emulator, *options, str(build_server(self.target.triple))]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)

    def load(self, path: str | os.PathLike[str]) -> EmulatedModel:
        """Opens an artifact. Raises ArtifactError if it is damaged, EmulatedError if it does not fit the processor."""
        artifact = read_artifact(path, verify=False, host=False)
        self._ask(b"L" + _text(os.fspath(Path(path).resolve())))
        return EmulatedModel(self, self._int(), artifact.manifest)

    def load_library(self, path: Path) -> int:
        """Loads a shared library of kernels; the number to call them by."""
        self._ask(b"D" + _text(str(path.resolve())))
        return self._int()

    def call(self, library: int, name: str, arrays: Sequence[np.ndarray], dims: Sequence[int]) -> None:
        """Calls a kernel on buffers and dims; the arrays are overwritten with what it leaves in them."""
        request = [b"C", struct.pack("<i", library), _text(name), struct.pack("<i", len(arrays))]
        for array in arrays:
            request += [struct.pack("<q", array.nbytes), array.tobytes()]
        request += [struct.pack(f"<i{len(dims)}q", len(dims), *dims)]
        self._ask(b"".join(request))
        for array, _ in zip(arrays, range(self._int()), strict=True):
            data = self._read(struct.unpack("<q", self._read(8))[0])
            array[...] = np.frombuffer(data, array.dtype).reshape(array.shape)

    def run(self, number: int, inputs: Sequence[tuple[int, np.ndarray]]) -> list[np.ndarray]:
        """Runs artifact `number` on (ONNX dtype, array) pairs in the model's order."""
        request = [b"R", struct.pack("<ii", number, len(inputs))]
        for dtype, array in inputs:
            request += [struct.pack(f"<ii{array.ndim}q", dtype, array.ndim, *array.shape), array.tobytes()]
        self._ask(b"".join(request))
        results = []
        for _ in range(self._int()):
            dtype, rank = struct.unpack("<ii", self._read(8))
            shape = struct.unpack(f"<{rank}q", self._read(8 * rank))
            kind = dtype_of(dtype)
            data = self._read(kind.itemsize * int(np.prod(shape, dtype=np.int64)))
            results.append(np.frombuffer(data, kind).reshape(shape))
        return results

    def unload(self, number: int) -> None:
        self._ask(b"U" + struct.pack("<i", number))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> str:
        """Lets the process end by itself; what it printed on stderr."""
        stdin: Any = self._process.stdin
        stdin.close()
        self._process.wait()
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def close(self) -> None:
        """Ends the process."""
        if self.alive:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None and not stream.closed:
                stream.close()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: bytes) -> None:
        """Sends a request and reads its status. Raises EmulatedError with the message if it is not 0."""
        stdin: Any = self._process.stdin
        try:
            stdin.write(request)
            stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        if status := self._int():
            raise EmulatedError(self._read(self._int()).decode(errors="replace"), status)

    def _int(self) -> int:
        return int(struct.unpack("<i", self._read(4))[0])

    def _read(self, size: int) -> bytes:
        stdout: Any = self._process.stdout
        data = bytes(stdout.read(size))
        if len(data) != size:
            raise self._death()
        return data

    def _death(self) -> EmulatedError:
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return EmulatedError(
            f"the emulated process ended with status {self._process.returncode}: {' '.join(said[-2:])}"
        )


class EmulatedModel:
    """An artifact open in an emulator; runs as a Model does. `inputs` and `outputs` are Ports."""

    def __init__(self, emulator: Emulator, number: int, manifest: Mapping[str, Any]) -> None:
        self.manifest = manifest
        self.inputs, self.outputs = (
            [Port(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in manifest[side]]
            for side in ("inputs", "outputs")
        )
        self._emulator, self._number = emulator, number

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Runs on {input name: array}; returns {output name: array}. Raises ShapeError, EmulatedError."""
        arrays = []
        for port in self.inputs:
            if port.name not in inputs:
                raise ShapeError("this input is missing", node=port.name, expected=str(port))
            array = np.asarray(inputs[port.name])
            if array.dtype != numpy_dtype(port.dtype):
                raise ShapeError("the input does not fit", node=port.name, expected=str(port), found=str(array.dtype))
            arrays.append((NUMBERS[port.dtype], array))
        results = self._emulator.run(self._number, arrays)
        return {port.name: result for port, result in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        self._emulator.unload(self._number)
