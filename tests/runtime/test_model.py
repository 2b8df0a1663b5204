"""optc.backends.runtime.model: what a user may do with a loaded model."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from optc.backends.runtime.model import Port, load
from optc.compiler.errors import OptcError, ShapeError

Artifact = Callable[[str], Path]


def f32(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def chain(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 2 * (x + np.float32(10)) + y


# --- calling ---


def test_inputs_by_position_name_or_dict(artifact: Artifact) -> None:
    model = load(artifact("add"))
    x, y = f32(1, 8), f32(1, 8, seed=1)
    for found in (model(x, y), model(y=y, x=x), model(x, y=y), model.run({"y": y, "x": x})["z"]):
        np.testing.assert_array_equal(found, x + y)


def test_shapes_may_change_between_calls(artifact: Artifact) -> None:
    model = load(artifact("chain"))
    for shape in ((2, 3), (5, 7), (5, 7), (1, 1), (300, 40), (2, 3)):
        x, y = f32(*shape), f32(*shape, seed=1)
        np.testing.assert_array_equal(model(x, y), chain(x, y))


def test_zero_size_and_other_types(artifact: Artifact) -> None:
    assert load(artifact("chain"))(f32(0, 4), f32(0, 4)).shape == (0, 4)
    half = np.array(0.5, ml_dtypes.bfloat16)
    c, d, f = load(artifact("types"))(np.float16([1, 2]), np.zeros((0, 3), bool), half)
    assert c.dtype == np.float16
    assert c.tolist() == [1, 2]
    assert (d.dtype, d.shape) == (np.bool_, (0, 3))
    assert (f.dtype, f.shape, float(f)) == (ml_dtypes.bfloat16, (), 0.5)


def test_data_dependent_and_scalar_outputs(artifact: Artifact) -> None:
    model = load(artifact("nonzero"))
    for x in (np.float32([0, 3, 0, 5]), np.zeros(4, np.float32), np.zeros(0, np.float32)):
        indices, total = model(x)
        np.testing.assert_array_equal(indices, np.flatnonzero(x))
        assert total.shape == ()
        assert total == len(indices)


def test_output_memory_outlives_the_model(artifact: Artifact) -> None:
    model = load(artifact("nonzero"))
    indices, _ = model(np.ones(1000, np.float32))
    del model
    gc.collect()
    np.testing.assert_array_equal(indices, np.arange(1000))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
        lambda x: x.tolist(),
        lambda x: x.view(type("Subclass", (np.ndarray,), {})),
    ],
    ids=["fortran", "strided", "unaligned", "list", "subclass"],
)
def test_unusual_arrays_are_converted(artifact: Artifact, make: Callable[[np.ndarray], object]) -> None:
    x, y = f32(3, 4), f32(3, 4, seed=1)
    np.testing.assert_array_equal(load(artifact("chain"))(make(x), y), chain(x, y))


def test_read_only_input(artifact: Artifact) -> None:
    x = f32(1, 8)
    x.flags.writeable = False
    np.testing.assert_array_equal(load(artifact("add"))(x, x), x + x)


def test_dlpack_producers(artifact: Artifact) -> None:
    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: object) -> object:
            return self.array.__dlpack__(**options)  # type: ignore[arg-type]

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    x = f32(1, 8)
    np.testing.assert_array_equal(load(artifact("add"))(Tensor(x), x), x + x)


def test_out_receives_the_result(artifact: Artifact) -> None:
    model, x = load(artifact("add")), f32(1, 8)
    z = np.empty((1, 8), np.float32)
    assert model(x, x, out={"z": z}) is z
    np.testing.assert_array_equal(z, x + x)
    indices = np.empty(2, np.int64)
    load(artifact("nonzero")).run({"x": np.float32([0, 1, 1])}, out={"indices": indices})
    assert indices.tolist() == [1, 2]


# --- what does not fit ---


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.zeros((1, 8)), f32(1, 8)), r"x: .*expected float32\[1, 8\], found float64\[1, 8\]"),
        ((f32(1, 8), f32(8)), r"y: .*expected float32\[1, 8\], found float32\[8\]"),
        ((f32(1, 8), f32(2, 8)), r"y: .*expected float32\[1, 8\], found float32\[2, 8\]"),
        ((f32(1, 8),), "missing y"),
        ((f32(1, 8), f32(1, 8), f32(1, 8)), "3 are given by position"),
        (("text", f32(1, 8)), "x: not an array"),
    ],
    ids=["dtype", "rank", "shape", "missing", "too many", "text"],
)
def test_a_wrong_input_is_named(artifact: Artifact, args: tuple[object, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        load(artifact("add"))(*args)


def test_unknown_names(artifact: Artifact) -> None:
    model, x = load(artifact("add")), f32(1, 8)
    with pytest.raises(ShapeError, match="missing y; unknown q"):
        model.run({"x": x, "q": x})
    with pytest.raises(ShapeError, match="given twice x"):
        model(x, x=x, y=x)
    with pytest.raises(ShapeError, match="no output: q"):
        model(x, x, out={"q": x})


def test_contradicting_dims(artifact: Artifact) -> None:
    model = load(artifact("chain"))
    with pytest.raises(ShapeError, match='"y": expected M = 3 as in "x", found 4'):
        model(f32(2, 3), f32(2, 4))
    np.testing.assert_array_equal(model(f32(2, 3), f32(2, 3)), chain(f32(2, 3), f32(2, 3)))


def test_a_wrong_out_array(artifact: Artifact) -> None:
    model, x = load(artifact("add")), f32(1, 8)
    for wrong in (np.empty((1, 8)), np.empty((2, 8), np.float32), np.empty((8, 2), np.float32).T[:1]):
        with pytest.raises(ShapeError, match="z"):
            model(x, x, out={"z": wrong})


def test_a_failing_node_leaves_the_model_usable(artifact: Artifact) -> None:
    model = load(artifact("nonzero"))
    with pytest.raises(OptcError, match=r"x\[1\] is negative"):
        model(np.float32([1, -1]))
    assert model(np.float32([1, 1]))[1] == 2


# --- facts ---


def test_ports_summary_and_repr(artifact: Artifact) -> None:
    model = load(artifact("chain"))
    assert model.inputs == [Port("x", "float32", ("N", "M")), Port("y", "float32", ("N", "M"))]
    assert model.outputs == [Port("z", "float32", ("N", "M"))]
    assert model.summary() == "the program chain"
    assert "z: float32[N, M]" in repr(model)


def test_threads(artifact: Artifact) -> None:
    assert load(artifact("add"), threads=3).threads == 3
    assert load(artifact("add")).threads >= 1
    with pytest.raises(ValueError, match="at least 1"):
        load(artifact("add"), threads=0)


def test_workspace_shares_memory_of_disjoint_lifetimes(artifact: Artifact) -> None:
    model = load(artifact("chain"))
    assert model.workspace_bytes({"x": (16, 4), "y": (16, 4)}) == 2 * 16 * 4 * 4
    with pytest.raises(ShapeError, match="expected M"):
        model.workspace_bytes({"x": (1, 2), "y": (1, 3)})
    assert load(artifact("add")).workspace_bytes() == 0


def test_profile_names_every_step(artifact: Artifact) -> None:
    steps = load(artifact("chain")).profile(f32(100, 100), f32(100, 100), repeat=3)
    assert [step.name for step in steps] == ["copy", "add", "double", "sum"]
    assert all(step.milliseconds > 0 for step in steps)


def test_save_writes_the_same_bytes(artifact: Artifact, tmp_path: Path) -> None:
    load(artifact("chain")).save(tmp_path / "copy.optc")
    assert (tmp_path / "copy.optc").read_bytes() == artifact("chain").read_bytes()


# --- several at once ---


def test_threads_share_one_model(artifact: Artifact) -> None:
    model, failures = load(artifact("chain"), threads=2), []

    def work(seed: int) -> None:
        for step in range(100):
            x, y = f32(1 + seed, 1 + step % 5, seed=seed), f32(1 + seed, 1 + step % 5, seed=step)
            if not np.array_equal(model(x, y), chain(x, y)):
                failures.append((seed, step))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_models_do_not_meet(artifact: Artifact) -> None:
    models = [load(artifact(name)) for name in ("add", "chain", "add", "nonzero")]
    x = f32(1, 8)
    np.testing.assert_array_equal(models[1](x, x), chain(x, x))
    for model in (models[0], models[2]):
        np.testing.assert_array_equal(model(x, x), x + x)
    del models[0], model
    gc.collect()
    np.testing.assert_array_equal(models[1](x, x), x + x)


# --- parallel steps ---


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parallel_steps(artifact: Artifact, threads: int) -> None:
    model = load(artifact("parallel"), threads=threads)
    x = f32(1000)
    for _ in range(50):
        y, seen, nested = model(x)
        np.testing.assert_array_equal(y, x * x)
        assert seen == threads
        assert nested == 6 * (0 + 1 + 2 + 3 + 4)


def test_a_failing_task_ends_the_job(artifact: Artifact) -> None:
    model = load(artifact("parallel"), threads=3)
    for at in (0, 500, 999):
        x = f32(1000)
        x[at] = -1
        with pytest.raises(OptcError, match=rf"x\[{at}\] is negative"):
            model(x)
        assert model(f32(1000))[1] == 3


def test_a_forked_child_starts_its_own_workers(artifact: Artifact) -> None:
    script = """
import os, sys
import numpy as np
from optc.backends.runtime.model import load

model = load(sys.argv[1], threads=3)
x = np.ones(10, np.float32)
assert model(x)[1] == 3
child = os.fork()
assert model(x)[1] == 3
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", script, artifact("parallel")], check=True, timeout=60)


# --- a clean environment ---


def test_runs_with_numpy_alone(artifact: Artifact) -> None:
    script = """
import sys

FORBIDDEN = "tvm tvm_ffi onnx onnxruntime ml_dtypes sympy networkx rich typer".split()

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Forbid())
import numpy as np
from optc.backends.runtime.model import load

x = np.ones((2, 3), np.float32)
assert (load(sys.argv[1])(x, x) == 23).all()
"""
    subprocess.run([sys.executable, "-c", script, artifact("chain")], check=True, timeout=60)
