"""What quantization tells of itself."""

from __future__ import annotations

import json

from helpers import graph_of
from optc.compiler.ir import Node
from optc.passes.quantization.budget import Step, Walk
from optc.passes.quantization.diagnose import Diagnosis, Row
from optc.passes.quantization.placement import Placement, place
from optc.passes.quantization.report import Kept, QuantizeReport

NET = """
graph main(%x: f32[4,8]) {
  %w1: f32[8,8] = const random(1)
  %w2: f32[8,8] = const random(2)
  %a = MatMul(%x, %w1)
  %y = MatMul(%a, %w2)
  return %y
}
"""


def layers() -> tuple[list[Node], Placement]:
    placement = place(graph_of(NET))
    return list(placement.layers), placement


def report(**options: bool) -> QuantizeReport:
    return QuantizeReport(["a", "y"], 2, 16, **options)


def test_gains_are_of_what_was_kept() -> None:
    (first, second), _ = layers()
    told = report()
    told.record("bias corrected", {first: Kept(30, 32, True), second: Kept(30, 20, False)})
    assert told.lines() == [
        "int8: 2 layers, 2 values, calibrated on 16 samples",
        "bias corrected: kept in 1 of 2 layers, +2.0 dB in the mean (on the samples that decided it)",
    ]
    assert told.steps[second.name] == {"bias corrected": Kept(30, 20, False)}


def test_what_was_kept_nowhere_is_not_told() -> None:
    (first, _), _ = layers()
    told = report()
    told.record("bias corrected", {first: Kept(30, 20, False)})
    assert len(told.lines()) == 1


def test_made_up_samples_are_told_loudly() -> None:
    assert "ACCURACY IS UNCHECKED" in report(synthetic=True).lines()[0]


def test_what_the_budget_left_float() -> None:
    (first, second), placement = layers()
    walk = Walk(0.01, 1.0, 2, 100)
    walk.steps = [Step((), 0.9, 1.0, 100), Step((first.name,), 0.995, 0.5, 200)]
    told = report()
    told.took(walk, Placement((second,), placement.groups))
    assert told.float_layers == {first.name}
    assert told.layers == [second.name]
    assert not told.interrupted
    assert any("<- taken" in line and "1 of 2 layers float" in line for line in told.lines())


def test_all_of_it_goes_into_a_manifest() -> None:
    told = report()
    told.explained(Diagnosis((Row("a", "MatMul", 20.0, 30.0, "clipped tail"),), {"y": 25.0}), {"y": "values"})
    manifest = json.loads(json.dumps(told.as_dict()))
    assert manifest["layers"][0]["cause"] == "clipped tail"
    assert manifest["outputs_db"] == {"y": 25.0}
    assert (manifest["outputs"], manifest["budget"], manifest["samples"]) == ({"y": "values"}, None, 16)
