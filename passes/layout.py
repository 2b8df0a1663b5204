"""Channels last inside: Conv, ConvTranspose and pools work on [N, spatial..., C], and the Transposes this needs cancel.

    Conv(x) = Transpose(optc.Conv(Transpose(x, to_nhwc)), to_nchw)

A 2-D ConvTranspose whose windows tile the output (kernel = stride, no padding) is a matrix product whose columns are
then spread over space: y[n, h b + by, w b + bx, co] = sum_ci x[n, h, w, ci] * w[ci, co, by, bx].

Then every Transpose sinks through the nodes that can work before it (permute.py), meets its inverse and vanishes; one
that moves no bytes becomes a Reshape; one before a Flatten and a MatMul goes into the constant weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.ir import Graph, Node, Value
from ..compiler.ops.nhwc import to_nchw, to_nhwc
from ..compiler.types import DType
from .base import PassContext, register_pass
from .permute import Perm, inverse, is_plain_move, move_down, perm_of, transpose, transposed

_SPATIAL = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
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
    """Rewrites one spatial node (float32, rank 3 to 5, constant weights) between two Transposes."""
    if node.op not in _SPATIAL and node.op not in _GLOBAL:
        return False
    x = node.operand(0)
    if x.type.shape is None or not 3 <= x.type.rank <= 5 or x.type.dtype is not DType.F32:
        return False
    rank = x.type.rank
    if node.op in _GLOBAL:
        axes = graph.constant(np.arange(2, rank, dtype=np.int64), "axes")
        new = graph.emit(_GLOBAL[node.op], [x, axes], {"keepdims": 1}, before=node, loc=node.loc)
        graph.replace(node, [new.output])
        return True
    if len(node.outputs) > 1 and node.outputs[1].uses:  # MaxPool's Indices count in NCHW
        return False
    if any(v is not None and v.data is None for v in node.inputs[1:]):
        return False
    if node.op == "ConvTranspose":
        return _as_matmul(graph, node)
    last = transpose(graph, x, to_nhwc(rank), node)
    new = graph.emit(
        f"optc.{node.op}", [last, *node.inputs[1:]], node.attrs, before=node, names=[node.outputs[0].name], loc=node.loc
    )
    result = transpose(graph, new.output, to_nchw(rank), node)
    graph.replace_uses(node.outputs[0], result)
    graph.erase(node)
    return True


def _as_matmul(graph: Graph, node: Node) -> bool:
    """ConvTranspose = DepthToSpace(MatMul(x, w)) where each input pixel makes a square of output by itself."""
    x, w, bias = node.operand(0), node.operand(1), node.input(2)
    block = w.type.static_shape[2]
    if w.data is None or not _tiles_output(node, block) or not isinstance(x.type.dims[1], int):
        return False
    c_in, c_out = w.type.static_shape[:2]
    weights = np.ascontiguousarray(w.data.transpose(0, 2, 3, 1).reshape(c_in, block * block * c_out))
    last = transpose(graph, x, to_nhwc(4), node)

    def emit(op: str, *inputs: Value, **attrs: int) -> Value:
        return graph.emit(op, inputs, attrs, before=node, loc=node.loc).output

    value = emit("MatMul", last, graph.constant(weights, w.name))
    if bias is not None and bias.data is not None:
        value = emit("Add", value, graph.constant(np.tile(bias.data, block * block), bias.name))
    if block > 1:
        value = emit("optc.DepthToSpace", value, blocksize=block)
    graph.replace(node, [transpose(graph, value, to_nchw(4), node)])
    return True


def _tiles_output(node: Node, block: int) -> bool:
    ones = node.attrs.get("dilations", (1, 1)) == (1, 1) and node.attrs.get("group", 1) == 1
    padded = any(any(node.attrs.get(k, ())) for k in ("pads", "output_padding"))  # type: ignore[arg-type]
    auto = node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attrs
    shape = node.operand(1).type.static_shape[2:]
    return shape == (block, block) == node.attrs.get("strides") and ones and not padded and not auto


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
