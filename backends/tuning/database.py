"""The tuning database: a row for every kernel that was measured, written as it was measured (SQLite, WAL mode).

Rows are never changed, so several tuners may write to one file, and merging two files is the union of their rows. What
a row says holds for one setting: the processor's features, the number of threads, and the versions of the kernels'
sources and of TVM.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import sqlite3
import statistics
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...compiler.errors import DatabaseError
from ..target import Target
from .tasks import Task, region_key

APPLICATION_ID, VERSION = 0x6F707463, 1
"""Marks of the file's header: "optc", and the version of the tables."""
_TABLES = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS regions (key TEXT PRIMARY KEY, text TEXT NOT NULL, spec TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trials (
  id TEXT PRIMARY KEY, region TEXT NOT NULL REFERENCES regions, target TEXT NOT NULL, threads INTEGER NOT NULL,
  kernels TEXT NOT NULL, tvm TEXT NOT NULL, candidate TEXT NOT NULL, baseline TEXT NOT NULL, seconds REAL, ratio REAL,
  error TEXT, measured_at TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trials_by_setting ON trials (target, threads, kernels, tvm, region);
COMMIT;
"""
BUSY_SECONDS = 60.0
"""How long a write waits for another process's."""


@dataclass(frozen=True)
class Setting:
    """What measurements hold for: the processor with its features, threads, versions of the kernels and of TVM."""

    target: str
    threads: int
    kernels: str
    tvm: str

    @staticmethod
    def of(target: Target) -> Setting:
        from importlib.metadata import version

        name = " ".join((target.triple, target.mcpu, *target.features))
        return Setting(name, target.num_cores, kernels_version(), version("apache-tvm"))


@functools.cache
def kernels_version() -> str:
    """A digest of the sources that make kernels."""
    from ..runtime.cache import digest

    root = Path(__file__).parent.parent
    rooms = [p for room in ("isa", "kernels", "templates") for p in (root / room).rglob("*.py")]
    return digest(sorted([*rooms, root / "codegen.py"]))[:16]


@dataclass(frozen=True)
class Trial:
    """One measurement: `seconds` a call of the candidate took, `ratio` of that to the baseline's, the first guess,
    timed in turns with it; or `error`, why it has none."""

    region: str
    candidate: str
    baseline: str
    seconds: float | None = None
    ratio: float | None = None
    error: str | None = None
    measured_at: str = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat())
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Score:
    """What all trials of a candidate say together: medians; no ratio where any failed."""

    candidate: str
    baseline: str
    seconds: float
    ratio: float | None


class Database:
    """An open database. Every method raises DatabaseError where the file is damaged, locked or cannot be written."""

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        """Opens `path`, which must be a tuning database; `create` makes it if there is no such file."""
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise DatabaseError("no such tuning database", node=str(path), hint="optc tune makes one.")
        with self._guarded():
            self._connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            used = self._pragma("schema_version")  # read first: another process may be making the tables
            mark, version = self._pragma("application_id"), self._pragma("user_version")
            if used and mark != APPLICATION_ID:
                raise DatabaseError("not a tuning database", node=str(path))
            if used and version != VERSION:
                raise DatabaseError("another version's database", node=str(path), expected=VERSION, found=version)
            if not used:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.executescript(_TABLES)
            self._connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing in WAL mode

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DatabaseError(
                f"cannot use the tuning database: {error}", node=str(self.path),
                hint="If it is damaged, move it away; optc tune makes a new one.",
            ) from error  # fmt: skip

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    # --- measurements --------------------------------------------------------------------------------------------

    def record(self, task: Task, setting: Setting, trial: Trial) -> None:
        """Writes one trial; it is on disk when this returns."""
        with self._guarded():
            self._insert_region(task.key, task.text, task.spec)
            self._insert_trial(asdict(setting) | asdict(trial))

    def _insert_region(self, key: str, text: str, spec: str) -> None:
        self._connection.execute("INSERT OR IGNORE INTO regions VALUES (?, ?, ?)", (key, text, spec))

    def _insert_trial(self, row: dict[str, Any]) -> int:
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        return self._connection.execute(f"INSERT OR IGNORE INTO trials ({names}) VALUES ({marks})", row).rowcount

    def scores(self, setting: Setting, region: str | None = None) -> dict[str, list[Score]]:
        """What was measured in this setting, by region key, the fastest candidates first. Equal contents give equal
        scores, whatever the order in which they were written."""
        query = "SELECT region, candidate, baseline, seconds, ratio FROM trials WHERE target = :target AND " + (
            "threads = :threads AND kernels = :kernels AND tvm = :tvm" + (" AND region = :region" if region else "")
        )
        found: dict[tuple[str, str, str], list[tuple[float | None, float | None]]] = {}
        with self._guarded():
            for row in self._connection.execute(query, asdict(setting) | {"region": region}):
                found.setdefault(row[:3], []).append(row[3:])
        scores: dict[str, list[Score]] = {}
        for (key, candidate, baseline), rows in sorted(found.items()):
            scores.setdefault(key, []).append(_score(candidate, baseline, rows))
        for each in scores.values():
            each.sort(key=lambda s: (s.ratio is None, s.ratio, s.candidate))
        return scores

    def digest(self, setting: Setting) -> str:
        """A digest of all that a compilation in this setting may learn from the database."""
        sha = hashlib.sha256()
        for key, scores in sorted(self.scores(setting).items()):
            sha.update(f"{key} {scores}\n".encode())
        return sha.hexdigest()

    def neighbours(self, setting: Setting) -> list[tuple[str, str, str]]:
        """(region key, spec, best candidate) of all regions measured on this processor with as many threads, whatever
        the version of the kernels: where a search may well start."""
        query = (
            "SELECT region, spec, candidate, MIN(ratio) FROM trials JOIN regions ON region = key "
            "WHERE target = ? AND threads = ? AND ratio IS NOT NULL GROUP BY region ORDER BY region"
        )
        with self._guarded():
            return [row[:3] for row in self._connection.execute(query, (setting.target, setting.threads))]

    # --- whole files ---------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every trial with its setting and the text and spec of its region, in the order of their ids."""
        names = [*(f.name for f in fields(Setting)), *(f.name for f in fields(Trial))]
        query = f"SELECT {', '.join(names)}, text, spec FROM trials JOIN regions ON region = key ORDER BY id"
        with self._guarded():
            for row in self._connection.execute(query):
                yield dict(zip((*names, "text", "spec"), row, strict=True))

    def add(self, rows: Iterable[dict[str, Any]]) -> int:
        """Adds what `rows` gave; returns how many were new. Raises DatabaseError for a row that is none; then nothing
        is added."""
        added = 0
        with self._guarded(), self._transaction():
            for number, row in enumerate(rows, 1):
                try:
                    trial = Trial(**{f.name: row[f.name] for f in fields(Trial)})
                    setting = Setting(**{f.name: row[f.name] for f in fields(Setting)})
                    text, spec = str(row["text"]), str(row["spec"])
                except (KeyError, TypeError) as error:
                    raise DatabaseError(f"row {number} is no trial: {error}", node=str(self.path)) from error
                if region_key(text) != trial.region:
                    raise DatabaseError(f"row {number} is no trial: its region has another key", node=str(self.path))
                self._insert_region(trial.region, text, spec)
                added += self._insert_trial(asdict(setting) | asdict(trial))
        return added

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def prune(self, keep: Setting, *, failed: bool = False) -> int:
        """Removes trials of other versions of the kernels or of TVM than `keep` names, and those that failed if
        `failed`; returns how many."""
        with self._guarded():
            with self._transaction():
                where = "kernels != ? OR tvm != ?" + (" OR ratio IS NULL" if failed else "")
                gone = self._connection.execute(f"DELETE FROM trials WHERE {where}", (keep.kernels, keep.tvm)).rowcount
                self._connection.execute("DELETE FROM regions WHERE key NOT IN (SELECT region FROM trials)")
            self._connection.execute("VACUUM")
        return gone


def _score(candidate: str, baseline: str, rows: list[tuple[float | None, float | None]]) -> Score:
    seconds = [s for s, _ in rows if s is not None]
    ratios = [r for _, r in rows if r is not None]
    ratio = statistics.median(ratios) if len(ratios) == len(rows) else None
    return Score(candidate, baseline, statistics.median(seconds) if seconds else 0.0, ratio)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines. Raises DatabaseError where it is none."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DatabaseError(f"line {number} is no JSON: {error}", node=str(path)) from error
                if not isinstance(row, dict):
                    raise DatabaseError(f"line {number} is no trial", node=str(path))
                yield row
    except (OSError, UnicodeDecodeError) as error:
        raise DatabaseError(f"cannot read it: {error}", node=str(path)) from error
