"""What the layers of a float graph read on some samples, recorded once, for trials as many as wanted.

A trial at a layer is a product of recorded rows, on a grid or not, with weights, rounded or not: no model is built and
nothing before the layer is computed again. Trials at other nodes run in a session (see measure.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...compiler.ir import Graph, Node
from .calibrate import collect
from .execute import Sample
from .insert import Affine, Weights, channel_axis
from .measure import Outcome, Scaled, Trial, measure
from .rows import Product, Rows
from .statistics import Statistic

FITTED, JUDGED = 4096, 512
"""Rows of a layer in all, to fit to (means, and E[x x^T] of up to 2048 channels) and to judge on: these tell the noise
of a quantization to a few percent."""
_LEAST = 16
"""Rows of a layer and a sample at least."""
_SHARE = 4
"""Rows may take this part of the memory allowed."""
_OTHERS = 4
"""Samples on which trials at nodes that are no layers are run."""


class Recorded:
    """The inputs of layers of a float graph over samples, `rows` of each layer; layers that read alike share them.

    `beside` are further statistics to gather in the same run, by value name. `memory` in bytes bounds what is kept.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Sequence[Node],
        samples: Sequence[Sample],
        *,
        rows: int = FITTED,
        beside: Mapping[str, Sequence[Statistic]] | None = None,
        memory: int = 2 << 30,
        threads: int = 1,
    ) -> None:
        self._graph, self.samples = graph, list(samples)
        products = {node: Product.of(node) for node in layers} if self.samples else {}
        self.products = {node: product for node, product in products.items() if product is not None}
        keys = {node: (node.operand(0), product) for node, product in self.products.items()}
        lengths = {key: _length(node) for node, key in keys.items()}
        room = memory // _SHARE // (4 * max(sum(lengths.values()), 1))
        count = max(_LEAST, min(rows, room) // max(len(self.samples), 1))
        kept = {key: Rows(key[1], count) for key in lengths}
        self._rows = {node: kept[key] for node, key in keys.items()}
        wanted: dict[str, list[Statistic]] = {name: list(each) for name, each in (beside or {}).items()}
        for (value, _), statistic in kept.items():
            wanted.setdefault(value.name, []).append(statistic)
        if wanted and self.samples:
            collect(graph, wanted, self.samples, budget=memory, threads=threads)

    def rows(self, node: Node) -> np.ndarray:
        """What a layer multiplies its weights with, f32 [rows, groups, k]."""
        return self._rows[node].array

    def gram(self, node: Node) -> np.ndarray:
        """E[x x^T] of the rows of a layer of one group, f64 [k, k]."""
        x = self.rows(node)[:, 0]
        return np.asarray((x.T @ x).astype(np.float64) / max(len(x), 1))

    def measure(self, trials: Sequence[Trial], most: int = FITTED) -> list[Outcome]:
        """The outcome of each trial, on `most` of the rows."""
        found: dict[int, Outcome] = {}
        at_layers: dict[Node, list[int]] = {}
        for index, trial in enumerate(trials):
            if trial.node in self._rows:
                at_layers.setdefault(trial.node, []).append(index)
        for node, indices in at_layers.items():
            found |= zip(indices, self._at(node, [trials[i] for i in indices], most), strict=True)
        others = [i for i in range(len(trials)) if i not in found]
        found |= zip(others, measure(self._graph, [trials[i] for i in others], self.samples[:_OTHERS]), strict=True)
        return [found[i] for i in range(len(trials))]

    def _at(self, node: Node, trials: Sequence[Trial], most: int) -> list[Outcome]:
        product, rows = self.products[node], self.rows(node)
        rows = rows[:: max(1, len(rows) // most)]
        matrix = product.matrix(node, np.asarray(node.operand(1).data, np.float32))
        exact = product.times(rows, matrix)
        signal = float(np.square(_with_bias(node, exact), dtype=np.float64).sum())
        found = []
        for trial in trials:
            other, w = trial.operands.get(0), trial.operands.get(1)
            assert w is None or isinstance(w, Weights)
            tried = rows if other is None else _on_grid(rows, other, product)
            rounded = matrix if w is None else product.matrix(node, w.floats(channel_axis(node)))
            error = exact - product.times(tried, rounded)
            noise = float(np.square(error).sum(dtype=np.float64))
            sums = product.by_channel(node, error.sum(1, dtype=np.float64))
            found.append(Outcome(signal, noise, sums, error.size / max(sums.size, 1)))
        return found


def _length(node: Node) -> int:
    """Elements of a row."""
    shape, product = node.operand(1).type.static_shape, Product.of(node)
    assert product is not None
    if node.op == "Conv":
        return int(np.prod(shape[1:])) * product.groups
    return int(shape[0] if node.op == "ConvTranspose" else shape[1 - channel_axis(node)])


def _with_bias(node: Node, y: np.ndarray) -> np.ndarray:
    """y [groups, rows, n] plus the layer's own bias, where that is a row."""
    bias = node.input(2)
    outputs = y.shape[0] * y.shape[2]
    if bias is None or bias.data is None or not bias.data.size or outputs % bias.data.size:
        return y
    row = np.repeat(np.asarray(bias.data, np.float32).reshape(-1), outputs // bias.data.size)
    return np.asarray(y + row.reshape(y.shape[0], 1, -1))


def _on_grid(rows: np.ndarray, operand: Affine | Scaled | Weights, product: Product) -> np.ndarray:
    """Rows to the grid and back."""
    assert not isinstance(operand, Weights)
    grid = operand
    if isinstance(grid, Scaled):
        rows, grid = rows * product.along(grid.by.reshape(-1)), grid.grid
    found = np.rint(rows * np.float32(1 / grid.scale))
    np.clip(found, -grid.zero_point, 255 - grid.zero_point, out=found)
    found *= np.float32(grid.scale)
    return np.asarray(found)
