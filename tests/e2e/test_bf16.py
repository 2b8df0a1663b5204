"""--bf16 from end to end: whole models on tiles and by dot products, the command line, targets that refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import optc
import pytest
from onnx import ModelProto, helper
from optc.backends.runtime.host import host_features
from small_models import Cli, make_model

needs_bf16 = pytest.mark.skipif("avx512bf16" not in host_features(), reason="this processor has no AVX512-BF16")
MODEL = Path(optc.__file__).parent / "models" / "fashion_cnn.onnx"


def image_model() -> ModelProto:
    """A strided convolution of RGB, a depthwise one, a residual, a concatenation, pools and a Gemm."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    held = {
        "w0": weights(24, 3, 3, 3), "b0": weights(24), "w1": weights(24, 1, 3, 3), "w2": weights(24, 24, 1, 1),
        "w3": weights(10, 48), "b3": weights(10),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["c"], group=24, pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["d"]),
        node("Conv", ["d", "w2"], ["e"]),
        node("Add", ["e", "b"], ["f"]),
        node("MaxPool", ["f"], ["g"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["f"], ["h"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["g", "h"], ["i"], axis=1),
        node("GlobalAveragePool", ["i"], ["j"]),
        node("Flatten", ["j"], ["k"]),
        node("Gemm", ["k", "w3", "b3"], ["y"], transB=1),
    ]
    return make_model(nodes, held, ["N", 3, 30, 30])


def text_model() -> ModelProto:
    """A normalised row through two products with a Gelu between them, and a residual."""
    rng = np.random.default_rng(1)
    held = {
        "s": rng.standard_normal(48).astype(np.float32),
        "w0": (rng.standard_normal((48, 96)) / 7).astype(np.float32),
        "w1": (rng.standard_normal((96, 48)) / 10).astype(np.float32),
        "half": np.float32(0.5), "one": np.float32(1), "root": np.float32(np.sqrt(0.5)),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "s"], ["a"]),
        node("MatMul", ["a", "w0"], ["b"]),
        node("Mul", ["b", "root"], ["c"]),
        node("Erf", ["c"], ["d"]),
        node("Add", ["d", "one"], ["e"]),
        node("Mul", ["b", "e"], ["f"]),
        node("Mul", ["f", "half"], ["g"]),
        node("MatMul", ["g", "w1"], ["h"]),
        node("Add", ["h", "a"], ["i"]),
        node("LayerNormalization", ["i", "s"], ["y"]),
    ]
    return make_model(nodes, held, ["N", "S", 48])


CASES = {"image": (image_model, [(1, 3, 30, 30), (3, 3, 30, 30)]), "text": (text_model, [(2, 20, 48)])}


@needs_bf16
@pytest.mark.parametrize("target", ["cpu", "cpu:cooperlake"])
@pytest.mark.parametrize("name", CASES)
def test_models_stay_within_bf16_of_float(name: str, target: str) -> None:
    make, shapes = CASES[name]
    proto = make()
    model = optc.compile(proto, target=target, bf16=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for shape in shapes:
        x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        (y,), (expected,) = model.run({"x": x}).values(), session.run(None, {"x": x})
        assert y.dtype == expected.dtype
        # Some ten roundings of 2^-9 on the way.
        assert np.linalg.norm(y - expected) < 2.0**-6 * np.linalg.norm(expected)


@needs_bf16
def test_the_command_line_and_verify(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(MODEL, "--bf16", "-o", tmp_path / "f.optc", "--json")
    assert code == 0, err
    assert json.loads(out)["nodes_before"] > 0
    code, out, err = cli("verify", tmp_path / "f.optc", MODEL)
    assert code == 0, err
    assert "ok" in out


def test_a_target_without_bf16_says_which_have_it(cli: Cli, tmp_path: Path, small: Path) -> None:
    code, _, err = cli(small, "--bf16", "--target", "cpu:x86-64-v3", "-o", tmp_path / "s.optc")
    assert code == 4
    assert "cpu:cooperlake" in err
    assert "cpu:sapphirerapids" in err


def test_equal_options_give_equal_bytes(cli: Cli, tmp_path: Path, small: Path) -> None:
    for name in ("a", "b"):
        code = cli(small, "--bf16", "--target", "cpu:cooperlake", "-o", tmp_path / name, "--quiet", "--no-cache")[0]
        assert code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
