"""Moving a Transpose from before a node to behind it: what each op becomes over permuted axes.

For x_T = Transpose(x, perm) and y = op(x_T): y = Transpose(op'(x), perm'), where op' has its axes renamed. Axis i of
x_T is axis perm[i] of x, so an axis attribute a becomes perm[a], and a list L over axes becomes L'[perm[i]] = L[i].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..compiler.ir import Attr, Graph, Node, Value
from ..compiler.ops.base import attr_int, axis_of, op_of
from ..compiler.types import TensorType

Perm = tuple[int, ...]


def inverse(perm: Sequence[int]) -> Perm:
    return tuple(int(i) for i in np.argsort(perm))


def transposed(value: Value) -> tuple[Value, Perm] | None:
    """(x, perm) if `value` is Transpose(x, perm)."""
    node = value.producer
    if node is None or node.op != "Transpose":
        return None
    return node.operand(0), perm_of(node)


def perm_of(node: Node) -> Perm:
    """The perm of a Transpose, the default (reversal) made explicit."""
    perm = node.attrs.get("perm")
    return perm if isinstance(perm, tuple) else tuple(reversed(range(node.operand(0).type.rank)))


def transpose(graph: Graph, value: Value, perm: Perm, before: Node | None) -> Value:
    """Transpose(value, perm) before `before`: folded for constants, merged with a Transpose that makes `value`."""
    if value.data is not None:
        return graph.constant(np.ascontiguousarray(value.data.transpose(perm)), value.name, value.type.dtype)
    found = transposed(value)
    if found is not None:
        source, first = found
        perm = tuple(first[p] for p in perm)
        value = source
    if perm == tuple(range(len(perm))):
        return value
    return graph.emit("Transpose", [value], {"perm": perm}, names=[f"{value.name}.t"], before=before).output


Mover = Callable[[Graph, Node, Perm], "tuple[Node, list[Perm]] | None"]


def move_down(graph: Graph, node: Node, perm: Perm) -> bool:
    """Rewrites `node`, whose transposed operands have this perm, to work before the transposition.

    Returns False, with nothing changed, if the op has no such form.
    """
    mover = _MOVERS.get(node.op) or (_pointwise if op_of(node).pointwise else None)
    if mover is None:
        return False
    moved = mover(graph, node, perm)
    if moved is None:
        return False
    new, perms = moved
    results = []
    for old, value, out_perm in zip(node.outputs, new.outputs, perms, strict=True):
        if not old.uses:
            results.append(value)
            continue
        results.append(transpose(graph, value, out_perm, node))
    graph.replace(node, results)
    return True


def _emit(graph: Graph, node: Node, inputs: Sequence[Value | None], attrs: dict[str, Attr]) -> Node:
    names = [v.name for v in node.outputs]
    return graph.emit(node.op, inputs, attrs, names=names, num_outputs=len(names), before=node, loc=node.loc)


def _source(value: Value, perm: Perm) -> Value | None:
    """x if `value` is Transpose(x, perm)."""
    found = transposed(value)
    return found[0] if found is not None and found[1] == perm else None


def _before(graph: Graph, value: Value, perm: Perm, at: Node) -> Value:
    """What must be transposed by `perm` to give `value` (broadcast to the perm's rank)."""
    rank = len(perm)
    if value.type.rank == 0:
        return value
    source = _source(value, perm)
    if source is not None:
        return source
    if value.data is not None:
        wide = value.data.reshape((1,) * (rank - value.data.ndim) + value.data.shape)
        return graph.constant(np.ascontiguousarray(wide.transpose(inverse(perm))), value.name, value.type.dtype)
    missing = rank - value.type.rank
    if missing:
        axes = graph.constant(np.arange(missing, dtype=np.int64), "axes")
        value = graph.emit("Unsqueeze", [value, axes], before=at, loc=at.loc).output
    return transpose(graph, value, inverse(perm), at)


def _pointwise(graph: Graph, node: Node, perm: Perm) -> tuple[Node, list[Perm]] | None:
    if any(v.type.shape is None or v.type.rank != len(perm) for v in node.outputs):
        return None
    inputs = [None if v is None else _before(graph, v, perm, node) for v in node.inputs]
    return _emit(graph, node, inputs, node.attrs), [perm] * len(node.outputs)


def _affine(graph: Graph, node: Node, perm: Perm) -> tuple[Node, list[Perm]] | None:
    """QuantizeLinear and DequantizeLinear: scale and zero point are per tensor or along `axis`."""
    x, scale = node.operand(0), node.operand(1)
    if x.type.shape is None or scale.type.shape is None or scale.type.rank > 1:
        return None
    attrs = dict(node.attrs)
    if scale.type.rank == 1:
        attrs["axis"] = perm[axis_of(node, attr_int(node, "axis", 1), len(perm))]
    inputs = [_before(graph, x, perm, node), *node.inputs[1:]]
    return _emit(graph, node, inputs, attrs), [perm]


def _first_only(graph: Graph, node: Node, perm: Perm, attrs: dict[str, Attr]) -> Node | None:
    """The node with operand 0 taken before the transposition."""
    source = _source(node.operand(0), perm)
    return None if source is None else _emit(graph, node, [source, *node.inputs[1:]], attrs)


def _axis_attr(default: int) -> Mover:
    """Ops along one axis given by an attribute."""

    def move(graph: Graph, node: Node, perm: Perm) -> tuple[Node, list[Perm]] | None:
        axis = node.attrs.get("axis", default)
        assert isinstance(axis, int)
        attrs = node.attrs | {"axis": perm[axis % len(perm)]}
        if node.op == "Concat":
            inputs = [_before(graph, v, perm, node) for v in node.inputs if v is not None]
            return _emit(graph, node, inputs, attrs), [perm]
        if node.op in ("ArgMax", "ArgMin"):
            keep = node.attrs.get("keepdims", 1)
            new = _first_only(graph, node, perm, attrs)
            out = perm if keep else _remaining(perm, [axis % len(perm)])
            return None if new is None else (new, [out])
        new = _first_only(graph, node, perm, attrs)
        return None if new is None else (new, [perm] * len(node.outputs))

    return move


def _remaining(perm: Perm, axes: Sequence[int]) -> Perm:
    """The perm left when these (transposed) axes are dropped."""
    kept = [perm[i] for i in range(len(perm)) if i not in axes]
    order = sorted(kept)
    return tuple(order.index(k) for k in kept)


def _reduce(graph: Graph, node: Node, perm: Perm) -> tuple[Node, list[Perm]] | None:
    operand = node.input(1)
    if operand is None:
        if node.attrs.get("noop_with_empty_axes", 0):
            return None
        axes = list(range(len(perm)))
    elif operand.data is None:
        return None
    else:
        axes = [int(a) % len(perm) for a in operand.data.reshape(-1)]
        if not axes:
            return None
    source = _source(node.operand(0), perm)
    if source is None:
        return None
    renamed = graph.constant(np.array(sorted(perm[a] for a in axes), np.int64), "axes")
    new = _emit(graph, node, [source, renamed], node.attrs)
    return new, [perm if node.attrs.get("keepdims", 1) else _remaining(perm, axes)]


def _pad(graph: Graph, node: Node, perm: Perm) -> tuple[Node, list[Perm]] | None:
    pads, axes_in = node.operand(1).data, node.input(3)
    source = _source(node.operand(0), perm)
    if pads is None or source is None or (axes_in is not None and axes_in.data is None):
        return None
    rank = len(perm)
    given = range(rank) if axes_in is None else [int(a) % rank for a in np.asarray(axes_in.data).reshape(-1)]
    full = np.zeros((2, rank), np.int64)
    full[:, [perm[a] for a in given]] = pads.reshape(2, -1)
    inputs = [source, graph.constant(full.reshape(-1), "pads"), *node.inputs[2:3]]
    return _emit(graph, node, inputs, node.attrs), [perm]


def _slice(graph: Graph, node: Node, perm: Perm) -> tuple[Node, list[Perm]] | None:
    axes_in, source = node.input(3), _source(node.operand(0), perm)
    if source is None or (axes_in is not None and axes_in.data is None):
        return None
    starts = node.operand(1).type
    count = starts.dims[0]
    if not isinstance(count, int):
        return None
    given = range(count) if axes_in is None else [int(a) % len(perm) for a in np.asarray(axes_in.data).reshape(-1)]
    axes = graph.constant(np.array([perm[a] for a in given], np.int64), "axes")
    new = _emit(graph, node, [source, *node.inputs[1:3], axes, *node.inputs[4:]], node.attrs)
    return new, [perm]


def _resize(graph: Graph, node: Node, perm: Perm) -> tuple[Node, list[Perm]] | None:
    source = _source(node.operand(0), perm)
    rank = len(perm)
    axes = node.attrs.get("axes")
    if source is None or any(v is not None and v.data is None for v in node.inputs[1:]):
        return None
    if isinstance(axes, tuple):
        renamed: dict[str, Attr] = {"axes": tuple(perm[a % rank] for a in axes)}
        return _emit(graph, node, [source, *node.inputs[1:]], node.attrs | renamed), [perm]
    inputs: list[Value | None] = [source]
    for value in node.inputs[1:]:
        if value is None or value.data is None or value.data.size == 0:
            inputs.append(value)
            continue
        lists = value.data.reshape(-1, rank)
        inputs.append(graph.constant(np.ascontiguousarray(lists[:, list(inverse(perm))]).reshape(-1), value.name))
    return _emit(graph, node, inputs, node.attrs), [perm]


def _squeeze(graph: Graph, node: Node, perm: Perm) -> tuple[Node, list[Perm]] | None:
    source, axes_in = _source(node.operand(0), perm), node.input(1)
    if source is None or axes_in is None or axes_in.data is None:
        return None
    axes = [int(a) % len(perm) for a in axes_in.data.reshape(-1)]
    renamed = graph.constant(np.array(sorted(perm[a] for a in axes), np.int64), "axes")
    return _emit(graph, node, [source, renamed], node.attrs), [_remaining(perm, axes)]


_REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
_MOVERS: dict[str, Mover] = {
    "Concat": _axis_attr(0),
    "Split": _axis_attr(0),
    "Softmax": _axis_attr(-1),
    "LogSoftmax": _axis_attr(-1),
    "Hardmax": _axis_attr(-1),
    "ArgMax": _axis_attr(0),
    "ArgMin": _axis_attr(0),
    "Pad": _pad,
    "Slice": _slice,
    "Resize": _resize,
    "Squeeze": _squeeze,
    "QuantizeLinear": _affine,
    "DequantizeLinear": _affine,
} | {f"Reduce{name}": _reduce for name in _REDUCTIONS}


def is_plain_move(type: TensorType, perm: Perm) -> bool:
    """True if transposing a tensor of this type moves no bytes: the dims other than 1 keep their order."""
    kept = [p for p in perm if type.dims[p] != 1]
    return kept == sorted(kept)
