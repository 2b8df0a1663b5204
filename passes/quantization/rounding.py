"""Weights rounded so that the layer's output, not the weight, is near: GPTQ on calibration inputs.

Minimizes E|(w - q)^T x|^2 = (w - q)^T H (w - q) with H = E[x x^T] of each output channel, weight by weight: what
rounding one costs is spread over those not yet rounded (Frantar et al., "GPTQ: Accurate Post-Training Quantization
for Generative Pre-trained Transformers", ICLR 2023, algorithm 1). x is a row of the input: see rows.py.
"""

from __future__ import annotations

import math

import numpy as np

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int
from .insert import Affine, Choice, Weights, bias_place, channel_axis
from .measure import Outcome, Trial
from .placement import Placement
from .record import Recorded
from .report import Kept

_LONGEST = 2048
"""Products longer than this keep the nearest weights: H and its inverse would take too long."""
_BLOCK = 64
"""Weights between two updates of all that are left: one product of matrices in place of many passes over them."""
_DAMPING = 0.01
"""Of the mean diagonal of H, added to it."""


def rounded(
    placement: Placement, choice: Choice, fit: Recorded, judge: Recorded
) -> tuple[dict[Node, Weights], dict[Node, Kept]]:
    """Weights for the layers that gain by them, and what that does; H from `fit`, gains measured on `judge`.

    The mean error of a channel does not count where a bias can take it back.
    """
    layers = [n for n in placement.layers if n in fit.products and _is_reconstructible(n)]
    nearest = {n: choice.weights_of(n) for n in layers}
    better = {n: _reconstructed(n, nearest[n], _hessian(choice.grids[n.operand(0)], fit.gram(n))) for n in layers}
    trials = [Trial(n, {0: choice.grids[n.operand(0)], 1: w[n]}) for w in (nearest, better) for n in layers]
    outcomes = [_centred(t.node, o) for t, o in zip(trials, judge.measure(trials), strict=True)]
    weights: dict[Node, Weights] = {}
    steps: dict[Node, Kept] = {}
    for node, before, after in zip(layers, outcomes[: len(layers)], outcomes[len(layers) :], strict=True):
        steps[node] = Kept(before.snr, after.snr, after.noise < before.noise)
        if steps[node].kept:
            weights[node] = better[node]
    return weights, steps


def _hessian(grid: Affine, gram: np.ndarray) -> np.ndarray:
    """E[x x^T] of inputs on a grid, whose rounding adds noise of its own, d^2 / 12, to each; empty stays empty."""
    return np.asarray(gram + np.eye(len(gram)) * grid.scale**2 / 12)


def _centred(node: Node, outcome: Outcome) -> Outcome:
    return outcome if bias_place(node) is None else outcome.shifted(outcome.shift)


def _is_reconstructible(node: Node) -> bool:
    """Whether a layer's weights may be rounded by reconstruction: its sums are of one group and not too long."""
    shape = node.operand(1).type.static_shape
    if node.op == "Conv":
        return attr_int(node, "group", 1) == 1 and math.prod(shape[1:]) <= _LONGEST
    return node.op in ("MatMul", "Gemm") and shape[1 - channel_axis(node)] <= _LONGEST


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
