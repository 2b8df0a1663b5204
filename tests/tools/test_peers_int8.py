"""The peers' quantizers: one copy for the same model and samples, refusals that name the peer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from optc import OptcError
from optc.tools.peers import PEERS
from optc.tools.peers_int8 import INT8_PEERS, Int8Peer, int8_peer, is_transformer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """x [N, 16] times a matrix, through a Relu."""
    weight = np.random.default_rng(0).standard_normal((16, 8), dtype=np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["h"]), onnx.helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 16])],
        [onnx.helper.make_tensor_value_info("y", 1, ["N", 8])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = onnx.helper.make_opsetid("", 12)
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


SAMPLES = [{"x": np.random.default_rng(i).standard_normal((1, 16), dtype=np.float32)} for i in range(8)]


@pytest.mark.parametrize("name", list(INT8_PEERS))
def test_quantized_copies_run_and_resemble_the_float_model(name: str, model: Path, tmp_path: Path) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("nncf")
    peer = int8_peer(name)
    path = peer.quantized(model, SAMPLES, tmp_path / "peers")
    (found,) = peer.run(path, 1)(SAMPLES[0]).values()
    (expected,) = PEERS["onnxruntime"](model, 1)(SAMPLES[0]).values()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert (found != expected).any()


def test_models_before_opset_13_get_weights_per_channel(model: Path, tmp_path: Path) -> None:
    path = int8_peer("onnxruntime-int8-core").quantized(model, SAMPLES, tmp_path / "peers")
    proto = onnx.load(path)
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    per_channel = [n for n in proto.graph.node if n.op_type == "DequantizeLinear" and scales[n.input[1]].shape == (8,)]
    assert per_channel


def copying(calls: list[Path]) -> Int8Peer:
    def quantize(model: Path, samples: object, destination: Path) -> None:
        calls.append(destination)
        destination.write_bytes(model.read_bytes())

    return Int8Peer("copy", "a copy", (), ".onnx", quantize, PEERS["onnxruntime"])


def test_a_copy_is_made_once_for_the_same_samples(model: Path, tmp_path: Path) -> None:
    calls: list[Path] = []
    peer = copying(calls)
    first = peer.quantized(model, SAMPLES, tmp_path / "peers")
    assert peer.quantized(model, SAMPLES, tmp_path / "peers") == first
    assert peer.quantized(model, SAMPLES[:4], tmp_path / "peers") != first
    assert len(calls) == 2


def test_a_refusal_names_peer_and_model_and_is_not_asked_for_twice(model: Path, tmp_path: Path) -> None:
    calls = []

    def refuse(*_: object) -> None:
        calls.append(1)
        raise ValueError("traceback\nno such layer")

    peer = Int8Peer("picky", "", (), ".onnx", refuse, PEERS["onnxruntime"])
    for _ in range(2):
        with pytest.raises(OptcError, match=r"m\.onnx: picky cannot quantize the model: no such layer"):
            peer.quantized(model, SAMPLES, tmp_path / "peers")
    assert len(calls) == 1


def test_a_full_disk_is_no_refusal(model: Path, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    peer = Int8Peer("unlucky", "", (), ".onnx", fail, PEERS["onnxruntime"])
    with pytest.raises(OSError, match="no space left"):
        peer.quantized(model, SAMPLES, tmp_path / "peers")
    assert not list((tmp_path / "peers").iterdir())


def test_unknown_peers_are_answered_with_the_known_ones() -> None:
    with pytest.raises(OptcError, match="onnxruntime-int8 or"):
        int8_peer("nothing")


def test_attention_makes_a_transformer(model: Path, tmp_path: Path) -> None:
    assert not is_transformer(model)
    nodes = [onnx.helper.make_node("Softmax", ["s"], ["p"]), onnx.helper.make_node("MatMul", ["p", "v"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "t.onnx")
    assert is_transformer(tmp_path / "t.onnx")
