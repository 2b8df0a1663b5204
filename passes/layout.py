"""Channels last inside: Conv, ConvTranspose and pools work on [N, spatial..., C], and the Transposes this needs cancel.

    Conv(x) = Transpose(optc.Conv(Transpose(x, to_nhwc)), to_nchw)

A 2-D ConvTranspose of stride s becomes a convolution with s*s times the channels that are then spread over space:
output position o + pad = s q + r reads x at q - j through tap t = r + s j, so for each r there is a convolution over q
with ceil(k / s) taps (Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016).

Then every Transpose sinks through the nodes that can work before it (permute.py), meets its inverse and vanishes; one
that moves no bytes becomes a Reshape; one before a Flatten and a MatMul goes into the constant weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.ir import Attr, Graph, Node, Value
from ..compiler.ops.nhwc import to_nchw, to_nhwc
from ..compiler.types import DType
from .base import PassContext, register_pass
from .permute import Perm, inverse, is_plain_move, move_down, perm_of, transpose, transposed

_SPATIAL = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
_DTYPES = {"MaxPool": (DType.F32, DType.U8)}
"""Element types other than float32 alone."""
_GLOBAL = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


@register_pass
@dataclass(frozen=True)
class ChannelsLast:
    """Moves the graph to NHWC. Subgraphs are treated by themselves."""

    name: ClassVar[str] = "channels-last"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        changed = False
        for node in graph.nodes:
            for sub in node.subgraphs.values():
                changed |= self.run(sub, ctx)
            changed |= to_channels_last(graph, node)
        return sink_transposes(graph) or changed


def to_channels_last(graph: Graph, node: Node) -> bool:
    """Rewrites one spatial node (float32, or a MaxPool of bytes; rank 3 to 5, constant weights) between Transposes."""
    if node.op not in _SPATIAL and node.op not in _GLOBAL:
        return False
    x = node.operand(0)
    if x.type.shape is None or not 3 <= x.type.rank <= 5 or x.type.dtype not in _DTYPES.get(node.op, (DType.F32,)):
        return False
    rank = x.type.rank
    if node.op in _GLOBAL:
        axes = graph.constant(np.arange(2, rank, dtype=np.int64), "axes")
        new = graph.emit(_GLOBAL[node.op], [x, axes], {"keepdims": 1}, before=node, loc=node.loc)
        graph.replace(node, [new.output])
        return True
    if len(node.outputs) > 1 and node.outputs[1].uses:  # MaxPool's Indices count in NCHW
        return False
    if not all(v is None or is_weight(v) for v in node.inputs[1:]):
        return False
    if node.op == "ConvTranspose":
        return _sub_pixel(graph, node)
    last = transpose(graph, x, to_nhwc(rank), node)
    new = graph.emit(
        f"optc.{node.op}", [last, *node.inputs[1:]], node.attrs, before=node, names=[node.outputs[0].name], loc=node.loc
    )
    result = transpose(graph, new.output, to_nchw(rank), node)
    graph.replace_uses(node.outputs[0], result)
    graph.erase(node)
    return True


def is_weight(value: Value) -> bool:
    """A constant, or one that is stored quantized."""
    maker = value.producer
    if maker is None or maker.op != "DequantizeLinear":
        return value.is_constant
    return all(v is None or v.is_constant for v in maker.inputs)


def _sub_pixel(graph: Graph, node: Node) -> bool:
    """ConvTranspose = crop(DepthToSpace(Conv(x))). Needs group and dilations of 1 and one stride for both dims."""
    x, w = node.operand(0), node.operand(1)
    strides = node.attrs.get("strides", (1, 1))
    if x.type.rank != 4 or not isinstance(strides, tuple) or len(set(strides)) != 1:
        return False
    automatic = node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attrs
    if automatic or node.attrs.get("group", 1) != 1 or any(d != 1 for d in _pair(node, "dilations", 1)):
        return False
    stride, kernel = int(strides[0]), w.type.static_shape[2:]
    pads = node.attrs.get("pads", (0, 0, 0, 0))
    assert isinstance(pads, tuple)
    taps = [-(-k // stride) for k in kernel]
    begin = [max(0, t - 1 - p // stride) for t, p in zip(taps, pads[:2], strict=True)]
    beyond = [k - 1 - p + extra for k, p, extra in zip(kernel, pads[2:], _pair(node, "output_padding", 0), strict=True)]
    end = [b // stride for b in beyond]
    if min(end) < 0:
        return False
    first = [p - stride * (t - 1 - b) for p, t, b in zip(pads[:2], taps, begin, strict=True)]
    surplus = [stride * e + stride - 1 - b for e, b in zip(end, beyond, strict=True)]

    def emit(op: str, inputs: Sequence[Value | None], **attrs: Attr) -> Value:
        return graph.emit(op, inputs, attrs, before=node, loc=node.loc, names=[node.output.name]).output

    def weights(operand: Value) -> Value:
        """The phases' weights, or the bias for each phase."""

        def spread(value: Value) -> Value:
            data = np.asarray(value.data)
            spread = np.tile(data, stride**2) if data.ndim == 1 else _phases(data, stride, taps)
            return graph.constant(spread, value.name, value.type.dtype)

        if operand.data is not None:
            return spread(operand)
        source = operand.producer
        assert source is not None
        parameters = [v if v is None or v.type.rank == 0 else spread(v) for v in source.inputs]
        return emit("DequantizeLinear", parameters, axis=0)

    inputs = [transpose(graph, x, to_nhwc(4), node), *(None if v is None else weights(v) for v in node.inputs[1:])]
    value = emit("optc.Conv", inputs, pads=(*begin, *end), kernel_shape=tuple(taps))
    if stride > 1:
        value = emit("optc.DepthToSpace", [value], blocksize=stride)
    if any(first) or any(surplus):
        ends = [-s if s else np.iinfo(np.int64).max for s in surplus]
        value = emit("Slice", [value, *(graph.constant(np.array(v, np.int64), "crop") for v in (first, ends, [1, 2]))])
    graph.replace(node, [transpose(graph, value, to_nchw(4), node)])
    return True


