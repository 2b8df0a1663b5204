"""What every test of a pass does: run it, verify the graph, compare with the text expected and with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from helpers import assert_same, graph_of, random_inputs, run_reference
from optc.compiler.ir import Graph
from optc.compiler.text import equal
from optc.compiler.verify import verify
from optc.passes import base, pipelines
from optc.passes.base import Pass, PassContext
from optc.passes.rewrite import RULES, Rewrite, explain

TOLERANCE = 1e-5  # of the largest element, in float32
Steps = str | Sequence[Pass]


@pytest.fixture(autouse=True)
def _every_graph_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are verified and their report of a change is checked, whatever context a test uses."""
    original = base.run_passes

    def checked(graph: Graph, passes: Sequence[Pass], ctx: PassContext | None = None) -> bool:
        ctx = ctx or PassContext()
        ctx.verify = ctx.check_changed = True
        changed = original(graph, passes, ctx)
        verify(graph)
        return changed

    monkeypatch.setattr(base, "run_passes", checked)
    monkeypatch.setattr(pipelines, "run_passes", checked)


def steps_of(steps: Steps) -> Sequence[Pass]:
    """Rule names separated by spaces, or passes."""
    return (Rewrite(tuple(steps.split())),) if isinstance(steps, str) else steps


def assert_close(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float = TOLERANCE
) -> None:
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        got = found[name]
        assert got.shape == wanted.shape, name
        assert got.dtype == wanted.dtype, name
        if wanted.dtype.kind == "f" and wanted.size:
            finite = np.isfinite(wanted)
            assert np.array_equal(finite, np.isfinite(got)), name
            largest = np.abs(wanted[finite]).max(initial=1e-30)
            assert np.abs(got[finite] - wanted[finite]).max(initial=0) <= tolerance * largest, name
        else:
            assert np.array_equal(got, wanted), name


@pytest.fixture
def assert_rewrites() -> Callable[..., Graph]:
    """`(steps, before, after, dims={})`: before becomes after, and computes the same."""

    def check(steps: Steps, before: str, after: str, dims: Mapping[str, int] | None = None) -> Graph:
        graph = graph_of(before)
        inputs = random_inputs(graph, dims)
        expected = run_reference(graph, inputs)
        base.run_passes(graph, steps_of(steps), PassContext())
        assert_same(graph, after)
        assert_close(run_reference(graph, inputs), expected)
        return graph

    return check


@pytest.fixture
def assert_keeps() -> Callable[..., None]:
    """`(steps, text, reason)`: nothing changes; a single rule says why in words that hold `reason`."""

    def check(steps: Steps, text: str, reason: str | None = None) -> None:
        graph = graph_of(text)
        assert not base.run_passes(graph, steps_of(steps), PassContext())
        assert equal(graph, graph_of(text))
        if reason is not None:
            assert isinstance(steps, str)
            explanation = explain(RULES[steps], graph)
            assert not explanation.applies
            assert reason in explanation.reason

    return check
