"""The diagnosis: each layer's noise, its cause, and the gain of the fix that is told."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper
from optc.compiler.onnx.importer import import_model
from optc.compiler.options import Calibration
from optc.passes.quantization.causes import Facts, cause_of
from optc.passes.quantization.diagnose import KEEP_FLOAT, Diagnosis, Row, diagnose
from optc.passes.quantization.execute import Runner
from optc.passes.quantization.insert import Affine
from optc.passes.quantization.quantize import Recipe, Study, study
from optc.passes.quantization.whatif import FLOAT, Fix, WhatIf
from small_models import make_model

Samples = list[dict[str, np.ndarray]]
RAW = Recipe("minmax", smooth=False, correct_bias=False)


def dense(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Dense layers one after the other, named as their weights."""
    nodes, source = [], "x"
    for i, name in enumerate(weights):
        last = i == len(weights) - 1
        nodes.append(helper.make_node("Gemm", [source, name], ["y" if last else f"h{i}"], name=name))
        source = f"r{i}"
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [source], name=f"act{i}"))
    return make_model(nodes, dict(weights), ["N", 16])


def random(scale: float = 0.25) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((16, 16)) * scale).astype(np.float32)


@pytest.fixture(scope="module")
def samples() -> Samples:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((64, 16)).astype(np.float32)} for _ in range(8)]


def studied(model: onnx.ModelProto, samples: Samples, recipe: Recipe | None = None) -> Study:
    return study(import_model(model), Calibration(samples), recipe or RAW)


def row(found: Diagnosis, layer: str) -> Row:
    return next(r for r in found.rows if r.layer == layer)


def spread() -> onnx.ModelProto:
    """`bad` reads a channel a thousand times as large as the others, whose weights make up for it."""
    first, bad = random(), random()
    first[:, 3] *= 1000
    bad[3] /= 1000
    return dense({"first": first, "bad": bad, "last": random()})


def test_channel_spread_is_found_and_equalization_heals_it(samples: Samples) -> None:
    found = diagnose(studied(spread(), samples))
    worst = found.rows[0]
    assert (worst.layer, worst.cause, worst.fix) == ("bad", "channel spread", "equalize channels")
    assert worst.gain_db > 10
    assert worst.output_gain_db > 10
    assert row(found, "last").cause == "error from before"


def test_the_gain_is_what_the_fix_gives(samples: Samples) -> None:
    """A layer left float has no noise of its own: what remains came from before."""
    subject = studied(spread(), samples)
    found = diagnose(subject)
    healed = diagnose(subject, {"bad"})
    assert "bad" not in {r.layer for r in healed.rows}
    assert healed.outputs_db["y"] >= found.outputs_db["y"] + found.rows[0].output_gain_db - 3


def test_an_outlier_stretches_the_range(samples: Samples) -> None:
    """One value of a channel in a thousand is a hundred times as large."""
    data = [{"x": s["x"].copy()} for s in samples]
    for sample in data:
        sample["x"][0, 0] = 300.0
    found = diagnose(studied(dense({"only": random()}), data))
    assert found.rows[0].cause in ("outlier range", "channel spread")
    clean = diagnose(studied(dense({"only": random()}), samples))
    assert found.rows[0].alone_db < clean.rows[0].alone_db - 5


def test_a_harmless_model_has_no_fixes_to_sell(samples: Samples) -> None:
    found = diagnose(studied(dense({"a": random(), "b": random()}), samples, Recipe()))
    assert all(r.snr_db > 25 for r in found.rows)
    assert found.outputs_db["y"] > 25


def test_lines_and_json(samples: Samples) -> None:
    found = diagnose(studied(spread(), samples))
    assert found.lines(1)[1].startswith("error: bad: ")
    assert "equalize channels: +" in found.lines(1)[1]
    kept = found.as_dict()
    assert kept["layers"][0]["layer"] == "bad"
    assert set(kept["layers"][0]) >= {"layer", "snr_db", "alone_db", "cause", "fix", "gain_db"}


def facts(**changed: object) -> Facts:
    kept: dict[str, object] = {
        "clipped": 0.0, "clip_error": 0.0, "round_error": 1.0, "peak": 1.0, "lowest": -np.ones(4),
        "highest": np.ones(4), "snr": 20.0, "alone": 20.0, "input_only": 20.0, "weights_only": 40.0,
    }  # fmt: skip
    return Facts(**(kept | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (facts(widened=True, weights_only=19.0), "bias overflow"),
        (facts(alone=40.0), "error from before"),
        (facts(snr=40.0, alone=40.0), "none"),
        (facts(snr=40.0, alone=40.0, island=True), "integer island"),
        (facts(weights_only=19.0), "weight rounding"),
        (facts(clip_error=2.0), "clipped tail"),
        (facts(highest=np.array([1.0, 1, 1, 100])), "channel spread"),
        (facts(peak=20.0), "outlier range"),
        (facts(), "rounding of the input"),
    ],
)
def test_causes(found: Facts, cause: str) -> None:
    assert cause_of(found)[0] == cause


# --- what if -----------------------------------------------------------------------------------------------------


def test_all_layers_float_is_the_float_model(samples: Samples) -> None:
    subject = studied(spread(), samples)
    switch = WhatIf(subject.graph, subject.placement, subject.choice)
    fixes = dict.fromkeys(subject.placement.layers, FLOAT)
    w = {n.name: n.operand(1).data for n in subject.placement.layers}
    x = samples[0]["x"]
    h = np.maximum(np.maximum(x @ w["first"], 0) @ w["bad"], 0) @ w["last"]
    np.testing.assert_allclose(switch.run(samples[0], fixes)["y"], h, rtol=1e-3, atol=1e-4)


def test_a_fix_lasts_for_one_run(samples: Samples) -> None:
    subject = studied(dense({"a": random(), "b": random()}), samples)
    switch = WhatIf(subject.graph, subject.placement, subject.choice)
    before = switch.run(samples[0])["y"]
    coarse = {subject.placement.layers[0]: Fix(grid=Affine(1.0, 128))}
    assert not np.array_equal(switch.run(samples[0], coarse)["y"], before)
    np.testing.assert_array_equal(switch.run(samples[0])["y"], before)


def test_switched_and_written_models_agree(samples: Samples) -> None:
    """The switchable model computes in floats what the written one computes in integers."""
    subject = studied(dense({"a": random(), "b": random()}), samples, Recipe())
    written = Runner(subject.quantized()).run(samples[0])["y"]
    switched = WhatIf(subject.graph, subject.placement, subject.choice).run(samples[0])["y"]
    assert np.abs(written - switched).max() < 0.01 * np.abs(written).max()


def test_keeping_float_is_named_where_nothing_else_serves(samples: Samples) -> None:
    """Two of the channels at once, so far apart that equalization in 8-bit weights fails, too."""
    weights = random()
    weights[0] = 0.001
    data = [{"x": s["x"] * np.where(np.arange(16) == 0, 1e4, 1.0).astype(np.float32)} for s in samples]
    fixes = {r.fix for r in diagnose(studied(dense({"only": weights}), data)).rows}
    assert fixes <= {KEEP_FLOAT, "equalize channels"}
    assert fixes
