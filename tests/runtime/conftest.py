"""Artifacts made of the small C programs in programs/, built once a session without the compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from optc.backends.runtime.artifact import write_artifact
from optc.backends.runtime.host import host_triple
from optc.backends.runtime.toolchain import link

PROGRAMS = Path(__file__).parent / "programs"
WEIGHTS = [("unused", np.arange(3, dtype=np.int8)), ("w", np.float32([10]))]

F32, I64, I32 = "float32", "int64", "int32"
# inputs, outputs and weights of each program
PORTS = {
    "add": ({"x": (F32, [1, 8]), "y": (F32, [1, 8])}, {"z": (F32, [1, 8])}, []),
    "chain": ({"x": (F32, ["N", "M"]), "y": (F32, ["N", "M"])}, {"z": (F32, ["N", "M"])}, WEIGHTS),
    "nonzero": ({"x": (F32, ["N"])}, {"indices": (I64, ["_count"]), "total": (I64, [])}, []),
    "hosted": ({"x": (F32, ["N"])}, {"y": (F32, ["N"]), "z": (I64, [1, "_count"])}, []),
    "parallel": ({"x": (F32, ["N"])}, {"y": (F32, ["N"]), "seen": (I32, []), "nested": (I32, [])}, []),
    "types": (
        {"a": ("float16", [2]), "b": ("bool", [0, 3]), "e": ("bfloat16", [])},
        {"c": ("float16", [2]), "d": ("bool", [0, 3]), "f": ("bfloat16", [])},
        [],
    ),
}


def manifest_of(name: str, features: Sequence[str], triple: str) -> dict[str, object]:
    """The least manifest that write_artifact takes, for one of the programs."""
    sides = [[{"name": n, "dtype": d, "shape": s} for n, (d, s) in side.items()] for side in PORTS[name][:2]]
    target = {"triple": triple, "features": list(features)}
    return {"target": target, "inputs": sides[0], "outputs": sides[1], "summary": f"the program {name}"}


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """code(name, *cflags) -> the shared library of a program."""
    folder, built = tmp_path_factory.mktemp("code"), {}

    def build(name: str, *cflags: str) -> Path:
        if (name, cflags) not in built:
            out = folder / f"{name}{len(built)}.so"
            link((PROGRAMS / f"{name}.c").read_text(), [], [], out, cflags=("-Wall", "-Wextra", "-Werror", *cflags))
            built[name, cflags] = out
        return built[name, cflags]

    return build


@pytest.fixture(scope="session")
def write(code: Callable[..., Path]) -> Callable[..., None]:
    """write(path, name) writes the artifact of a program; `features`, `triple` and `cflags` as given."""

    def build(
        path: Path,
        name: str,
        features: Sequence[str] = (),
        triple: str = host_triple(),
        cflags: Sequence[str] = (),
        extras: Mapping[str, bytes] | None = None,
    ) -> None:
        write_artifact(path, manifest_of(name, features, triple), code(name, *cflags), PORTS[name][2], extras)

    return build


@pytest.fixture(scope="session")
def artifact(write: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """artifact(name) -> an .optc file of a program. Shared between tests: not to be changed."""
    folder = tmp_path_factory.mktemp("artifacts")

    def build(name: str) -> Path:
        path = folder / f"{name}.optc"
        if not path.exists():
            write(path, name)
        return path

    return build
