"""From an operator's older forms (opset 7 on) to the newest, which is the only one the IR speaks.

One adapter a change of meaning. A new version that only adds element types, or an attribute whose default means what
was meant before, needs none; every op of ai.onnx that changed since opset 7 was gone through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from ..ir import Attr, Graph, Loc, Value


@dataclass
class Call:
    """A node on its way into the graph. Adapters change it, or return values that stand for its outputs."""

    graph: Graph
    op: str
    inputs: list[Value | None]
    attrs: dict[str, Attr]
    outputs: list[str]  # names; "" where omitted
    version: int
    loc: Loc

    def input(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def operand(self, index: int) -> Value:
        value = self.input(index)
        if value is None:
            raise UnsupportedError(f"{self.op} needs its input {index}", node=str(self.loc))
        return value

    def set_input(self, index: int, value: Value | None) -> None:
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = value

    def ints(self, values: Any) -> Value:
        """An int64 constant."""
        return self.graph.constant(np.array(values, np.int64), f"{self.loc}.const")

    def like(self, value: float, operand: int) -> Value:
        """A scalar constant of the dtype of an operand."""
        return self.graph.constant(value, f"{self.loc}.const", dtype=self.operand(operand).type.dtype)

    def emit(self, op: str, *inputs: Value | None, **attrs: Attr) -> Value:
        """A node of the newest form with one output."""
        return self.graph.emit(op, inputs, attrs, names=[f"{self.loc}.{op.lower()}"], loc=self.loc).output

    def unsupported(self, why: str) -> UnsupportedError:
        return UnsupportedError(f"{self.op} of opset {self.version}: {why}", node=str(self.loc))


Adapter = Callable[[Call], Sequence[Value] | None]
_ADAPTERS: dict[str, list[tuple[int, Adapter]]] = {}
REPLACED = {"Upsample": "Resize", "Scatter": "ScatterElements"}  # ops that adapters turn into others


def until(version: int, *ops: str) -> Callable[[Adapter], Adapter]:
    """The adapter brings models of an opset below `version` to the form of `version`."""

    def note(adapter: Adapter) -> Adapter:
        for op in ops:
            _ADAPTERS.setdefault(op, []).append((version, adapter))
            _ADAPTERS[op].sort(key=lambda item: item[0])
        return adapter

    return note


def upgrade(call: Call) -> Sequence[Value] | None:
    """Brings the call to the newest form; values if other nodes now stand for it. Raises UnsupportedError."""
    version = call.version
    while True:
        steps = [s for s in _ADAPTERS.get(call.op, []) if s[0] > version]
        if not steps:
            return None
        version, adapter = steps[0]
        values = adapter(call)
        if values is not None:
            return values


def _attr_to_input(call: Call, name: str, index: int) -> None:
    """An INTS attribute becomes a constant input; an absent one an omitted input."""
    values = call.attrs.pop(name, None)
    if values is not None:
        call.set_input(index, call.ints(values))


# --- attributes that became inputs ---------------------------------------------------------------------------------


@until(18, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin")
@until(18, "ReduceProd", "ReduceSumSquare")
@until(13, "ReduceSum", "Squeeze", "Unsqueeze")
def _axes(call: Call) -> None:
    _attr_to_input(call, "axes", 1)


@until(11, "Clip")
def _clip(call: Call) -> None:
    for index, name in ((1, "min"), (2, "max")):
        bound = call.attrs.pop(name, None)
        if isinstance(bound, float):
            call.set_input(index, call.like(bound, 0))


@until(12, "Dropout")
def _dropout(call: Call) -> Sequence[Value] | None:
    """Always inference, whatever the ratio. Before opset 10 the mask had the dtype of the data."""
    call.attrs.pop("ratio", None)
    if call.version >= 10 or len(call.outputs) < 2:
        return None
    node = call.graph.emit("Dropout", call.inputs, call.attrs, num_outputs=2, loc=call.loc)
    return [node.outputs[0], call.emit("Cast", node.outputs[1], to=call.operand(0).type.dtype)]


@until(10, "Slice")
def _slice(call: Call) -> None:
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        _attr_to_input(call, name, index)


@until(11, "Pad")
def _pad(call: Call) -> None:
    _attr_to_input(call, "pads", 1)
    value = call.attrs.pop("value", 0.0)
    if isinstance(value, float) and value != 0.0:
        call.set_input(2, call.like(value, 0))


@until(13, "Split")
def _split(call: Call) -> None:
    _attr_to_input(call, "split", 1)


@until(18, "Split")
def _split_evenly(call: Call) -> None:
    if call.input(1) is None:
        call.attrs["num_outputs"] = len(call.outputs)


@until(10, "TopK")
def _top_k(call: Call) -> None:
    k = call.attrs.pop("k")
    call.set_input(1, call.ints([k]))


@until(20, "DFT")
def _dft(call: Call) -> None:
    call.set_input(2, call.ints(call.attrs.pop("axis", 1)))


# --- resizing ------------------------------------------------------------------------------------------------------


@until(10, "Upsample")
def _upsample(call: Call) -> None:
    scales = call.attrs.pop("scales", None)
    if scales is not None:  # an attribute before opset 9
        call.set_input(1, call.graph.constant(np.array(scales, np.float32), f"{call.loc}.scales"))
    call.op = "Resize"


@until(11, "Resize")
def _resize_10(call: Call) -> Sequence[Value] | None:
    """Nearest took the next element when shrinking and the last one when growing (as ONNX Runtime does and onnx's
    own test of opset 10 shows), for each axis; an op of today does one of the two."""
    mode = call.attrs.pop("mode", "nearest")
    x, scales = call.operand(0), call.operand(1)
    asymmetric: dict[str, Attr] = {"coordinate_transformation_mode": "asymmetric"}
    if mode in ("linear", "bilinear"):
        return [call.emit("Resize", x, None, scales, mode="linear", **asymmetric)]
    grows, shrinks = (scales.data is None or bool((compare(scales.data, 1)).any()) for compare in (np.greater, np.less))
    one = call.graph.constant(np.float32(1), f"{call.loc}.const")
    if shrinks:
        by = call.emit("Min", scales, one) if grows else scales
        x = call.emit("Resize", x, None, by, mode="nearest", nearest_mode="ceil", **asymmetric)
    if grows or not shrinks:
        by = call.emit("Max", scales, one) if shrinks else scales
        x = call.emit("Resize", x, None, by, mode="nearest", nearest_mode="floor", **asymmetric)
    return [x]


@until(13, "Resize")
def _resize_11(call: Call) -> None:
    """tf_half_pixel_for_nn went away: floor((x + 0.5) s) is half_pixel, x s + 0.5 s - 0.5, rounded half up."""
    if call.attrs.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        if call.attrs.get("mode", "nearest") != "nearest" or call.attrs.get("nearest_mode") != "floor":
            raise call.unsupported("tf_half_pixel_for_nn is known with mode nearest and nearest_mode floor only")
        call.attrs |= {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}


@until(99, "Resize")
def _resize_empty(call: Call) -> None:
    """Empty roi and scales tensors, the way opset 11 omitted them and many exporters still do."""
    for index in (1, 2):
        value = call.input(index)
        if value is not None and value.data is not None and value.data.size == 0:
            call.set_input(index, None)


@until(20, "GridSample")
def _grid_sample(call: Call) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = call.attrs.get("mode", "bilinear")
    call.attrs["mode"] = names.get(str(mode), mode)


@until(16, "RoiAlign")
def _roi_align(call: Call) -> None:
    call.attrs["coordinate_transformation_mode"] = "output_half_pixel"


# --- normalization -------------------------------------------------------------------------------------------------


@until(9, "BatchNormalization")
def _batch_norm_spatial(call: Call) -> Sequence[Value] | None:
    """spatial=0: statistics per element, of shape [C, D1, ...], which broadcasting expresses."""
    if call.attrs.pop("spatial", 1) == 1:
        return None
    if any(call.outputs[1:]):
        raise call.unsupported("training mode with spatial=0")
    x, scale, bias, mean, var = (call.operand(i) for i in range(5))
    epsilon = call.attrs.get("epsilon", 1e-5)
    spread = call.emit("Sqrt", call.emit("Add", var, call.like(float(epsilon), 0)))  # type: ignore[arg-type]
    normal = call.emit("Div", call.emit("Sub", x, mean), spread)
    return [call.emit("Add", call.emit("Mul", normal, scale), bias)]


@until(14, "BatchNormalization")
def _batch_norm_training(call: Call) -> None:
    if any(call.outputs[1:]):
        raise call.unsupported("a model in training mode (outputs beyond the first); export it for inference")
    del call.outputs[1:]


@until(21, "GroupNormalization")
def _group_norm(call: Call) -> None:
    """Scale and bias per group become per channel: each repeated C / num_groups times."""
    groups = call.attrs["num_groups"]
    channels = call.emit("Shape", call.operand(0), start=1, end=2)
    repeats = call.emit("Concat", call.ints([1]), call.emit("Div", channels, call.ints([groups])), axis=0)
    for index in (1, 2):
        column = call.emit("Reshape", call.operand(index), call.ints([groups, 1]))
        spread = call.emit("Expand", column, repeats)
        call.set_input(index, call.emit("Reshape", spread, channels))


@until(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax(call: Call) -> Sequence[Value] | None:
    """Was over all dims from `axis` on, taken as one; is over `axis` alone."""
    axis, shape = call.attrs.get("axis", 1), call.operand(0).type.shape
    assert isinstance(axis, int)
    call.attrs["axis"] = axis
    if shape is not None:
        axis += len(shape) if axis < 0 else 0
        if all(d == 1 for d in shape[axis + 1 :]):
            return None
    flat = call.emit("Flatten", call.operand(0), axis=axis)
    return [call.emit("Reshape", call.emit(call.op, flat, axis=-1), call.emit("Shape", call.operand(0)))]


# --- renamed, or not expressible -------------------------------------------------------------------------------------


@until(99, "Scatter")
def _scatter(call: Call) -> None:
    call.op = "ScatterElements"


@until(99, "Upsample")
def _upsample_deprecated(call: Call) -> None:
    raise call.unsupported("removed in opset 10; use Resize")


@until(9, "Scan")
def _scan(call: Call) -> None:
    raise call.unsupported("the batched Scan of opset 8 is not supported; export with opset 9 or later")


def form_version(op: str) -> int:
    """The opset at which the op took the form it has in the IR."""
    return max((v for v, _ in _ADAPTERS.get(op, []) if v < 99), default=0)
