"""A pruned model as ONNX, on ONNX Runtime, gives what optc's compilation with the same spec gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optc
import pytest
from helpers import run_model
from optc import models
from optc.compiler.driver import import_source
from optc.compiler.onnx.exporter import export_model
from optc.compiler.options import Options
from optc.passes.pruning import prune

TOLERANCE = 1e-4  # of the output's range


@pytest.mark.parametrize("spec", ["channels=50%", "channels=30%,criterion=l1,schedule=balanced,align=1;weights<1e-3"])
def test_the_pruned_model_on_onnx_runtime_and_compiled(spec: str) -> None:
    model = models.get("fashion-cnn")
    graph = import_source(model.path(), Options())
    report = prune(graph, spec)
    assert report.macs_share < 0.6
    inputs = model.inputs(3)
    expected = run_model(export_model(graph).SerializeToString(), inputs)["logits"]
    found = optc.compile(model.path(), prune=spec, threads=1).run(inputs)["logits"]
    assert np.abs(found - expected).max() <= TOLERANCE * np.ptp(expected)


def test_all_that_is_cut_of_fashion_cnn(tmp_path: Path) -> None:
    report = prune(import_source(models.get("fashion-cnn").path(), Options()), "channels=50%")
    assert [(g.before, g.after) for g in report.groups] == [(16, 8), (32, 16), (32, 16), (64, 32), (64, 32), (10, 10)]
    assert report.macs_share == pytest.approx(0.2538, abs=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv2", "densenet121"])
def test_classics_shrink_and_still_run(name: str) -> None:
    model = models.get(name)
    graph = import_source(model.path(), Options())
    report = prune(graph, "channels=50%")
    assert report.macs_share < 0.5
    (logits,) = run_model(export_model(graph).SerializeToString(), model.inputs()).values()
    assert logits.shape == (1, 1000)
    assert np.isfinite(logits).all()
