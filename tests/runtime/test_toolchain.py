"""optc.backends.runtime.toolchain: finding compilers, linking, the cache of runtime objects."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from optc.backends.runtime.toolchain import find_compiler, install_hint, link
from optc.compiler.errors import OptcError, TargetError

ADD = (Path(__file__).parent / "programs" / "add.c").read_text()


def test_the_library_is_deterministic_and_needs_libc_only(tmp_path: Path) -> None:
    for name in ("a.so", "b.so"):
        link(ADD, [], [], tmp_path / name)
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()
    if objdump := shutil.which("objdump"):
        text = subprocess.run([objdump, "-p", tmp_path / "a.so"], capture_output=True, text=True, check=True).stdout
        needed = {line.split()[1].split(".")[0] for line in text.splitlines() if "NEEDED" in line}
        assert needed <= {"libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_only_the_public_functions_are_exported(tmp_path: Path) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    link(ADD, [], [], tmp_path / "a.so")
    text = subprocess.run([nm, "-D", "--defined-only", tmp_path / "a.so"], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in text.stdout.splitlines()]
    assert "optc_run" in names
    assert all(name.startswith("optc_") for name in names)


def test_extra_sources_are_linked(tmp_path: Path) -> None:
    extra = tmp_path / "extra.c"
    extra.write_text("float extra(void) { return 1; }\n")
    source = ADD.replace("static int32_t add(", "float extra(void);\nstatic int32_t add(").replace(
        "+ y[i]", "+ extra()"
    )
    link(source, [], [extra], tmp_path / "a.so")
    with pytest.raises(OptcError, match="extra"):
        link(source, [], [], tmp_path / "b.so")


def test_an_error_in_the_program_is_shown(tmp_path: Path) -> None:
    with pytest.raises(OptcError, match=r"program\.c.*error"):
        link(ADD + "nonsense", [], [], tmp_path / "a.so")
    assert not (tmp_path / "a.so").exists()


def test_the_cache_is_filled_and_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CACHE_DIR", str(tmp_path / "cache"))
    link(ADD, [], [], tmp_path / "a.so")
    cached = sorted((tmp_path / "cache").rglob("*.o"))
    assert " ".join(path.name.split("-")[0] for path in cached) == "arrays features planner pool runtime unpack"
    monkeypatch.setenv("OPTC_CACHE_DIR", "/proc/no/such/folder")
    link(ADD, [], [], tmp_path / "b.so")
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()


def test_no_compiler_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OPTC_CC", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"apt-get install gcc.*optc\[toolchain\].*OPTC_CC") as caught:
        find_compiler()
    assert caught.value.exit_code == 5


def test_a_named_compiler_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CC", "no-such-compiler -m64")
    with pytest.raises(TargetError, match="no-such-compiler"):
        find_compiler()


def test_a_cross_target_names_its_package() -> None:
    assert "gcc-aarch64-linux-gnu" in install_hint("aarch64-linux-gnu")
