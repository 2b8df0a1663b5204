"""Movement, gathering, generating, resizing and sampling definitions against onnx.reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from optc.compiler.ir import Graph
from optc.compiler.types import DType, TensorType

from .harness import check_node, node_of, run_node

RNG = np.random.default_rng(2)
X = RNG.standard_normal((3, 4, 5)).astype(np.float32)
IMAGE = RNG.standard_normal((1, 2, 6, 8)).astype(np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
def test_transpose(perm: tuple[int, ...]) -> None:
    check_node("Transpose", [X], {"perm": list(perm)})


@pytest.mark.parametrize("shape", [(12, 5), (3, 20), (60,), (5, 4, 3), (2, 30), (3, 2, 2, 5)])
def test_reshape_as_index_math(shape: tuple[int, ...]) -> None:
    check_node("Reshape", [X, i64(*shape)], constant=[1], group=True)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((1,), (3,), (1,), (1,)),
        ((-2, 0), (100, 3), (2, 0), (1, 2)),
        ((3,), (-100,), (1,), (-1,)),
        ((-1, 4), (0, 0), (0, 2), (-1, -2)),
    ],
)
def test_slice(starts: tuple, ends: tuple, axes: tuple, steps: tuple) -> None:
    check_node("Slice", [X, i64(*starts), i64(*ends), i64(*axes), i64(*steps)], constant=[1, 2, 3, 4])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis: int) -> None:
    check_node("Concat", [X, X * 2, X * 3], {"axis": axis})


def test_split() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, X.shape))
    parts = graph.emit("Split", [x, graph.constant(i64(1, 3))], {"axis": 1}, num_outputs=2)
    got = run_node(parts, [X, i64(1, 3)])
    np.testing.assert_array_equal(got[0], X[:, :1])
    np.testing.assert_array_equal(got[1], X[:, 1:])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(mode: str) -> None:
    check_node("Pad", [X, i64(1, 0, 2, 0, 3, 1)], {"mode": mode}, constant=[1])


def test_negative_pads_crop() -> None:
    arrays = [X, i64(-1, 0, 2, 0, -1, 0), np.float32(7)]
    (y,) = run_node(node_of("Pad", arrays, {}, [1]), arrays)
    np.testing.assert_array_equal(y, np.pad(X[1:, :3], ((0, 0), (0, 0), (2, 0)), constant_values=7))


def test_expand_and_tile() -> None:
    check_node("Expand", [X[:, :1], i64(2, 3, 4, 5)], constant=[1])
    check_node("Tile", [X, i64(2, 1, 3)], constant=[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_gather_with_negative_indices(axis: int, shape: tuple[int, ...]) -> None:
    check_node("Gather", [X, RNG.integers(-3, 3, shape)], {"axis": axis})


@pytest.mark.parametrize("axis", [0, 1])
def test_gather_elements(axis: int) -> None:
    check_node("GatherElements", [X, RNG.integers(-3, 3, (2, 4, 5) if axis == 0 else (3, 2, 5))], {"axis": axis})


@pytest.mark.parametrize("batch", [0, 1])
def test_gather_nd(batch: int) -> None:
    check_node("GatherND", [X, RNG.integers(-3, 3, (3, 2, 1))], {"batch_dims": batch})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    check_node("DepthToSpace", [RNG.standard_normal((1, 8, 2, 3)).astype("f4")], {"blocksize": 2, "mode": mode})


def test_space_to_depth() -> None:
    check_node("SpaceToDepth", [IMAGE], {"blocksize": 2})


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [-1, 0, 2])
def test_trilu(upper: int, k: int) -> None:
    check_node("Trilu", [X, np.int64(k)], {"upper": upper})


def test_one_hot() -> None:
    check_node("OneHot", [i64(0, -1, 2), np.int64(3), np.float32([2, 5])], {"axis": 0}, constant=[1])


def test_range() -> None:
    check_node("Range", [np.float32(1), np.float32(9), np.float32(2)], constant=[0, 1, 2])


def test_reverse_sequence() -> None:
    check_node("ReverseSequence", [X[:, :, 0].copy(), i64(1, 2, 3, 1)], {"time_axis": 0, "batch_axis": 1})


@pytest.mark.parametrize(
    "place", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]
)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 0.6, 1.7)])
def test_resize(scales: tuple, mode: str, place: str) -> None:
    attrs = {"mode": mode, "coordinate_transformation_mode": place}
    check_node("Resize", [IMAGE, None, np.float32(scales)], attrs, constant=[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_with_antialias(mode: str) -> None:
    attrs = {"mode": mode, "antialias": 1}
    check_node("Resize", [IMAGE, None, np.float32([1, 1, 0.5, 0.6])], attrs, constant=[2], rtol=1e-4, atol=1e-5)


def test_resize_to_sizes_crops_a_region() -> None:
    attrs = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    roi = np.float32([0, 0, 0.2, 0.1, 1, 1, 1.2, 0.8])
    check_node("Resize", [IMAGE, roi, None, i64(1, 2, 5, 4)], attrs, constant=[1, 3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample(mode: str, padding: str, corners: int) -> None:
    grid = RNG.uniform(-1.3, 1.3, (1, 3, 4, 2)).astype(np.float32)
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    check_node("GridSample", [IMAGE, grid], attrs, rtol=1e-4, atol=1e-5)


def test_affine_grid() -> None:
    theta = RNG.standard_normal((2, 2, 3)).astype(np.float32)
    check_node("AffineGrid", [theta, i64(2, 3, 4, 5)], constant=[1], rtol=1e-4, atol=1e-5)


def test_col2im() -> None:
    x = RNG.standard_normal((1, 5, 10)).astype(np.float32)
    check_node("Col2Im", [x, i64(5, 5), i64(1, 5)], {"pads": [0, 1, 0, 1], "strides": [1, 2]}, constant=[1, 2])
