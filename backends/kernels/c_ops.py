"""C ops (kernels/c/): ops irregular by nature, and forms whose parameters are known only while running.

ADD A C OP: a function in a file of its family under c/, and a selector here that packs the attributes in the order
the function's comment gives. Every selector also accepts static forms; the program builder asks templates and index
definitions first. Where the form cannot be compiled at all (strings), the selector returns None.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from ...compiler.errors import ModelError
from ...compiler.ir import Node
from ...compiler.ops.base import attr_float, attr_int, attr_ints, attr_str
from ...compiler.types import DType
from ..base import CCall, c_op
from . import recurrent as recurrent  # registers LSTM, GRU, RNN


def _choice(node: Node, name: str, choices: Sequence[str], default: str | None = None) -> int:
    """The index of a string attribute in `choices`. Raises ModelError for any other string."""
    value = attr_str(node, name, choices[0] if default is None else default)
    if value not in choices:
        raise ModelError(f"{node.op}: bad {name}", node=node.name, expected=f"one of {', '.join(choices)}", found=value)
    return choices.index(value)


def _seed(node: Node) -> tuple[int, float]:
    """Whether the node has a seed, and the seed."""
    return int("seed" in node.attrs), attr_float(node, "seed", 0.0)


# --- shape.c -----------------------------------------------------------------------------------------------------


@c_op("Identity")
def identity(node: Node) -> CCall:
    return CCall("optc_op_identity", "shape.c")


@c_op("Reshape")
def reshape(node: Node) -> CCall:
    return CCall("optc_op_reshape", "shape.c", (attr_int(node, "allowzero", 0),))


@c_op("Flatten")
def flatten(node: Node) -> CCall:
    return CCall("optc_op_flatten", "shape.c", (attr_int(node, "axis", 1),))


@c_op("Squeeze", "Unsqueeze", "Expand", "Tile", "Size", "Cast", "CastLike")
def plain(node: Node) -> CCall | None:
    if DType.STRING in (node.operand(0).type.dtype, node.outputs[0].type.dtype):
        return None
    name = {"CastLike": "cast"}.get(node.op, node.op.lower())
    return CCall(f"optc_op_{name}", "shape.c")


@c_op("ConstantOfShape")
def constant_of_shape(node: Node) -> CCall:
    value = node.attrs.get("value")
    element = np.asarray(value).tobytes() if value is not None else b""
    return CCall("optc_op_constant_of_shape", "shape.c", struct.unpack("<2q", element[:16].ljust(16, b"\0")))


@c_op("Shape")
def shape(node: Node) -> CCall:
    return CCall("optc_op_shape", "shape.c", (attr_int(node, "start", 0), attr_int(node, "end", 2**31 - 1)))


@c_op("BitCast")
def bit_cast(node: Node) -> CCall | None:
    same = node.operand(0).type.dtype.itemsize == node.output.type.dtype.itemsize
    return CCall("optc_op_bit_cast", "shape.c") if same else None


# --- slice.c -----------------------------------------------------------------------------------------------------


@c_op("Slice")
def slice_(node: Node) -> CCall:
    return CCall("optc_op_slice", "slice.c")


@c_op("Pad")
def pad(node: Node) -> CCall:
    return CCall("optc_op_pad", "slice.c", (_choice(node, "mode", ("constant", "reflect", "edge", "wrap")),))


@c_op("Split")
def split(node: Node) -> CCall:
    return CCall("optc_op_split", "slice.c", (attr_int(node, "axis", 0),))


@c_op("Concat")
def concat(node: Node) -> CCall:
    return CCall("optc_op_concat", "slice.c", (attr_int(node, "axis", 0),))


@c_op("CenterCropPad")
def center_crop_pad(node: Node) -> CCall:
    axes = attr_ints(node, "axes")
    return CCall("optc_op_center_crop_pad", "slice.c", axes or tuple(range(node.operand(0).type.rank)))


@c_op("Trilu")
def trilu(node: Node) -> CCall:
    return CCall("optc_op_trilu", "slice.c", (attr_int(node, "upper", 1),))


@c_op("EyeLike")
def eye_like(node: Node) -> CCall:
    return CCall("optc_op_eye_like", "slice.c", (attr_int(node, "k", 0),))


@c_op("Range")
def range_(node: Node) -> CCall:
    return CCall("optc_op_range", "slice.c")


@c_op("ReverseSequence")
def reverse_sequence(node: Node) -> CCall:
    axes = (attr_int(node, "batch_axis", 1), attr_int(node, "time_axis", 0))
    return CCall("optc_op_reverse_sequence", "slice.c", axes)


@c_op("Transpose")
def transpose(node: Node) -> CCall:
    order = attr_ints(node, "perm") or tuple(reversed(range(node.operand(0).type.rank)))
    return CCall("optc_op_transpose", "slice.c", order)


# --- reduce.c ----------------------------------------------------------------------------------------------------

_REDUCTIONS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip


@c_op(*_REDUCTIONS)
def reduce(node: Node) -> CCall:
    axes = attr_ints(node, "axes") or ()
    keep, noop = attr_int(node, "keepdims", 1), attr_int(node, "noop_with_empty_axes", 0)
    return CCall("optc_op_reduce", "reduce.c", (_REDUCTIONS.index(node.op), keep, noop, len(axes), *axes))


@c_op("ArgMax", "ArgMin")
def arg_reduce(node: Node) -> CCall:
    options = (attr_int(node, "axis", 0), attr_int(node, "keepdims", 1), attr_int(node, "select_last_index", 0))
    return CCall("optc_op_arg_reduce", "reduce.c", (*options, int(node.op == "ArgMin")))


@c_op("CumSum", "CumProd")
def cumulate(node: Node) -> CCall:
    options = (attr_int(node, "exclusive", 0), attr_int(node, "reverse", 0), int(node.op == "CumProd"))
    return CCall("optc_op_cumulate", "reduce.c", options)


# --- gather.c ----------------------------------------------------------------------------------------------------

_COMBINE = ("none", "add", "mul", "max", "min")


@c_op("Gather")
def gather(node: Node) -> CCall:
    return CCall("optc_op_gather", "gather.c", (attr_int(node, "axis", 0),))


@c_op("GatherElements")
def gather_elements(node: Node) -> CCall:
    return CCall("optc_op_gather_elements", "gather.c", (attr_int(node, "axis", 0),))


@c_op("GatherND")
def gather_nd(node: Node) -> CCall:
    return CCall("optc_op_gather_nd", "gather.c", (attr_int(node, "batch_dims", 0),))


@c_op("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> CCall:
    options = (attr_int(node, "axis", 0), _choice(node, "reduction", _COMBINE))
    return CCall("optc_op_scatter_elements", "gather.c", options)


@c_op("ScatterND")
def scatter_nd(node: Node) -> CCall:
    return CCall("optc_op_scatter_nd", "gather.c", (_choice(node, "reduction", _COMBINE),))


@c_op("TensorScatter")
def tensor_scatter(node: Node) -> CCall:
    options = (attr_int(node, "axis", -2), _choice(node, "mode", ("linear", "circular")))
    return CCall("optc_op_tensor_scatter", "gather.c", options)


@c_op("OneHot")
def one_hot(node: Node) -> CCall:
    return CCall("optc_op_one_hot", "gather.c", (attr_int(node, "axis", -1),))


# --- select.c ----------------------------------------------------------------------------------------------------


@c_op("NonZero")
def non_zero(node: Node) -> CCall:
    return CCall("optc_op_non_zero", "select.c")


@c_op("Compress")
def compress(node: Node) -> CCall:
    return CCall("optc_op_compress", "select.c", (int("axis" in node.attrs), attr_int(node, "axis", 0)))


@c_op("Unique")
def unique(node: Node) -> CCall:
    axis = (int("axis" in node.attrs), attr_int(node, "axis", 0))
    return CCall("optc_op_unique", "select.c", (*axis, attr_int(node, "sorted", 1)))


@c_op("TopK")
def top_k(node: Node) -> CCall:
    options = (attr_int(node, "axis", -1), attr_int(node, "largest", 1), attr_int(node, "sorted", 1))
    return CCall("optc_op_top_k", "select.c", options)


@c_op("NonMaxSuppression")
def non_max_suppression(node: Node) -> CCall:
    return CCall("optc_op_non_max_suppression", "select.c", (attr_int(node, "center_point_box", 0),))


# --- resize.c ----------------------------------------------------------------------------------------------------

_COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
)  # fmt: skip
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@c_op("Resize")
def resize(node: Node) -> CCall:
    axes = attr_ints(node, "axes") or ()
    options = (
        _choice(node, "mode", ("nearest", "linear", "cubic")),
        _choice(node, "coordinate_transformation_mode", _COORDINATES),
        _choice(node, "nearest_mode", _ROUNDINGS),
        attr_int(node, "antialias", 0),
        attr_int(node, "exclude_outside", 0),
        _choice(node, "keep_aspect_ratio_policy", ("stretch", "not_larger", "not_smaller")),
        len(axes),
        *axes,
    )
    floats = (attr_float(node, "cubic_coeff_a", -0.75), attr_float(node, "extrapolation_value", 0.0))
    return CCall("optc_op_resize", "resize.c", options, floats)


# --- signal.c ----------------------------------------------------------------------------------------------------


@c_op("DFT")
def dft(node: Node) -> CCall:
    options = (attr_int(node, "inverse", 0), attr_int(node, "onesided", 0), attr_int(node, "axis", -2))
    return CCall("optc_op_dft", "signal.c", options)


@c_op("STFT")
def stft(node: Node) -> CCall:
    return CCall("optc_op_stft", "signal.c", (attr_int(node, "onesided", 1),))


_WINDOWS = {  # a - b cos(2 pi i / N) + c cos(4 pi i / N), the constants of the ONNX operators
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


@c_op(*_WINDOWS)
def window(node: Node) -> CCall:
    return CCall("optc_op_window", "signal.c", (attr_int(node, "periodic", 1),), _WINDOWS[node.op])


@c_op("MelWeightMatrix")
def mel_weight_matrix(node: Node) -> CCall:
    return CCall("optc_op_mel_weight_matrix", "signal.c")


# --- vision.c ----------------------------------------------------------------------------------------------------


@c_op("RoiAlign")
def roi_align(node: Node) -> CCall:
    options = (
        _choice(node, "coordinate_transformation_mode", ("output_half_pixel", "half_pixel"), "half_pixel"),
        _choice(node, "mode", ("avg", "max")),
        attr_int(node, "output_height", 1),
        attr_int(node, "output_width", 1),
        attr_int(node, "sampling_ratio", 0),
    )
    return CCall("optc_op_roi_align", "vision.c", options, (attr_float(node, "spatial_scale", 1.0),))


@c_op("MaxRoiPool")
def max_roi_pool(node: Node) -> CCall:
    pooled = attr_ints(node, "pooled_shape") or ()
    if len(pooled) != 2 or min(pooled) < 1:
        raise ModelError("MaxRoiPool: bad pooled_shape", node=node.name, expected="two positive numbers", found=pooled)
    return CCall("optc_op_max_roi_pool", "vision.c", pooled, (attr_float(node, "spatial_scale", 1.0),))


@c_op("MaxUnpool")
def max_unpool(node: Node) -> CCall:
    kernel = attr_ints(node, "kernel_shape") or ()
    n = len(kernel)
    strides, pads = attr_ints(node, "strides", (1,) * n) or (), attr_ints(node, "pads", (0,) * 2 * n) or ()
    return CCall("optc_op_max_unpool", "vision.c", (n, *kernel, *strides, *pads))


@c_op("Col2Im")
def col2im(node: Node) -> CCall:
    n = node.output.type.rank - 2
    strides, dilations = attr_ints(node, "strides", (1,) * n) or (), attr_ints(node, "dilations", (1,) * n) or ()
    pads = attr_ints(node, "pads", (0,) * 2 * n) or ()
    return CCall("optc_op_col2im", "vision.c", (n, *dilations, *strides, *pads))


@c_op("AffineGrid")
def affine_grid(node: Node) -> CCall:
    return CCall("optc_op_affine_grid", "vision.c", (attr_int(node, "align_corners", 0),))


@c_op("Det")
def det(node: Node) -> CCall:
    return CCall("optc_op_det", "vision.c")


# --- random.c ----------------------------------------------------------------------------------------------------


@c_op("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
def random(node: Node) -> CCall:
    seeded, seed = _seed(node)
    normal = node.op.startswith("RandomNormal")
    names = ("mean", "scale") if normal else ("low", "high")
    dims = attr_ints(node, "shape") or ()
    floats = (seed, attr_float(node, names[0], 0.0), attr_float(node, names[1], 1.0))
    return CCall("optc_op_random", "random.c", (seeded, int(normal), len(dims), *dims), floats)


@c_op("Bernoulli")
def bernoulli(node: Node) -> CCall:
    seeded, seed = _seed(node)
    return CCall("optc_op_bernoulli", "random.c", (seeded,), (seed,))


@c_op("Multinomial")
def multinomial(node: Node) -> CCall:
    seeded, seed = _seed(node)
    return CCall("optc_op_multinomial", "random.c", (seeded, attr_int(node, "sample_size", 1)), (seed,))


@c_op("Dropout")
def dropout(node: Node) -> CCall:
    seeded, seed = _seed(node)
    return CCall("optc_op_dropout", "random.c", (seeded,), (seed,))
