"""Small tasks for tests of the tuner."""

from __future__ import annotations

from optc.backends.target import Target
from optc.backends.tuning.database import Setting, Trial
from optc.backends.tuning.session import tasks_of
from optc.backends.tuning.tasks import Task
from optc.compiler.text import parse_graph

PRODUCT = """graph g(%x: f32[9,16]) {
  %w: f32[16,32] = const random(1)  %p = MatMul(%x, %w)  %y = Relu(%p)  return %y }"""
SETTING = Setting("triple cpu avx", 2, "k1", "0.27")


def task_of(text: str = PRODUCT) -> Task:
    """The only task of a graph."""
    (task,) = tasks_of(parse_graph(text), Target.host())
    return task


def made_up(text: str = "graph region() {\n  return %v\n}", spec: str = "S(n=1)", plans: int = 4) -> Task:
    """A task that nobody can build."""
    return Task(text, spec, tuple(f"conv P(rows={2**i})" for i in range(plans)))


def trial(task: Task, candidate: int, ratio: float | None, seconds: float = 1e-3) -> Trial:
    """A measurement of a task's candidate by number."""
    error = "crash" if ratio is None else None
    return Trial(task.key, task.candidates[candidate], task.candidates[0], seconds, ratio, error)
