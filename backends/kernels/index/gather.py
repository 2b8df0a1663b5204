"""Ops that read elements where other elements say. Indices out of range are clamped: memory stays safe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_int
from ...base import Element, Expr, Index, defines
from .. import exprs
from .base import clamp, i64, wrap_negative, zero

Inputs = Sequence[Any]
Elements = Sequence[Element]


def _place(position: Expr, extent: Expr) -> Expr:
    return clamp(wrap_negative(position, extent), extent)


@defines("Gather")
def gather(node: Node, inputs: Inputs) -> Elements:
    x, indices = inputs
    axis = attr_int(node, "axis", 0) % x.type.rank
    rank = indices.type.rank

    def element(index: Index) -> Expr:
        at = x.name(_place(indices(index[axis : axis + rank]), x.shape[axis]))
        return x([*index[:axis], at, *index[axis + rank :]])

    return [element]


@defines("GatherElements")
def gather_elements(node: Node, inputs: Inputs) -> Elements:
    x, indices = inputs
    axis = attr_int(node, "axis", 0) % x.type.rank

    def element(index: Index) -> Expr:
        at = list(index)
        at[axis] = x.name(_place(indices(index), x.shape[axis]))
        return x(at)

    return [element]


@defines("GatherND")
def gather_nd(node: Node, inputs: Inputs) -> Elements | None:
    """The last axis of the indices addresses the dims of x behind the batch dims."""
    x, indices = inputs
    batch, depth = attr_int(node, "batch_dims", 0), indices.type.dims[-1]
    if not isinstance(depth, int):
        return None
    outer = indices.type.rank - 1

    def element(index: Index) -> Expr:
        at = list(index[:batch])
        for n in range(depth):
            at.append(x.name(_place(indices([*index[:outer], i64(n)]), x.shape[batch + n])))
        return x([*at, *index[outer:]])

    return [element]


@defines("OneHot")
def one_hot(node: Node, inputs: Inputs) -> Elements:
    """on where the position equals the index, or the index counted from the end."""
    indices, _, values = inputs
    rank = node.outputs[0].type.rank
    axis = attr_int(node, "axis", -1) % rank

    def element(index: Index) -> Expr:
        depth = indices.dims.expr(node.outputs[0].type.dims[axis])
        wanted = indices([*index[:axis], *index[axis + 1 :]])
        wanted = indices.name(wrap_negative(wanted, depth))
        return exprs.select(tirx.EQ(wanted, index[axis]), values([i64(1)]), values([zero()]))

    return [element]


@defines("Compress")
def compress(node: Node, inputs: Inputs) -> Elements | None:
    """With a constant condition: a gather at the places where it holds."""
    x, condition = inputs
    if condition.data is None or node.outputs[0].type.rank == 0:
        return None
    places = [int(p) for p in condition.data.reshape(-1).nonzero()[0]]
    if "axis" not in node.attrs or len(places) > 64:
        return None
    along = attr_int(node, "axis", 0) % x.type.rank

    def element(index: Index) -> Expr:
        at: Expr = i64(places[-1]) if places else zero()
        for number in reversed(range(len(places) - 1)):
            at = exprs.select(tirx.EQ(index[along], i64(number)), i64(places[number]), at)
        return x([*index[:along], at, *index[along + 1 :]])

    return [element]
