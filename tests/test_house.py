"""The rooms import each other downwards only, and importing optc is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import optc
import pytest

ROOT = Path(optc.__file__).parent
MAY_IMPORT = {
    "compiler": {"compiler"},
    "passes": {"passes", "compiler"},
    "backends": {"backends", "passes", "compiler"},
    "models": {"models", "compiler"},
    "tools": {"tools", "models", "backends", "passes", "compiler"},
}
LOOKS_UP = {"compiler/driver.py"}


def imported_rooms(path: Path) -> set[str]:
    """The rooms a module imports from, relatively or by the package's name."""
    parts = path.relative_to(ROOT).parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = [*parts[: len(parts) - node.level], *(node.module or "").split(".")]
            names = [target[0]] if target[0] else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = (node.module or "").split(".")[1:2] if (node.module or "").startswith("optc") else []
        elif isinstance(node, ast.Import):
            names = [a.name.split(".")[1] for a in node.names if a.name.startswith("optc.")]
        else:
            continue
        rooms.update(n for n in names if n in MAY_IMPORT)
    return rooms


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_down(room: str) -> None:
    offenders = {
        str(path.relative_to(ROOT)): rooms - MAY_IMPORT[room]
        for path in sorted((ROOT / room).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in LOOKS_UP and (rooms := imported_rooms(path)) - MAY_IMPORT[room]
    }
    assert offenders == {}


def test_importing_optc_loads_no_heavy_package() -> None:
    heavy = "{'tvm', 'onnx', 'onnxruntime', 'sympy', 'networkx', 'rich', 'typer', 'numpy'}"
    code = f"import sys, optc; sys.exit(', '.join(sorted({heavy} & set(sys.modules))) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_package_is_listed_for_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    packages = {
        ".".join(["optc", *path.parent.relative_to(ROOT).parts])
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert [p for p in sorted(packages) if f'"{p}"' not in text] == []
