"""optc.backends.runtime.native: the C interface itself, without what Model adds."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from optc.backends.runtime.artifact import read_artifact
from optc.backends.runtime.model import Model, load
from optc.backends.runtime.native import OK, RUNTIME, STRUCT_IS_KNOWN, Context, Library, Tensor
from optc.compiler.errors import ArtifactError, ShapeError

Built = Callable[[str], Path]


@pytest.fixture
def library(artifact: Built) -> Library:
    return Library(read_artifact(artifact("parallel")).code)


def test_numpys_struct_is_known_here() -> None:
    assert STRUCT_IS_KNOWN


def test_results_are_the_same_without_the_fast_path(artifact: Built) -> None:
    model, x = load(artifact("chain")), np.random.default_rng(0).random((4, 5), np.float32)
    expected = model(x, x)
    assert np.array_equal(model(x, x), expected)
    model._fast = None
    assert np.array_equal(model(x, x), expected)


def test_threads_that_enter_one_context_wait_for_each_other(library: Library) -> None:
    context, failures = Context(library, memoryview(b""), 2), []

    def work(size: int) -> None:
        x = np.arange(size, dtype=np.float32)
        for _ in range(100):
            inputs, outputs = (Tensor * 1)(), (Tensor * 3)()
            inputs[0].fill(1, x.shape, x.ctypes.data)
            status = library.run(context.handle, inputs, outputs)
            y = np.ctypeslib.as_array(ctypes.cast(outputs[0].data, ctypes.POINTER(ctypes.c_float)), x.shape)
            if status != OK or not np.array_equal(y, x * x):
                failures.append(size)
            for output in outputs:
                library.free(output.data)

    workers = [threading.Thread(target=work, args=(size,)) for size in (10, 100, 1000)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_a_failed_run_gives_no_outputs(library: Library) -> None:
    context, x = Context(library, memoryview(b""), 1), np.float32([-1])
    inputs, outputs = (Tensor * 1)(), (Tensor * 3)()
    inputs[0].fill(1, (1,), x.ctypes.data)
    assert library.run(context.handle, inputs, outputs) == RUNTIME
    assert [output.data for output in outputs] == [None, None, None]
    assert library.error(context.handle) == b"x[0] is negative"


def test_weights_of_the_wrong_size_are_refused(artifact: Built) -> None:
    found = read_artifact(artifact("chain"))
    with pytest.raises(ShapeError, match="expected 68 bytes of weights, found 3"):
        Context(Library(found.code), memoryview(b"abc"), 1)


def test_code_that_is_no_library() -> None:
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        Library(memoryview(b"text"))


def test_another_abi(write: Callable[..., None], tmp_path: Path) -> None:
    write(tmp_path / "a.optc", "add", cflags=["-DABI=2"])
    with pytest.raises(ArtifactError, match=r"another ABI .*expected 1, found 2"):
        load(tmp_path / "a.optc")


def test_models_give_back_their_files_and_memory(artifact: Built) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    def use() -> None:
        model: Model = load(artifact("parallel"), threads=2)
        model(np.ones(10, np.float32))

    use()
    before, threads = open_files(), len(os.listdir("/proc/self/task"))
    for _ in range(20):
        use()
    assert open_files() == before
    assert len(os.listdir("/proc/self/task")) == threads
