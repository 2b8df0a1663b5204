"""Making a graph smaller: constants lose slices, attributes and shape operands follow, types are inferred anew."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ...compiler.errors import OptcError
from ...compiler.ir import Graph, Node, Value
from ...compiler.ops.base import infer_graph
from .channels import Channels, Cut, Kept
from .spec import ZeroWeights

_WEIGHTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}


def zero_weights(graph: Graph, spec: ZeroWeights) -> tuple[int, int]:
    """Zeroes small weights of convolutions, products and recurrent nodes (not of biases, norms and tables).

    Returns how many weights are zero afterwards, and how many there are.
    """
    done: dict[Value, Value] = {}
    for node in graph.all_nodes():
        for slot in _WEIGHTS.get(node.op, ()):
            value = node.input(slot)
            if value is None or value.data is None or not value.type.dtype.is_float:
                continue
            if value not in done:
                small = np.abs(value.data.astype(np.float32)) < spec.threshold
                done[value] = _constant_like(graph, value, np.where(small, np.zeros_like(value.data), value.data))
            graph.set_input(node, slot, done[value])
    for old, new in done.items():
        _take_name(old, new)
    zeros = sum(int((v.data == 0).sum()) for v in done.values() if v.data is not None)
    return zeros, sum(v.data.size for v in done.values() if v.data is not None)


def shrink(channels: Channels, kept: Kept) -> None:
    """Cuts everything that is not kept. Raises OptcError if a shape does not come out as planned (a defect)."""
    graph = channels.graph
    expected = {value: channels.shape_after(value, kept) for value, axes in channels.axes.items() if axes}
    by_operand: dict[tuple[Node, int], list[Cut]] = defaultdict(list)
    for cut in channels.cuts:
        if not kept.where(cut.labels).all():
            by_operand[cut.node, cut.slot].append(cut)
    made: dict[tuple[Value, bytes], Value] = {}
    for (node, slot), cuts in by_operand.items():
        old = node.operand(slot)
        masks = {cut.axis: kept.where(cut.labels) for cut in cuts}
        key = old, b"".join(bytes([axis]) + mask.tobytes() for axis, mask in sorted(masks.items()))
        if key not in made:
            made[key] = _constant_like(graph, old, _sliced(old, masks))
        graph.set_input(node, slot, made[key])
    for (old, _), new in made.items():
        _take_name(old, new)
    for change in channels.fixes:
        change(kept)
    infer_graph(graph)
    for value, shape in expected.items():
        pairs = zip(shape, value.type.dims, strict=True)
        if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
            raise OptcError("pruning changed a shape wrongly", node=value.name, expected=list(shape), found=value.type)


def _sliced(value: Value, masks: dict[int, np.ndarray]) -> np.ndarray:
    data = np.asarray(value.data)
    for axis, mask in masks.items():
        data = np.compress(mask, data, axis=axis)
    return np.ascontiguousarray(data)


def _constant_like(graph: Graph, value: Value, data: np.ndarray) -> Value:
    return graph.constant(data, value.name, value.type.dtype)


def _take_name(old: Value, new: Value) -> None:
    """The successor of a constant that nobody reads any more is called as it was."""
    if not old.uses and new.uses:
        old.name, new.name = new.name, old.name
