"""The host side: what the runtime asks of the driver, and what it says where there is none."""

from __future__ import annotations

import ctypes
import gc
import shutil
from pathlib import Path

import numpy as np
import onnx
import optc
import pytest
from onnx import TensorProto, helper, numpy_helper
from optc.backends.cuda import build
from optc.compiler import driver
from optc.compiler.errors import OptcError
from optc.compiler.options import Options

from .emulation import emulated, fake_driver

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
WEIGHTS = np.random.default_rng(0).standard_normal((20, 12), dtype="float32")


@pytest.fixture(autouse=True)
def no_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fat binary of which the fake driver sees the magic only."""
    monkeypatch.setattr(build, "assemble", lambda source, architectures: (bytes.fromhex("50ed55ba") + bytes(60), []))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return product(tmp_path, "cuda:sm_80")


def product(tmp_path: Path, spec: str) -> Path:
    """y = relu(x @ WEIGHTS) for any number of rows."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 20])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 12])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(WEIGHTS, "w")])
    model, out = tmp_path / "m.onnx", tmp_path / "m.optc"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), model)
    driver.compile_to(model, out, Options(spec), cache=False)
    return out


def allocations() -> int:
    return int(ctypes.CDLL(str(fake_driver())).optc_fake_driver_allocations())


@pytest.mark.parametrize("rows", [1, 70])
def test_a_number_of_rows_known_only_at_run_time(artifact: Path, rows: int) -> None:
    x = np.random.default_rng(1).standard_normal((rows, 20), dtype="float32")
    with emulated(artifact):
        y = optc.load(artifact).run({"x": x})["y"]
    np.testing.assert_allclose(y, np.maximum(x @ WEIGHTS, 0), rtol=0, atol=1e-5)


def test_tf32_products_keep_eleven_bits(tmp_path: Path) -> None:
    artifact = product(tmp_path, "cuda:sm_80,+tf32")
    x = np.random.default_rng(1).standard_normal((4, 20), dtype="float32")
    with emulated(artifact):
        y = optc.load(artifact).run({"x": x})["y"]
    error = np.abs(y - np.maximum(x @ WEIGHTS, 0)).max()
    assert 1e-5 < error < 20 * 2**-10


def test_a_closed_model_leaves_nothing_in_the_devices_memory(artifact: Path) -> None:
    gc.collect()
    before = allocations()
    with emulated(artifact):
        model = optc.load(artifact)
        model.run({"x": np.zeros((3, 20), "float32")})
        assert allocations() > before
        del model
        gc.collect()
    assert allocations() == before


def test_without_a_driver_the_error_says_so(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTC_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    with pytest.raises(OptcError, match="no NVIDIA driver"):
        optc.load(artifact).run({"x": np.zeros((3, 20), "float32")})
