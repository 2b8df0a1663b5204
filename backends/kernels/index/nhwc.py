"""Movement with the channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ....compiler.ir import Node
from ....compiler.ops.base import attr_int
from ...base import Element, Expr, Index, defines
from .base import i64


@defines("optc.DepthToSpace")
def depth_to_space(node: Node, inputs: Sequence[Any]) -> Sequence[Element]:
    """y[n, h b + by, w b + bx, c] = x[n, h, w, (by b + bx) C + c]."""
    x, size = inputs[0], i64(attr_int(node, "blocksize", 1))

    def element(index: Index) -> Expr:
        n, height, width, c = index
        by, bx = tirx.floormod(height, size), tirx.floormod(width, size)
        channels = x.dims.expr(node.outputs[0].type.dims[3])
        return x([n, tirx.floordiv(height, size), tirx.floordiv(width, size), (by * size + bx) * channels + c])

    return [element]
