"""int8 from data to artifact, as a user asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import optc
import pytest
from optc import models
from small_models import Cli

MODEL = Path(optc.__file__).parent / "models" / "fashion_cnn.onnx"


def images(split: str, count: int) -> list[dict[str, np.ndarray]]:
    return list(models.get("fashion-cnn").samples(split, count))  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, image=np.concatenate([s["image"] for s in images("calibration", 40)]))
    return path


def agreement(run: object, count: int = 200) -> float:
    """How often the class is the float model's."""
    session = onnxruntime.InferenceSession(MODEL)
    same = [
        np.argmax(run({"image": s["image"]})["logits"]) == np.argmax(session.run(None, s)[0])  # type: ignore[operator]
        for s in images("test", count)
    ]
    return float(np.mean(same))


def test_from_python() -> None:
    model = optc.compile(MODEL, int8=True, calibration=images("calibration", 40), cache=False)
    assert agreement(model.run) > 0.98
    assert "40 samples" in model.summary()


def test_samples_of_another_size_than_the_compiled_one() -> None:
    """Calibration sees the free batch dim, whatever is fixed afterwards."""
    batches = [{"image": np.concatenate([s["image"] for s in images("calibration", 8)])}]
    model = optc.compile(MODEL, int8=True, calibration=batches, shapes={"image": (1, 1, 28, 28)}, cache=False)
    assert model.inputs[0].shape == (1, 1, 28, 28)
    assert agreement(model.run, 50) > 0.9


def test_without_data_it_says_so_loudly(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(MODEL, "--int8", "-o", tmp_path / "f.optc")
    assert code == 0, err
    assert "UNCHECKED" in out


def test_the_same_data_gives_the_same_bytes(cli: Cli, tmp_path: Path, data: Path) -> None:
    for name in ("a", "b"):
        assert cli(MODEL, "--int8", "--calib", data, "-o", tmp_path / name, "--quiet", "--no-cache")[0] == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_quantize_writes_what_the_artifact_computes(cli: Cli, tmp_path: Path, data: Path) -> None:
    q, art = tmp_path / "q.onnx", tmp_path / "f.optc"
    code, out, err = cli("quantize", MODEL, "--calib", data, "-o", q, "--json")
    assert code == 0, err
    assert json.loads(out)["bytes"] == q.stat().st_size < MODEL.stat().st_size * 0.4
    onnx.checker.check_model(q, full_check=True)
    assert cli(MODEL, "--int8", "--calib", data, "-o", art, "--quiet")[0] == 0
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session, model = onnxruntime.InferenceSession(q, options), optc.load(art)
    for sample in images("test", 20):
        expected = session.run(None, sample)[0]
        np.testing.assert_allclose(model(sample["image"]), expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("picture", np.zeros((4, 1, 28, 28), np.float32), "image"),
        ("image", np.zeros((4, 3, 28, 28), np.float32), "shape"),
        ("image", np.zeros((4, 1, 28, 28), np.int64), "i64"),
        ("image", np.full((4, 1, 28, 28), np.nan, np.float32), "NaN"),
        ("image", np.zeros((0, 1, 28, 28), np.float32), "sample"),
    ],
)
def test_bad_data(cli: Cli, tmp_path: Path, name: str, array: np.ndarray, words: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: array})
    code, _, err = cli(MODEL, "--int8", "--calib", path, "-o", tmp_path / "f.optc")
    assert code == 3
    assert words in err
    assert not (tmp_path / "f.optc").exists()


def test_data_without_int8(cli: Cli, tmp_path: Path, data: Path) -> None:
    code, _, err = cli(MODEL, "--calib", data, "-o", tmp_path / "f.optc")
    assert code == 2
    assert "--int8" in err


@pytest.mark.parametrize("budget", ["lots", "150%", "-1%"])
def test_a_budget_that_is_none(cli: Cli, tmp_path: Path, budget: str) -> None:
    assert cli(MODEL, "--int8", "--accuracy-budget", budget, "-o", tmp_path / "f.optc")[0] == 2


def test_weights_alone(cli: Cli, tmp_path: Path, matmul_model: Path) -> None:
    """Weights of 4 bits, activations in float: in the artifact, and in the ONNX that `quantize` writes."""
    art, q = tmp_path / "w.optc", tmp_path / "w.onnx"
    assert cli(matmul_model, "--weights", "int4:min=100", "-o", art, "--quiet")[0] == 0
    assert cli("quantize", matmul_model, "--weights", "int4:min=100", "-o", q, "--quiet")[0] == 0
    assert q.stat().st_size < matmul_model.stat().st_size / 4
    x = np.random.default_rng(0).standard_normal((5, 256)).astype(np.float32)
    got, exact = optc.load(art)(x), onnxruntime.InferenceSession(matmul_model).run(None, {"x": x})[0]
    assert 0.001 < np.linalg.norm(got - exact) / np.linalg.norm(exact) < 0.2
    np.testing.assert_allclose(got, onnxruntime.InferenceSession(q).run(None, {"x": x})[0], atol=1e-3)


def test_weights_in_an_unknown_format(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli(MODEL, "--weights", "int99", "-o", tmp_path / "w.optc")
    assert code == 2
    assert "int99" in err


@pytest.fixture
def matmul_model(tmp_path: Path) -> Path:
    weights = np.random.default_rng(1).standard_normal((256, 192)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 256])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 192])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "product.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_the_manifest_says_what_int8_did(cli: Cli, tmp_path: Path, data: Path) -> None:
    art = tmp_path / "f.optc"
    code, out, err = cli(MODEL, "--int8", "--calib", data, "--accuracy-budget", "10%", "-o", art)
    assert code == 0, err
    assert "budget: 10.00%" in out
    told = optc.load(art).manifest["quantization"]
    assert told["budget"]["holds"]
    assert told["outputs"] == {"logits": "logits"}
    assert set(told["layers"][0]) >= {"layer", "snr_db", "alone_db", "cause", "fix", "gain_db"}
    assert told["outputs_db"]["logits"] > 20


def test_verify_explains_and_judges(cli: Cli, tmp_path: Path, data: Path) -> None:
    art, q = tmp_path / "f.optc", tmp_path / "q.onnx"
    assert cli(MODEL, "--int8", "--calib", data, "--accuracy-budget", "10%", "-o", art, "--quiet")[0] == 0
    code, out, err = cli("verify", art, MODEL, "--data", data)
    assert code == 0, err
    assert "accuracy budget 10.00%: holds" in out
    assert "dB alone" in out
    code, out, err = cli("verify", art, MODEL, "--json")
    assert code == 0, err
    assert json.loads(out)["layers"][0]["cause"]
    assert cli("quantize", MODEL, "--calib", data, "--accuracy-budget", "10%", "-o", q, "--quiet")[0] == 0
    code, out, err = cli("verify", art, q, "--data", data)
    assert code == 0, err
    assert "against the quantized model" in out


def test_verify_fails_on_another_model(cli: Cli, tmp_path: Path, data: Path) -> None:
    """The sign of the last layer's weights: every output is all wrong."""
    art, other = tmp_path / "f.optc", tmp_path / "other.onnx"
    assert cli(MODEL, "--int8", "--calib", data, "-o", art, "--quiet")[0] == 0
    model = onnx.load(MODEL)
    last = next(n for n in model.graph.node if "logits" in n.output)
    model.graph.node.append(onnx.helper.make_node("Neg", ["negative"], ["logits"]))
    last.output[0] = "negative"
    onnx.save(model, other)
    code, _, err = cli("verify", art, other, "--data", data)
    assert code == 5
    assert "all wrong" in err
