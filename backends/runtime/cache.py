"""Finished artifacts by content: what was compiled once from the same model, options and code is not compiled again.

A file a key, written atomically, so two compilers at once at worst do the same work twice. Total size is bounded: the
least recently used files go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from .toolchain import cache_folder

DEFAULT_LIMIT = 4 << 30
"""Bytes of artifacts kept; OPTC_CACHE_BYTES overrides it, 0 keeps none."""


def artifact_path(key: str) -> Path:
    """Where the artifact of `key` lies, or would lie. The folder exists afterwards."""
    folder = cache_folder() / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{key}.optc"


def lookup(key: str) -> Path | None:
    """The artifact of `key` if it is cached; marks it as used now."""
    path = artifact_path(key)
    with contextlib.suppress(OSError):
        os.utime(path)
        return path
    return None


def limit() -> int:
    return int(os.environ.get("OPTC_CACHE_BYTES", DEFAULT_LIMIT))


def evict(keep: Path) -> None:
    """Removes the least recently used artifacts until the rest fits the limit; `keep` stays."""
    entries = []
    for path in keep.parent.glob("*.optc"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            entries.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit():
            return
        if path != keep:
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def digest(parts: Iterable[bytes | Path]) -> str:
    """A key from bytes and the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        inner = hashlib.sha256()
        if isinstance(part, Path):
            with part.open("rb") as file:
                while chunk := file.read(1 << 22):
                    inner.update(chunk)
        else:
            inner.update(part)
        total.update(inner.digest())
    return total.hexdigest()