def _pair(node: Node, name: str, default: int) -> tuple[int, ...]:
    value = node.attrs.get(name, (default, default))
    assert isinstance(value, tuple)
    return value


def _phases(w: np.ndarray, stride: int, taps: Sequence[int]) -> np.ndarray:
    """[c_in, c_out, kh, kw] as [(ry, rx, c_out), c_in, taps...]; tap m of phase r is r + stride * (taps - 1 - m)."""
    c_in, c_out, *kernel = w.shape
    padded = np.zeros((c_in, c_out, taps[0] * stride, taps[1] * stride), w.dtype)
    padded[:, :, : kernel[0], : kernel[1]] = w
    split = padded.reshape(c_in, c_out, taps[0], stride, taps[1], stride)[:, :, ::-1, :, ::-1]
    out = split.transpose(3, 5, 1, 0, 2, 4).reshape(stride * stride * c_out, c_in, *taps)
    return np.ascontiguousarray(out)


def sink_transposes(graph: Graph) -> bool:
    """Moves Transposes towards the outputs as long as that merges or cancels them; one pass in order."""
    changed = False
    for node in graph.nodes:
        if node.op == "Transpose":
            changed |= _merge(graph, node)
        elif node.op in ("Reshape", "Flatten"):
            changed |= _into_matmul(graph, node)
        else:
            changed |= _sink(graph, node)
    for node in reversed(list(graph.nodes)):
        if node.op in ("Transpose", "Unsqueeze") and not any(v.uses for v in node.outputs):
            graph.erase(node)
            changed = True
    return changed


def _merge(graph: Graph, node: Node) -> bool:
    x, perm = node.operand(0), perm_of(node)
    if transposed(x) is not None or perm == tuple(range(len(perm))):
        graph.replace(node, [transpose(graph, x, perm, node)])
        return True
    if x.type.is_static and is_plain_move(x.type, perm):
        shape = graph.constant(np.array(node.output.type.static_shape, np.int64), "shape")
        new = graph.emit("Reshape", [x, shape], before=node, loc=node.loc)
        graph.replace(node, [new.output])
        return True
    return False


def _sink(graph: Graph, node: Node) -> bool:
    found = [t for v in node.inputs if v is not None and (t := transposed(v)) is not None]
    if not found or not _pays(node, found):
        return False
    return move_down(graph, node, found[0][1])


def _pays(node: Node, found: Sequence[tuple[Value, Perm]]) -> bool:
    """All transposed operands agree, and whatever else must be transposed the other way is smaller or constant."""
    perm = found[0][1]
    if any(p != perm for _, p in found):
        return False
    others = [v for v in node.inputs if v is not None and v.data is None and transposed(v) is None]
    others = [v for v in others if v.type.shape is not None and v.type.rank > 0 and v.type.numel != 1]
    if node.op in ("Slice", "Pad", "Resize", "Split", "Squeeze"):
        others = []
    if not others:
        return True
    restores = perm == to_nchw(len(perm)) or inverse(perm) == to_nchw(len(perm))
    return restores and len(others) <= len(found)


def _into_matmul(graph: Graph, node: Node) -> bool:
    """MatMul(Reshape(Transpose(x), [N, K]), W) = MatMul(Reshape(x, [N, K]), W') with W's rows permuted."""
    found = transposed(node.operand(0))
    user = node.output.single_user
    if found is None or user is None or user.op not in ("MatMul", "Gemm") or user.operand(0) is not node.output:
        return False
    x, perm = found
    weights = user.operand(1)
    inner = node.operand(0).type.dims[1:]
    if weights.data is None or perm[0] != 0 or node.output.type.rank != 2 or weights.data.ndim != 2:
        return False
    if not all(isinstance(d, int) for d in inner) or user.attrs.get("transA", 0):
        return False
    size = int(np.prod([int(d) for d in inner]))
    columns = bool(user.attrs.get("transB", 0))
    data = weights.data.T if columns else weights.data
    if data.shape[0] != size or node.output.type.dims[1] != size:
        return False
    back = inverse(perm)  # rows are ordered as x_T; order them as x
    order = [b - 1 for b in back[1:]]
    rows = np.arange(size).reshape([int(d) for d in inner]).transpose(order).reshape(-1)
    data = data[rows]
    new = graph.constant(np.ascontiguousarray(data.T if columns else data), weights.name, weights.type.dtype)
    graph.set_input(user, 1, new)
    graph.set_input(node, 0, x)
    return True
