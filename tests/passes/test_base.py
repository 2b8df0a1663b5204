"""Running passes, and pipelines as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from helpers import graph_of
from optc.compiler.errors import OptcError, UsageError
from optc.compiler.ir import Graph
from optc.passes import base
from optc.passes.base import PassContext, parse_pipeline, pipeline_text
from optc.passes.pipelines import OPTIMIZE, SIMPLIFY
from optc.passes.simplify.dead_code import DeadCode
from optc.passes.simplify.fold import FoldConstants

TEXT = "graph main(%x: f32[N]) { %a = Neg(%x) %y = Abs(%x) return %y }"


@pytest.mark.parametrize("pipeline", [SIMPLIFY, OPTIMIZE, (FoldConstants(max_bytes=9), DeadCode())])
def test_a_pipeline_prints_and_parses_back(pipeline: tuple[base.Pass, ...]) -> None:
    assert tuple(parse_pipeline(pipeline_text(pipeline))) == tuple(pipeline)


def test_options_at_their_default_are_not_printed() -> None:
    assert pipeline_text([FoldConstants(max_bytes=9), FoldConstants(), DeadCode()]) == (
        "fold-constants{max_bytes=9},fold-constants,dead-code"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no-such-pass", "there is no pass"),
        ("cse{depth=3}", "has no option"),
        ("fold-constants{max_bytes=many}", "expected int"),
        ("cse;cse", "not a pipeline"),
    ],
)
def test_a_bad_pipeline_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pipeline(text)


@dataclass(frozen=True)
class _Liar:
    name: ClassVar[str] = "test-liar"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        return True


@dataclass(frozen=True)
class _Breaker:
    name: ClassVar[str] = "test-breaker"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        first = next(iter(graph.nodes))
        graph.move_before(first, None)
        graph.set_input(first, 0, graph.outputs[0])
        return True


def test_a_wrong_report_of_a_change_is_found() -> None:
    with pytest.raises(OptcError, match="test-liar reported a wrong change"):
        base.run_passes(graph_of(TEXT), [_Liar()], PassContext(check_changed=True))


def test_a_failing_pass_leaves_a_reproducer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    graph = graph_of("graph main(%x: f32[N]) { %a = Neg(%x) %b = Abs(%a) return %b }")
    graph.set_outputs([graph.outputs[0]], ["out"])

    @dataclass(frozen=True)
    class Failing:
        name: ClassVar[str] = "test-failing"

        def run(self, graph: Graph, ctx: PassContext) -> bool:
            raise OptcError("no good", node="b")

    with pytest.raises(OptcError, match="test-failing failed: no good") as caught:
        base.run_passes(graph, [DeadCode(), Failing(), DeadCode()], PassContext())
    assert caught.value.node == "b"
    (folder,) = tmp_path.iterdir()
    assert (folder / "pipeline.txt").read_text() == "test-failing,dead-code\n"
    assert (folder / "model.onnx").is_file()


def test_an_invalid_graph_is_found_after_the_pass_that_made_it() -> None:
    with pytest.raises(OptcError, match="test-breaker failed"):
        base.run_passes(graph_of("graph main(%x: f32[N]) { %a = Neg(%x) %b = Abs(%a) return %b }"), [_Breaker()])


def test_graphs_are_printed_and_dumped_on_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPTC_PRINT_AFTER", "dead-code")
    monkeypatch.setenv("OPTC_DUMP", str(tmp_path / "dump"))
    base.run_passes(graph_of(TEXT), [DeadCode(), FoldConstants()], PassContext())
    assert "// after dead-code" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "dump").iterdir()) == ["00-dead-code.txt", "01-fold-constants.txt"]


def test_progress_counts_and_seconds_are_noted() -> None:
    seen: list[tuple[str, int, int]] = []
    ctx = PassContext(progress=lambda name, index, of: seen.append((name, index, of)))
    assert base.run_passes(graph_of(TEXT), [DeadCode()], ctx)
    assert seen == [("dead-code", 0, 1)]
    assert ctx.applied == {"dead-code": 1}
    assert ctx.seconds["dead-code"] > 0
