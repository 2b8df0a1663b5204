"""What rules ask about shapes and constants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..compiler.ir import Graph, Node, Value
from ..compiler.types import Dim, DType, TensorType, as_dim, free_symbols, is_fresh, same_dim

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Ops that give the same bytes another shape."""


def same_shape(a: TensorType, b: TensorType) -> bool:
    """True if both ranks are known and all dims provably equal."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(same_dim(x, y) for x, y in zip(a.shape, b.shape, strict=True))


def broadcasts_into(small: TensorType, big: TensorType) -> bool:
    """True if a pointwise op of the two surely has the shape of `big`."""
    if small.shape is None or big.shape is None or len(small.shape) > len(big.shape):
        return False
    pairs = zip(reversed(small.shape), reversed(big.shape), strict=False)
    return all((isinstance(s, int) and s == 1) or same_dim(s, b) for s, b in pairs)


def splat_of(value: Value | None) -> float | None:
    """The number all elements of a numeric constant equal, else None."""
    if value is None or value.data is None or value.data.size == 0 or value.data.dtype.kind not in "fiubV":
        return None
    first = value.data.reshape(-1)[0]
    return float(first) if value.data.size == 1 or bool(np.all(value.data == first)) else None


def known_ints(value: Value | None) -> list[int] | None:
    """The elements of a small integer tensor, if all are known numbers."""
    if value is None:
        return None
    if value.data is not None:
        return [int(x) for x in value.data.reshape(-1)] if value.data.dtype.kind in "iu" else None
    if value.content is not None and all(isinstance(x, int) for x in value.content.reshape(-1)):
        return [int(x) for x in value.content.reshape(-1)]
    return None


def axes_of(node: Node, index: int = 1) -> list[int] | None:
    """The axes of a Squeeze, Unsqueeze or Reduce* (operand `index`, or attribute), if known."""
    if "axes" in node.attrs:
        axes = node.attrs["axes"]
        return [int(a) for a in axes] if isinstance(axes, tuple) else None
    return known_ints(node.input(index))


def reduces(node: Node, axes: Sequence[int], rank: int, keepdims: int | None = 1) -> bool:
    """True if a Reduce* reduces exactly `axes` (of a tensor of `rank`) and has this `keepdims` (None: either)."""
    found = axes_of(node)
    if found is None or sorted(a % rank for a in found) != sorted(a % rank for a in axes):
        return False
    return keepdims is None or node.attrs.get("keepdims", 1) == keepdims


def perm_of(node: Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose, written out; None if it has none and the rank is unknown."""
    perm = node.attrs.get("perm")
    if isinstance(perm, tuple):
        return tuple(int(p) for p in perm)
    shape = node.operand(0).type.shape
    return None if shape is None else tuple(reversed(range(len(shape))))


def reshape_vector(source: TensorType, target: TensorType) -> np.ndarray | None:
    """The constant shape operand of a Reshape (allowzero=0) from `source` to `target`.

    Copies equal symbolic dims with 0 and leaves one other symbolic dim to -1; None if that is not enough, or where a
    dim is 0. Dynamic dims stay dynamic.
    """
    if source.shape is None or target.shape is None:
        return None
    if any(isinstance(d, int) and d == 0 for d in (*source.shape, *target.shape)):
        return None
    vector = []
    for index, dim in enumerate(target.shape):
        if isinstance(dim, int):
            vector.append(dim)
        elif index < len(source.shape) and same_dim(dim, source.shape[index]):
            vector.append(0)
        else:
            vector.append(-1)
    return None if vector.count(-1) > 1 else np.array(vector, np.int64)


def is_float(value: Value) -> bool:
    return value.type.dtype in (DType.F32, DType.F16, DType.BF16, DType.F64)


# --- data symbols ------------------------------------------------------------------------------------------------


def symbol_binding(old: TensorType, new: TensorType) -> dict[object, Dim]:
    """The data symbols of one type that the other, of the same tensor, knows better or by another name."""
    binding: dict[object, Dim] = {}
    if old.shape is None or new.shape is None or len(old.shape) != len(new.shape):
        return binding
    for a, b in zip(old.shape, new.shape, strict=True):
        if a == b:
            continue
        if is_fresh(a):
            binding[a] = b
        elif is_fresh(b):
            binding[b] = a
    return binding


def bind_symbols(graph: Graph, binding: dict[object, Dim]) -> None:
    """Replaces symbols in the types and contents of every value of a graph tree."""
    if not binding:
        return
    for value in _all_values(graph):
        if value.type.shape is not None and free_symbols(value.type.shape) & binding.keys():
            value.type = value.type.with_shape(_bind(value.type.shape, binding))
        if value.content is not None and free_symbols(value.content.reshape(-1)) & binding.keys():
            bound = np.empty(value.content.size, object)
            bound[:] = _bind(value.content.reshape(-1), binding)
            value.content = bound.reshape(value.content.shape)


def _bind(dims: Iterable[Dim], binding: dict[object, Dim]) -> list[Dim]:
    bound = []
    for dim in dims:
        for _ in range(len(binding)):  # a symbol may be bound to another that is bound too
            if isinstance(dim, int) or not (free_symbols([dim]) & binding.keys()):
                break
            dim = as_dim(dim.subs(binding))
        bound.append(dim)
    return bound


def _all_values(graph: Graph) -> Iterable[Value]:
    yield from graph.values()
    for node in graph.nodes:
        for sub in node.subgraphs.values():
            yield from _all_values(sub)
