"""Dims that type inference took to be equal, and that the program must therefore compare before a kernel reads memory.

Inference cannot compare [N] with [M]; as ONNX Runtime does, it lets an Add of both pass and gives the result one of the
two (compiler/ops/base.py: broadcast_shapes). A kernel loops over that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..compiler.ir import Node
from ..compiler.ops import quantize as quantization
from ..compiler.ops.base import attr_int, op_of
from ..compiler.types import Dim, Shape, same_dim

Pair = tuple[Dim, Dim]


def assumptions(node: Node) -> Iterator[Pair]:
    """Pairs of dims that must be equal for this node and may not be."""
    if any(v is not None and v.type.shape is None for v in node.inputs):
        return
    for one, other in _pairs(node):
        if not same_dim(one, other):
            yield one, other


def _pairs(node: Node) -> Iterator[Pair]:
    shapes = [v.type.dims for v in node.inputs if v is not None]
    if node.op in quantization.OPS:
        yield from _slices(node, shapes)
    elif op_of(node).pointwise and len(shapes) > 1:
        yield from _broadcast(shapes)
    elif node.op in ("MatMul", "optc.MatMul"):
        yield from _matmul(node, shapes)
    elif node.op == "Gemm":
        yield shapes[0][0 if attr_int(node, "transA", 0) else 1], shapes[1][1 if attr_int(node, "transB", 0) else 0]
        if len(shapes) > 2:
            yield from _fits(shapes[2], node.output.type.dims)
    elif node.op == "Concat":
        yield from _concat(node, shapes)
    elif node.op in ("Conv", "optc.Conv"):
        channels = shapes[0][1 if node.op == "Conv" else -1]
        yield channels, shapes[1][1] * attr_int(node, "group", 1)


def _slices(node: Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    """A scale a slice along the axis, where it is neither one for all nor one a block."""
    x, scale = shapes[:2]
    if len(scale) == 1 and not _is_one(scale[0]) and not attr_int(node, "block_size", 0):
        yield x[attr_int(node, "axis", 1) % len(x)], scale[0]


def _is_one(dim: Dim) -> bool:
    return isinstance(dim, int) and dim == 1


def _broadcast(shapes: Sequence[Shape]) -> Iterator[Pair]:
    """Every dim that is not known to be 1 with the first such dim of its axis."""
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        wide = [s[-axis] for s in shapes if len(s) >= axis and not _is_one(s[-axis])]
        yield from ((wide[0], other) for other in wide[1:])


def _fits(small: Shape, big: Shape) -> Iterator[Pair]:
    """Every dim of `small` that is not known to be 1 with that of `big`, to which it is broadcast."""
    pairs = zip(reversed(small), reversed(big), strict=False)
    yield from ((b, s) for s, b in pairs if not _is_one(s))


def _matmul(node: Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    a, b = shapes[0], shapes[1]
    rows, columns = (a[-2:], b[-2:])
    left = rows[0] if attr_int(node, "transA", 0) and len(rows) == 2 else rows[-1]
    right = columns[-1] if attr_int(node, "transB", 0) and len(columns) == 2 else columns[0]
    yield left, right
    yield from _broadcast([a[:-2], b[:-2]])


def _concat(node: Node, shapes: Sequence[Shape]) -> Iterator[Pair]:
    axis = attr_int(node, "axis", 0) % len(shapes[0])
    for shape in shapes[1:]:
        yield from ((a, b) for i, (a, b) in enumerate(zip(shapes[0], shape, strict=True)) if i != axis)
