"""The table of `optc simplify` beside its peers."""

from __future__ import annotations

import pytest
from optc.tools import simplify_bench
from optc.tools.simplify_bench import count_nodes, measure, optc_simplify, table


def test_a_row_has_nodes_and_ratios_and_names_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> bytes:
        raise ImportError("no such package\nmore")

    monkeypatch.setattr(simplify_bench, "TOOLS", {"optc": optc_simplify, "peer": broken})
    row = measure("fashion-cnn", threads=1, rounds=2)
    assert row.failures == {"peer": "ImportError: no such package"}
    assert row.nodes["optc"] < row.nodes["original"]
    assert [t.name for t in row.timings] == ["optc", "original"]
    head, _, line = table([row]).splitlines()
    assert head.count("|") == line.count("|")
    assert line.endswith("failed |")


def test_constants_are_not_counted_and_subgraphs_are() -> None:
    import onnx

    branch = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "b", [], [])
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], value_int=1),
        onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
    ]
    assert count_nodes(onnx.helper.make_graph(nodes, "g", [], [])) == 3
