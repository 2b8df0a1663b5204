"""Calibration data as a user names it: three layouts, read lazily and again, and errors that name the file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import graph_of
from onnx import numpy_helper
from optc.backends.runtime.model import Port
from optc.compiler.errors import CalibrationError
from optc.tools.data import open_data, ports_of, read_samples

IMAGE = Port("x", "float32", ("N", 3, 4))
SCALE = Port("s", "float32", ())


def images(count: int) -> np.ndarray:
    return np.arange(count * 12, dtype=np.float32).reshape(count, 3, 4)


def test_a_stack_gives_a_sample_a_row_with_the_batch_dim_put_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(5))
    data = open_data(tmp_path / "d.npz", [IMAGE])
    assert len(data) == 5
    for index, sample in enumerate(data):
        np.testing.assert_array_equal(sample["x"], images(5)[index][None])


def test_data_is_read_anew_each_time(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(2))
    data = open_data(tmp_path / "d.npz", [IMAGE])
    assert [s["x"].tolist() for s in data] == [s["x"].tolist() for s in data]


def test_a_stack_with_a_batch_dim_of_its_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(6).reshape(3, 2, 3, 4))
    assert [s["x"].shape for s in open_data(tmp_path / "d.npz", [IMAGE])] == [(2, 3, 4)] * 3


def test_a_compressed_stack_and_one_in_fortran_order(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "c.npz", x=images(4))
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(images(4)))
    for name in ("c.npz", "f.npz"):
        read = np.concatenate([s["x"] for s in open_data(tmp_path / name, [IMAGE])])
        np.testing.assert_array_equal(read, images(4))


def test_a_scalar_is_the_same_for_every_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(3), s=np.float32(7))
    assert [float(s["s"]) for s in open_data(tmp_path / "d.npz", [IMAGE, SCALE])] == [7, 7, 7]


def test_one_unnamed_array_is_the_only_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images(2))
    assert len(list(open_data(tmp_path / "d.npz", [IMAGE]))) == 2


def test_input_names_with_slashes_and_dots(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **{"serving/x.1:0": images(2)})
    (first, _) = open_data(tmp_path / "d.npz", [Port("serving/x.1:0", "float32", ("N", 3, 4))])
    assert first["serving/x.1:0"].shape == (1, 3, 4)


def test_a_stack_larger_than_memory_is_read_row_by_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((64, 1 << 18), np.float32))
    data = open_data(tmp_path / "d.npz", [Port("x", "float32", ("N", 1 << 18))])
    tracemalloc.start()
    total = sum(sample["x"].shape[0] for sample in data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64
    assert peak < 8 << 20  # of 64 MB


def test_a_folder_of_files_holds_a_sample_each(tmp_path: Path) -> None:
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", x=images(index + 1), s=np.float32(index))
    read = list(open_data(tmp_path, [IMAGE, SCALE]))
    assert [s["x"].shape[0] for s in read] == [1, 2, 3]
    assert open_data(tmp_path, [IMAGE]).origin(2) == tmp_path / "2.npz"
    assert [float(s["s"]) for s in read] == [0, 1, 2]


def write_set(folder: Path, *arrays: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for index, array in enumerate(arrays):
        (folder / f"input_{index}.pb").write_bytes(numpy_helper.from_array(array).SerializeToString())


def test_onnx_test_data_sets_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_set(tmp_path / f"test_data_set_{number}", images(1), np.array(number, np.float32))
    assert [float(s["s"]) for s in open_data(tmp_path, [IMAGE, SCALE])] == [0, 2, 10]
    assert len(open_data(tmp_path / "test_data_set_2", [IMAGE, SCALE])) == 1


def test_the_key_follows_content_and_names(tmp_path: Path) -> None:
    def key(name: str, count: int) -> str:
        np.savez(tmp_path / name, x=images(count))
        return open_data(tmp_path / name, [IMAGE]).key

    assert len({key("a.npz", 2), key("a.npz", 3), key("b.npz", 3)}) == 3
    assert open_data(tmp_path / "b.npz", [IMAGE]).key == open_data(tmp_path / "b.npz", [IMAGE]).key


def test_ports_of_a_graph() -> None:
    graph = graph_of("graph g(%x: f32[N, 3], %m: bool[2*N]) {\n  %y = Relu(%x)\n  return %y\n}")
    assert ports_of(graph) == [Port("x", "float32", ("N", 3)), Port("m", "bool", ("2*N",))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "neither"),
        (lambda p: p.write_bytes(b"no zip"), "not an .npz"),
        (lambda p: np.savez(p.open("wb"), other=images(2), more=images(2)), "no array for input x"),
        (lambda p: np.savez(p.open("wb"), x=np.array(["a", None], object)), "Python objects"),
        (lambda p: write_set(p, np.zeros(1, np.float32)) or (p / "input_0.pb").write_bytes(b"\xff"), "not a tensor"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "data.npz"
    make(path)  # type: ignore[operator]
    with pytest.raises(CalibrationError, match=message) as error:
        list(open_data(path, [IMAGE]))
    assert error.value.node is not None
    assert error.value.node.startswith(str(path))


def test_stacks_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(3), z=images(4))
    with pytest.raises(CalibrationError, match="different numbers"):
        list(open_data(tmp_path / "d.npz", [IMAGE, Port("z", "float32", ("N", 3, 4))]))


def test_a_test_data_set_without_an_input_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "test_data_set_0", images(1))
    with pytest.raises(CalibrationError, match="lacks an input") as error:
        list(open_data(tmp_path, [IMAGE, SCALE]))
    assert error.value.expected == "input_1.pb"


def test_read_samples_checks_dtype_and_shape(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(2).astype(np.float64))
    with pytest.raises(CalibrationError, match="does not fit"):
        list(read_samples(tmp_path / "d.npz", [IMAGE]))
    np.savez(tmp_path / "d.npz", x=images(2))
    assert len(list(read_samples(tmp_path / "d.npz", [IMAGE]))) == 2
