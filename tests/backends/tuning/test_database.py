"""The tuning database: what is written is there, whoever else writes, and foreign files are refused."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import optc
import pytest
from optc.backends.tuning.database import Database, Setting, read_lines

from .support import SETTING, made_up, trial


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plans.db"


def test_scores_are_medians_the_fastest_first(path: Path) -> None:
    task = made_up()
    with Database(path, create=True) as database:
        for candidate, ratio in ((0, 1.0), (1, 0.7), (1, 0.9), (1, 0.8), (2, 0.6), (2, None), (3, 0.5)):
            database.record(task, SETTING, trial(task, candidate, ratio))
        scores = database.scores(SETTING)[task.key]
    assert [(s.candidate, s.ratio) for s in scores] == [
        ("conv P(rows=8)", 0.5), ("conv P(rows=2)", 0.8), ("conv P(rows=1)", 1.0), ("conv P(rows=4)", None),
    ]  # fmt: skip


def test_a_setting_sees_its_own_trials_only(path: Path) -> None:
    task = made_up()
    others = [replace(SETTING, **{name: value}) for name, value in
              (("target", "other"), ("threads", 1), ("kernels", "k2"), ("tvm", "0.28"))]  # fmt: skip
    with Database(path, create=True) as database:
        database.record(task, SETTING, trial(task, 1, 0.5))
        assert all(not database.scores(other) for other in others)


def test_two_connections_write_to_one_file(path: Path) -> None:
    task = made_up()
    with Database(path, create=True) as one, Database(path, create=True) as two:
        one.record(task, SETTING, trial(task, 1, 0.5))
        two.record(task, SETTING, trial(task, 2, 0.6))
        assert len(one.scores(SETTING)[task.key]) == 2


def test_what_a_killed_process_wrote_is_there(path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from optc.backends.tuning.database import Database, Setting, Trial
from optc.backends.tuning.tasks import Task
task = Task("text", "S(n=1)", ("a", "b"))
database = Database(Path(sys.argv[1]), create=True)
database.record(task, Setting("cpu", 1, "k", "t"), Trial(task.key, "b", "a", 1.0, 0.5))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    with Database(path) as database:
        (scores,) = database.scores(Setting("cpu", 1, "k", "t")).values()
    assert scores[0].ratio == 0.5


def test_the_digest_is_of_contents_not_of_order(tmp_path: Path) -> None:
    task = made_up()
    trials = [trial(task, 1, 0.5), trial(task, 2, 0.6)]
    digests = []
    for name, order in (("a", trials), ("b", trials[::-1])):
        with Database(tmp_path / name, create=True) as database:
            for each in order:
                database.record(task, SETTING, each)
            digests.append(database.digest(SETTING))
    assert digests[0] == digests[1]
    with Database(tmp_path / "a") as database:
        database.record(task, SETTING, trial(task, 3, 0.9))
        assert database.digest(SETTING) != digests[0]


def test_rows_go_to_another_database_once(tmp_path: Path) -> None:
    task = made_up()
    with Database(tmp_path / "a", create=True) as one, Database(tmp_path / "b", create=True) as two:
        one.record(task, SETTING, trial(task, 1, 0.5))
        lines = tmp_path / "a.jsonl"
        lines.write_text("".join(json.dumps(row) + "\n" for row in one.rows()))
        assert two.add(one.rows()) == 1
        assert two.add(read_lines(lines)) == 0
        assert one.scores(SETTING) == two.scores(SETTING)


def test_prune_keeps_what_this_version_can_use(path: Path) -> None:
    task = made_up()
    with Database(path, create=True) as database:
        database.record(task, SETTING, trial(task, 1, 0.5))
        database.record(task, SETTING, trial(task, 2, None))
        database.record(task, replace(SETTING, kernels="old"), trial(task, 1, 0.7))
        assert database.prune(SETTING) == 1
        assert database.prune(SETTING, failed=True) == 1
        assert len(list(database.rows())) == 1


def test_neighbours_know_the_best_of_every_version(path: Path) -> None:
    task = made_up()
    with Database(path, create=True) as database:
        database.record(task, replace(SETTING, kernels="old"), trial(task, 2, 0.7))
        database.record(task, SETTING, trial(task, 1, 0.9))
        assert database.neighbours(SETTING) == [(task.key, task.spec, task.candidates[2])]


def test_a_missing_file_is_an_error(path: Path) -> None:
    with pytest.raises(optc.DatabaseError, match="no such tuning database"):
        Database(path)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 2000])
def test_a_foreign_or_damaged_file_is_an_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(optc.DatabaseError, match=r"plans\.db") as raised:
        Database(path, create=True)
    assert raised.value.exit_code == 3
    assert path.read_bytes() == content


def test_another_programs_database_is_an_error(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(optc.DatabaseError, match="not a tuning database"):
        Database(path, create=True)


def test_a_damaged_page_is_an_error(path: Path) -> None:
    task = made_up()
    with Database(path, create=True) as database:
        database.record(task, SETTING, trial(task, 1, 0.5))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x5a" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(optc.DatabaseError), Database(path) as database:
        database.scores(SETTING)


@pytest.mark.parametrize("row", [{}, {"region": "x"}, {"text": 1}])
def test_lines_that_are_no_trials_add_nothing(path: Path, row: dict[str, object]) -> None:
    task = made_up()
    good = asdict(SETTING) | asdict(trial(task, 1, 0.5)) | {"text": task.text, "spec": task.spec}
    with Database(path, create=True) as database:
        with pytest.raises(optc.DatabaseError, match="row 2"):
            database.add([good, row])
        assert not list(database.rows())


def test_a_line_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    lines = tmp_path / "x.jsonl"
    lines.write_text("{}\nnot json\n")
    with pytest.raises(optc.DatabaseError, match="line 2"):
        list(read_lines(lines))
