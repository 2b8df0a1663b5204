"""What calibration has gathered so far, in one file: written whole or not at all, and only believed by who wrote it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.errors import CalibrationError
from ...compiler.ir import Graph
from ...compiler.printing import print_graph
from .statistics import Statistic, Wanted

_EVERY = 5.0
"""Seconds between two saves, or more: saving takes at most a twentieth of the time."""
_SHARE = 20
_HEADER = "header"


_KEPT = 32
"""States kept in one folder; the oldest others go."""


def state_path(folder: Path, graph: Graph, key: str) -> Path:
    """The file in a cache folder for calibrating this graph with the data and preprocessing that `key` names."""
    others = sorted(folder.glob("*.npz"), key=_modified)
    for path in others[: max(0, len(others) - _KEPT + 1)]:
        path.unlink(missing_ok=True)
    return folder / f"{_hash(key, print_graph(graph))[:32]}.npz"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # somebody else has removed it
        return 0.0


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Checkpoint:
    """The file `path` for statistics of a graph over the data that `key` names."""

    def __init__(self, path: Path, graph: Graph, wanted: Wanted, key: str) -> None:
        self._path, self._wanted = path, wanted
        kinds = {name: [s.kind for s in statistics] for name, statistics in wanted.items()}
        self._key = _hash(key, print_graph(graph), json.dumps(kinds))
        self._due = time.monotonic() + _EVERY

    def load(self) -> tuple[int, bool]:
        """Puts the statistics where they were: (samples seen, whether those are all). (0, False) if the file is
        missing, damaged or of something else."""
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                header = json.loads(str(arrays[_HEADER]))
                if header["key"] != self._key:
                    return 0, False
                states = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return 0, False
        for prefix, statistic in self._named():
            own = {name[len(prefix) :]: array for name, array in states.items() if name.startswith(prefix)}
            statistic.load(own)
        return int(header["samples"]), bool(header["complete"])

    def save_if_due(self, samples: int) -> None:
        """Saves if the last time was a while ago."""
        if time.monotonic() >= self._due:
            self.save(samples)

    def save(self, samples: int, complete: bool = False) -> None:
        """Writes all statistics. Raises CalibrationError if that fails."""
        started = time.monotonic()
        header = json.dumps({"key": self._key, "samples": samples, "complete": complete})
        states: dict[str, Any] = {prefix + name: a for prefix, s in self._named() for name, a in s.state().items()}
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                np.savez(file, **states | {_HEADER: np.array(header)})
            os.replace(part, self._path)
        except OSError as error:
            message = f"cannot write the state of calibration: {error.strerror}"
            raise CalibrationError(message, node=str(self._path)) from error
        finally:
            with contextlib.suppress(OSError):  # it is not there, and nothing can be
                part.unlink()
        now = time.monotonic()
        self._due = now + max(_EVERY, _SHARE * (now - started))

    def _named(self) -> list[tuple[str, Statistic]]:
        """(prefix of its arrays in the file, statistic)."""
        return [
            (f"{i}.{j}.", statistic)
            for i, statistics in enumerate(self._wanted.values())
            for j, statistic in enumerate(statistics)
        ]
