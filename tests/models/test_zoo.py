"""Every model of the zoo: its inputs fit its graph, it runs, and its splits share nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import optc.models
import pytest
from optc.models import classics, onnxruntime_run, transformers
from optc.models.__main__ import main

from .conftest import reachable

Fetch = Callable[[str], Path]

HEAVY = {"vgg16": 553, "gpt2": 498, "bert-base": 438}
"""Megabytes of those too large to build in every run of the tests; one layer of each transformer is tested below."""

LIGHT = [name for name in optc.models.names() if name not in HEAVY]
JUDGED = [name for name in LIGHT if optc.models.get(name).metric is not None]


def test_the_zoo_holds_what_it_promises() -> None:
    promised = {"ppocr-rec", "ppocr-det", "ppocr-cls", "efficientnet-lite0", "magika", "minilm-l3", "silero-vad"}
    promised |= {"fashion-cnn", "resnet50", "mobilenetv2", "bert-base"}
    assert promised <= set(optc.models.names())
    assert sum(name.startswith("silero-vad") for name in optc.models.names()) == 6


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(optc.OptcError, match=r"resnet51: no such model in the zoo \(expected fashion-cnn"):
        optc.models.get("resnet51")


@pytest.mark.parametrize("name", LIGHT)
def test_model_runs_on_its_inputs(name: str, fetch: Fetch) -> None:
    path, model = fetch(name), optc.models.get(name)
    with reachable():
        inputs = model.inputs()
    wanted = [value.name for value in onnx.load(path, load_external_data=False).graph.input]
    assert sorted(inputs) == sorted(model.static_shapes) == sorted(wanted)
    assert {key: array.shape for key, array in inputs.items()} == model.static_shapes
    for output in onnxruntime_run(path)(inputs).values():
        assert np.isfinite(output).all()


@pytest.mark.parametrize("name", [n for n in LIGHT if n not in ("silero-vad-16k-sequence", "silero-vad-openvino-16k")])
def test_model_takes_a_batch(name: str, fetch: Fetch) -> None:
    path = fetch(name)
    with reachable():
        inputs = optc.models.get(name).inputs(batch=3)
    assert all(array.shape[0] in (3, 2) for array in inputs.values() if array.ndim)
    outputs = onnxruntime_run(path)(inputs)
    assert any(output.shape[0] == 3 for output in outputs.values())


@pytest.mark.parametrize("name", JUDGED)
def test_splits_are_repeatable_and_share_nothing(name: str, fetch: Fetch) -> None:
    fetch(name)
    model = optc.models.get(name)

    def bytes_of(split: optc.models.Split) -> list[bytes]:
        with reachable():
            return [b"".join(a.tobytes() for a in sample.values()) for sample in model.samples(split, 6)]

    test = bytes_of("test")
    assert len(test) == 6
    assert test == bytes_of("test")
    assert not set(test) & set(bytes_of("calibration"))


EXPECTED = {
    "fashion-cnn": (64, 0.85),
    "efficientnet-lite0": (40, 0.7),
    "ppocr-rec": (40, 0.75),
    "ppocr-det": (10, 0.8),
    "ppocr-cls": (60, 0.75),
    "magika": (100, 0.8),
    "minilm-l3": (200, 0.45),
}
"""Items, and what the float model must reach on them: well below its figure over the whole split."""


@pytest.mark.parametrize("name", JUDGED)
def test_float_model_reaches_its_metric(name: str, fetch: Fetch) -> None:
    n, least = EXPECTED.get(name, (3, 0.6))
    metric = optc.models.get(name).metric
    assert metric is not None
    run = onnxruntime_run(fetch(name))
    with reachable():
        scores = metric.scores(run, n)
    assert metric.value(scores) >= least
    assert metric.difference(scores, scores).value == 0


@pytest.mark.parametrize("name", [n for n in JUDGED if optc.models.get(n).agreement])
def test_float_model_agrees_with_itself(name: str, fetch: Fetch) -> None:
    run, agreement = onnxruntime_run(fetch(name)), optc.models.get(name).agreement
    assert agreement is not None
    with reachable():
        assert agreement.evaluate(run, 2).value == 1


@pytest.mark.parametrize(("name", "items"), [("fashion-cnn", 10_000), ("magika", 1000), ("minilm-l3", 999)])
def test_data_that_is_found_suffices(name: str, items: int) -> None:
    metric = optc.models.get(name).metric
    assert metric is not None
    with reachable():
        assert sum(1 for _ in metric.samples(None)) >= items


def test_a_model_without_data_makes_samples_up_but_not_without_end() -> None:
    model = optc.models.get("mobilenetv2")
    first, second = (next(iter(model.samples(split, 1)))["image"] for split in ("calibration", "test"))
    assert first.shape == second.shape == (1, 3, 224, 224)
    assert not np.array_equal(first, second)
    with pytest.raises(optc.OptcError, match="say how many"):
        model.samples("test")


@pytest.mark.parametrize("build", [transformers.bert_base, transformers.gpt2])
def test_one_transformer_layer_runs_at_any_size(build: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    onnx.save(build(layers=1, vocabulary=1000, positions=64), tmp_path / "one.onnx")
    names = ("input_ids", "attention_mask", "token_type_ids")[: 3 if build is transformers.bert_base else 1]
    for shape in ((1, 5), (2, 64)):
        ids = np.random.default_rng(0).integers(0, 1000, shape)
        feeds = {name: ids if name == "input_ids" else np.ones_like(ids) for name in names}
        output = next(iter(onnxruntime_run(tmp_path / "one.onnx")(feeds).values()))
        assert output.shape[:2] == shape
        assert 0.1 < output.std() < 10


def test_classics_do_not_change_from_run_to_run() -> None:
    assert classics.squeezenet().SerializeToString() == classics.squeezenet().SerializeToString()


def test_classics_have_their_published_sizes() -> None:
    def parameters(model: onnx.ModelProto) -> int:
        return sum(int(np.prod(w.dims)) for w in model.graph.initializer if "running" not in w.name and w.dims)

    assert parameters(classics.mobilenetv2()) == 3_504_872
    assert parameters(classics.squeezenet()) == 1_235_496
    assert parameters(classics.resnet50()) == 25_557_032


def test_command_line_lists_and_reports_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "fashion-cnn" in capsys.readouterr().out
    assert main(["fetch", "nothing"]) == 2
    assert "no such model" in capsys.readouterr().err
    assert main(["evaluate", "fashion-cnn", "--n", "64"]) == 0
    assert "top-1: 0." in capsys.readouterr().out
    assert main(["evaluate", "resnet50"]) == 2
