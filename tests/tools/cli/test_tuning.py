"""optc tune, optc db, --db: what a database says is what an artifact gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optc
import pytest
from onnx import helper, save
from optc.backends.runtime.artifact import read_artifact
from optc.backends.target import Target
from optc.backends.tuning import client
from optc.backends.tuning.database import Database, Setting, Trial
from optc.backends.tuning.session import tasks_of
from optc.backends.tuning.tasks import Task
from optc.compiler.driver import import_source, optimize
from optc.compiler.options import Options
from optc.tools.cli.main import main
from small_models import make_model

FAKE = Path(__file__).parents[2] / "backends" / "tuning" / "fake_worker.py"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "WORKER", (str(FAKE),))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A product of 24 x 40 by 40 x 48."""
    weights = {"w": np.random.default_rng(0).standard_normal((40, 48), dtype=np.float32)}
    path = tmp_path / "small.onnx"
    save(make_model([helper.make_node("MatMul", ["x", "w"], ["y"])], weights, [24, 40]), path)
    return path


def task_of(model: Path) -> Task:
    graph = import_source(model, Options())
    optimize(graph)
    (task,) = tasks_of(graph, Target.host())
    return task


def believe(path: Path, task: Task, candidate: str, ratio: float = 0.5) -> Path:
    """Writes to the database at `path` that a candidate is fast."""
    with Database(path, create=True) as database:
        trial = Trial(task.key, candidate, task.candidates[0], 1e-5, ratio)
        database.record(task, Setting.of(Target.host()), trial)
    return path


def run(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    return code, *capfd.readouterr()


def compiled(capfd: pytest.CaptureFixture[str], model: Path, out: Path, *args: object) -> Path:
    code, _, err = run(capfd, model, "-o", out, "--quiet", *args)
    assert code == 0, err
    return out


def kernels(artifact: Path) -> str:
    return str(read_artifact(artifact).manifest["kernels"])


def test_the_fastest_known_kernel_is_taken(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = task_of(model)
    db = believe(tmp_path / "plans.db", task, task.candidates[3])
    artifact = compiled(capfd, model, tmp_path / "a.optc", "--db", db)
    assert task.candidates[3] in kernels(artifact)
    x = np.random.default_rng(1).standard_normal((24, 40), dtype=np.float32)
    np.testing.assert_allclose(optc.load(artifact)(x), optc.compile(str(model))(x), rtol=1e-5, atol=1e-5)


def test_the_same_content_gives_the_same_bytes(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Wherever the database lies, in whatever order it was written, from the cache or not."""
    task = task_of(model)
    for name, order in (("one.db", (2, 3)), ("two.db", (3, 2))):
        for number in order:
            believe(tmp_path / name, task, task.candidates[number], 0.4 + number / 10)
    one = compiled(capfd, model, tmp_path / "1", "--db", tmp_path / "one.db", "--no-cache")
    two = compiled(capfd, model, tmp_path / "2", "--db", tmp_path / "two.db", "--no-cache")
    cached = compiled(capfd, model, tmp_path / "3", "--db", tmp_path / "two.db")
    assert one.read_bytes() == two.read_bytes() == cached.read_bytes()


def test_new_measurements_are_not_answered_from_the_cache(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = task_of(model)
    db = believe(tmp_path / "plans.db", task, task.candidates[2])
    compiled(capfd, model, tmp_path / "a", "--db", db)
    believe(db, task, task.candidates[3], 0.3)
    assert task.candidates[3] in kernels(compiled(capfd, model, tmp_path / "b", "--db", db))


def test_a_kernel_this_version_does_not_have_is_not_taken(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = task_of(model)
    db = believe(tmp_path / "plans.db", task, "matmul PlanOfOld(rows=3)")
    assert task.candidates[0] in kernels(compiled(capfd, model, tmp_path / "a", "--db", db))


def test_tune_measures_and_compile_uses_it(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "plans.db"
    code, out, err = run(capfd, "tune", model, "--db", db, "--trials", 4, "--json")
    assert code == 0, err
    assert json.loads(out)["trials"] == 4
    code, out, _ = run(capfd, "db", "list", db, "--json")
    (region,) = json.loads(out)
    assert (code, region["trials"], region["failed"]) == (0, 4, 0)
    code, out, _ = run(capfd, model, "--db", db, "-o", tmp_path / "a.optc")
    assert "tuned: 1 of 1 regions were measured" in out


def test_compile_tunes_where_asked(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "plans.db"
    artifact = compiled(capfd, model, tmp_path / "a.optc", "--tune", "--db", db)
    with Database(db) as database:
        assert len(list(database.rows())) > 1
    again = compiled(capfd, model, tmp_path / "b.optc", "--db", db, "--no-cache")
    assert again.read_bytes() == artifact.read_bytes()


def test_databases_are_merged_exported_and_pruned(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = task_of(model)
    one = believe(tmp_path / "one.db", task, task.candidates[1])
    two = believe(tmp_path / "two.db", task, task.candidates[2])
    lines = tmp_path / "two.jsonl"
    assert run(capfd, "db", "export", two, lines)[0] == 0
    assert "1 trials added" in run(capfd, "db", "merge", one, lines)[1]
    assert "0 trials added" in run(capfd, "db", "merge", one, two)[1]
    assert run(capfd, "db", "list", one, "--trials")[1].count("matmul") == 2
    assert "0 trials removed" in run(capfd, "db", "prune", one)[1]


def test_a_foreign_file_is_exit_code_3(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"no database" * 1000)
    for args in (("tune", model, "--db", foreign), (model, "--db", foreign), ("db", "list", foreign)):
        code, _, err = run(capfd, *args)
        assert (code, "foreign.db" in err) == (3, True)


def test_what_cannot_be_measured_here_is_refused(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(capfd, "tune", model, "--target", "arm")[0] == 4
    assert run(capfd, "tune", model, "--threads", 4096)[0] == 2
    assert run(capfd, "tune", model, "--tuner", "metaschedule")[0] == 4
