"""A layer as what it is, a product of matrices: rows of its input times its weights, in groups.

    y[r, g, n] = sum over k of x[r, g, k] w[g, k, n]

A row is what one place of the output reads: a token's channels, or the patch under a convolution's window. A transposed
convolution whose windows do not overlap reads one place and writes a patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int
from ...compiler.ops.windows import Window
from .insert import channel_axis
from .statistics import State


@dataclass(frozen=True)
class Product:
    """How a layer multiplies. `kernel` counts the weights of an input channel in a row; `window` is that of a
    convolution, None of what reads single places; `lead` is the axis of the input's channels (-1 or 1)."""

    groups: int
    kernel: int
    window: Window | None
    lead: int

    @staticmethod
    def of(node: Node) -> Product | None:
        """That of a layer; None for transposed convolutions whose windows overlap."""
        if node.op in ("Gemm", "MatMul"):
            return Product(1, 1, None, -1)
        kernel = node.operand(1).type.static_shape[2:]
        window, groups = Window.of(node, kernel), attr_int(node, "group", 1)
        if node.op == "Conv":
            return Product(groups, math.prod(kernel), window, 1)
        apart = window.strides == kernel and not any(window.pads) and node.attrs.get("output_padding") is None
        return Product(groups, 1, None, 1) if apart and window.auto_pad == "NOTSET" else None

    def times(self, rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """rows [rows, groups, k] times matrix [groups, k, n]: [groups, rows, n]."""
        if matrix.shape[2] == 1:
            return np.asarray(np.einsum("rgk,gk->gr", rows, matrix[:, :, 0])[:, :, None])
        return np.asarray(rows.transpose(1, 0, 2) @ matrix)

    def rows(self, x: np.ndarray, count: int) -> np.ndarray:
        """At most `count` rows of an input, spread evenly: f32 [rows, groups, k]."""
        if self.window is None:
            flat = np.moveaxis(x, self.lead, -1).reshape(-1, x.shape[self.lead])
            found = flat[_spread(len(flat), count)]
        else:
            found = _patches(x, self.window, count)
        return np.ascontiguousarray(found, np.float32).reshape(len(found), self.groups, -1)

    def matrix(self, node: Node, weights: np.ndarray) -> np.ndarray:
        """The layer's weights, or others of their shape, as [groups, k, n]."""
        if node.op == "Conv":
            return np.asarray(weights.reshape(self.groups, weights.shape[0] // self.groups, -1).transpose(0, 2, 1))
        if node.op == "ConvTranspose":
            return weights.reshape(self.groups, weights.shape[0] // self.groups, -1)
        return np.asarray((weights.T if channel_axis(node) == 0 else weights)[None])

    def along(self, by: np.ndarray) -> np.ndarray:
        """A factor of each input channel as one of each element of a row, f32 [groups, k]."""
        return np.asarray(np.repeat(by.reshape(self.groups, -1), self.kernel, 1), np.float32)

    def by_channel(self, node: Node, sums: np.ndarray) -> np.ndarray:
        """Sums [groups, n] added up to [output channels] (within a group, for ConvTranspose)."""
        if node.op != "ConvTranspose":
            return sums.reshape(-1)
        return np.asarray(sums.reshape(self.groups, node.operand(1).type.static_shape[1], -1).sum((0, 2)))


def _spread(size: int, count: int) -> np.ndarray:
    """At most `count` of the numbers below `size`, evenly spread by a stride that visits all columns of a picture."""
    if size <= count:
        return np.arange(size)
    stride = -(-size // count)
    while math.gcd(stride, size) != 1:
        stride += 1
    return np.arange(count) * stride % size


def _patches(x: np.ndarray, window: Window, count: int) -> np.ndarray:
    """Some patches of x [n, c, spatial...]: [rows, c, kernel...]."""
    rank = len(window.kernel)
    pads = window.resolved_pads(x.shape[2:])
    if any(pads):
        x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    views = np.lib.stride_tricks.sliding_window_view(x, window.extents, tuple(range(2, 2 + rank)))
    steps = tuple(slice(None, None, s) for s in (1, 1, *window.strides, *window.dilations))
    views = np.moveaxis(views[steps], 1, 1 + rank)
    places = np.unravel_index(_spread(math.prod(views.shape[: 1 + rank]), count), views.shape[: 1 + rank])
    return np.asarray(views[places])


class Rows:
    """A statistic: rows of a value, at most `count` of each array."""

    def __init__(self, product: Product, count: int) -> None:
        self._product, self._count = product, count
        self._parts: list[np.ndarray] = []

    @property
    def kind(self) -> str:
        return f"Rows({self._product}, {self._count})"

    def update(self, array: np.ndarray) -> None:
        if array.size:
            self._parts.append(self._product.rows(array, self._count))

    @property
    def array(self) -> np.ndarray:
        """All of them, f32 [rows, groups, k]."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0] if self._parts else np.zeros((0, 1, 1), np.float32)

    def state(self) -> State:
        return {"rows": self.array}

    def load(self, state: State) -> None:
        self._parts = [state["rows"]] if len(state["rows"]) else []
