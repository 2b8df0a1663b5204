"""Weights rounded so that the layer's output, not the weight, is near: GPTQ on calibration inputs.

Minimizes E|(w - q)^T x|^2 = (w - q)^T H (w - q) with H = E[x x^T] of each output channel, weight by weight: what
rounding one costs is spread over those not yet rounded (Frantar et al., "GPTQ: Accurate Post-Training Quantization
for Generative Pre-trained Transformers", ICLR 2023, algorithm 1). x is the input as its grid rounds it; that of a
convolution is unfolded into patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...compiler.ir import Graph, Node
from ...compiler.ops.base import attr_int, attr_ints
from .calibrate import collect
from .execute import Sample
from .insert import Affine, Choice, Weights, bias_place, channel_axis
from .measure import Outcome, Trial, measure
from .placement import Placement
from .report import Kept
from .statistics import Gram

_LONGEST = 2048
"""Products longer than this keep the nearest weights: H and its inverse would take too long."""
_ROWS = 4096
"""Inputs taken from a sample."""
_BLOCK = 64
"""Weights between two updates of all that are left: one product of matrices in place of many passes over them."""
_DAMPING = 0.01
"""Of the mean diagonal of H, added to it."""


class _Inputs(Gram):
    """E[x x^T] of what a layer multiplies its weights with, x on its grid."""

    def __init__(self, node: Node, grid: Affine) -> None:
        super().__init__()
        self._node, self._grid = node, grid

    @property
    def kind(self) -> str:
        return f"Inputs({self._node.name}, {self._grid})"

    def update(self, array: np.ndarray) -> None:
        scale, zero = np.float32(self._grid.scale), self._grid.zero_point
        rounded = (np.clip(np.rint(array / scale) + zero, 0, 255) - zero) * scale
        rows = _patches(self._node, rounded) if self._node.op == "Conv" else rounded.reshape(-1, rounded.shape[-1])
        super().update(rows[:: -(-len(rows) // _ROWS) or 1])


def rounded(
    graph: Graph, placement: Placement, choice: Choice, fit: Sequence[Sample], judge: Sequence[Sample]
) -> tuple[dict[Node, Weights], dict[Node, Kept]]:
    """Weights for the layers that gain by them, and what that does; H from `fit`, gains measured on `judge`.

    The mean error of a channel does not count where a bias can take it back.
    """
    layers = [n for n in placement.layers if _length(n) is not None]
    inputs = {n: _Inputs(n, choice.grids[n.operand(0)]) for n in layers}
    wanted: dict[str, list[_Inputs]] = {}
    for node, gram in inputs.items():
        wanted.setdefault(node.operand(0).name, []).append(gram)
    collect(graph, wanted, fit)
    nearest = {n: choice.weights_of(n) for n in layers}
    better = {n: _reconstructed(n, nearest[n], inputs[n].mean) for n in layers}
    trials = [Trial(n, {0: choice.grids[n.operand(0)], 1: w[n]}) for w in (nearest, better) for n in layers]
    outcomes = [_centred(t.node, o) for t, o in zip(trials, measure(graph, trials, judge), strict=True)]
    weights: dict[Node, Weights] = {}
    steps: dict[Node, Kept] = {}
    for node, before, after in zip(layers, outcomes[: len(layers)], outcomes[len(layers) :], strict=True):
        steps[node] = Kept(before.snr, after.snr, after.noise < before.noise)
        if steps[node].kept:
            weights[node] = better[node]
    return weights, steps


def _centred(node: Node, outcome: Outcome) -> Outcome:
    return outcome if bias_place(node) is None else outcome.shifted(outcome.shift)


def _length(node: Node) -> int | None:
    """How many products a sum of the layer has; None for layers whose weights are rounded to nearest."""
    shape = node.operand(1).type.static_shape
    if node.op == "Conv":
        plain = attr_int(node, "group", 1) == 1 and node.attrs.get("auto_pad", "NOTSET") == "NOTSET" and len(shape) == 4
        length = int(np.prod(shape[1:])) if plain else None
    elif node.op in ("MatMul", "Gemm"):
        length = shape[1 - channel_axis(node)]
    else:
        length = None
    return length if length is not None and length <= _LONGEST else None


def _patches(node: Node, x: np.ndarray) -> np.ndarray:
    """x [n, c, h, w] as rows [positions, c * kh * kw] of a convolution's operand."""
    kernel = node.operand(1).type.static_shape[2:]
    pads = attr_ints(node, "pads") or (0, 0, 0, 0)
    strides, dilations = attr_ints(node, "strides") or (1, 1), attr_ints(node, "dilations") or (1, 1)
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, extent, (2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    rows = windows.transpose(0, 2, 3, 1, 4, 5)
    return np.asarray(rows.reshape(-1, int(np.prod(rows.shape[3:]))))


def _reconstructed(node: Node, nearest: Weights, hessian: np.ndarray) -> Weights:
    """The weights on the scales of `nearest`, rounded one after another."""
    axis = channel_axis(node)
    array = np.moveaxis(np.asarray(node.operand(1).data, np.float64), axis, 0)
    found = reconstruct(array.reshape(len(array), -1), nearest.scale.astype(np.float64), hessian)
    data = np.moveaxis(found.reshape(array.shape), 0, axis)
    return Weights(np.ascontiguousarray(data), nearest.scale)


def reconstruct(weights: np.ndarray, scale: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """`weights` [channels, k] in steps of `scale` [channels] as s8, for H = `hessian` [k, k] (empty: to nearest)."""
    rest = weights.copy()
    result = np.zeros(weights.shape, np.int8)
    size = weights.shape[1]
    diagonal = np.diagonal(hessian)
    damped = np.eye(size)
    if hessian.size and diagonal.mean() > 0:
        damped = hessian + np.eye(size) * _DAMPING * diagonal.mean()
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.zeros((len(weights), stop - start))
        for i in range(start, stop):
            result[:, i] = np.clip(np.rint(rest[:, i] / scale), -127, 127)
            errors[:, i - start] = (rest[:, i] - result[:, i] * scale) / upper[i, i]
            rest[:, i + 1 : stop] -= np.outer(errors[:, i - start], upper[i, i + 1 : stop])
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    return result
