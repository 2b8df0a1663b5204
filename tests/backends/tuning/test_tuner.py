"""The tuner with workers whose kernels are made up (fake_worker.py): failures, limits, resuming."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optc.backends.target import Target
from optc.backends.tuning import client, database, tuner
from optc.backends.tuning.client import Client, TrialFailed
from optc.backends.tuning.database import Database, Setting
from optc.backends.tuning.tasks import Task
from optc.backends.tuning.tuner import Limits, Outcome, tune

FAKE = Path(__file__).with_name("fake_worker.py")
HOST = Target.host()


@pytest.fixture(autouse=True)
def _made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WORKER", (str(FAKE),))
    monkeypatch.setattr(tuner, "MOST_WORKERS", 1)
    monkeypatch.setattr(database, "kernels_version", lambda: "test")


TEXT = "graph region() {\n  %v: f32[1] = MatMul(%x)\n  return %v\n}"


def task_with(*candidates: str, text: str = TEXT) -> Task:
    return Task(text, "S(n=1)", candidates)


def run(path: Path, *tasks: Task, **limits: float) -> Outcome:
    with Database(path, create=True) as plans:
        return tune(dict.fromkeys(tasks, 1), HOST, plans, Limits(**limits))  # type: ignore[arg-type]


def rows_of(path: Path) -> dict[str, tuple[float | None, str | None]]:
    with Database(path) as plans:
        return {row["candidate"]: (row["ratio"], row["error"]) for row in plans.rows()}


def test_a_worker_that_crashed_or_hung_is_replaced() -> None:
    with Client(HOST) as worker:
        request = {"do": "build", "slot": "s", "region": "text"}
        worker.ask(request | {"candidate": "P(rows=4)"}, 10)
        first = worker.pid
        with pytest.raises(TrialFailed, match="SIGSEGV"):
            worker.ask(request | {"candidate": "crash"}, 10)
        worker.ask(request | {"candidate": "P(rows=4)"}, 10)
        assert worker.pid != first
        with pytest.raises(TrialFailed, match="took too long"):
            worker.ask(request | {"candidate": "hang"}, 0.5)
        with pytest.raises(TrialFailed, match="no such kernel"):
            worker.ask(request | {"candidate": "refuse"}, 10)


def test_a_failure_costs_one_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "TRIAL_SECONDS", 5.0)
    task = task_with("P(rows=8)", "crash P(rows=1)", "wrong P(rows=1)", "hang P(rows=1)", "refuse", "P(rows=4)")
    outcome = run(tmp_path / "db", task, exhaustive=True, seconds=None)
    assert (outcome.trials, outcome.failed) == (6, 4)
    found = rows_of(tmp_path / "db")
    assert found["P(rows=4)"] == (0.5, None)
    for candidate, message in (("crash P(rows=1)", "SIGSEGV"), ("wrong P(rows=1)", "something else"),
                               ("hang P(rows=1)", "too long"), ("refuse", "no such kernel")):  # fmt: skip
        ratio, error = found[candidate]
        assert ratio is None
        assert message in (error or "")


def test_the_outcome_weighs_regions_by_how_often_they_occur(tmp_path: Path) -> None:
    a, b = (
        task_with("P(rows=8)", "P(rows=4)", text=TEXT + "a"),
        task_with("P(rows=10)", "P(rows=10, n=1)", text=TEXT + "b"),
    )
    with Database(tmp_path / "db", create=True) as plans:
        outcome = tune({a: 2, b: 1}, HOST, plans, Limits(exhaustive=True))
    assert outcome.before == pytest.approx(0.026)
    assert outcome.after == pytest.approx(0.018)
    assert "1.44x" in outcome.lines()[1]


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    task = task_with(*(f"P(rows={n})" for n in (16, 8, 4, 2, 1)))
    assert run(tmp_path / "db", task, trials=2).trials == 2
    assert run(tmp_path / "db", task, exhaustive=True).trials == 3
    again = run(tmp_path / "db", task, exhaustive=True)
    assert (again.trials, again.before, again.after) == (0, pytest.approx(0.016), pytest.approx(0.001))


def test_a_region_without_a_choice_is_no_trial(tmp_path: Path) -> None:
    assert run(tmp_path / "db", task_with("P(rows=1)")).trials == 0


def test_a_time_limit_of_nothing_measures_nothing(tmp_path: Path) -> None:
    assert run(tmp_path / "db", task_with("P(rows=1)", "P(rows=2)"), seconds=0.0).trials == 0


def test_two_tuners_share_the_work(tmp_path: Path) -> None:
    """What another tuner has measured meanwhile is taken over."""
    task = task_with(*(f"P(rows={n})" for n in (4, 2, 1)))
    setting = Setting.of(HOST)
    with Database(tmp_path / "db", create=True) as plans, Database(tmp_path / "db") as other:
        done: list[str] = []

        def say(what: str, share: float) -> None:
            if not done:
                done.append(what)
                other.record(task, setting, tuner.Trial(task.key, "P(rows=1)", "P(rows=4)", 1e-3, 0.25))

        outcome = tune({task: 1}, HOST, plans, Limits(exhaustive=True), say)
    assert outcome.trials == 2
    assert outcome.after == pytest.approx(0.001)


def test_kill_9_loses_at_most_the_trial_in_flight(tmp_path: Path) -> None:
    """The next run goes on where it stopped, and no worker is left behind."""
    path, count = tmp_path / "db", 30
    code = f"""
from pathlib import Path
from optc.backends.target import Target
from optc.backends.tuning import client, database, tuner
from optc.backends.tuning.tasks import Task
client.WORKER, tuner.MOST_WORKERS, database.kernels_version = ({str(FAKE)!r},), 1, lambda: "test"
task = Task({TEXT!r}, "S(n=1)", tuple(f"P(rows={{n}})" for n in range({count}, 0, -1)))
def say(what, share):
    print(what, flush=True)
with database.Database(Path({str(path)!r}), create=True) as plans:
    tuner.tune({{task: 1}}, Target.host(), plans, tuner.Limits(exhaustive=True), say)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    seen = 5 + len(process.stdout.readlines())
    process.wait()
    written = len(rows_of(path))
    assert seen <= written <= seen + 1
    deadline = time.monotonic() + 30
    while any(_runs(int(child)) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(int(child)) for child in children)
    task = task_with(*(f"P(rows={n})" for n in range(count, 0, -1)))
    assert run(path, task, exhaustive=True).trials == count - written
    assert len(rows_of(path)) == count


def _runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text() and os.getpgid(pid) >= 0
    except (FileNotFoundError, ProcessLookupError):
        return False
