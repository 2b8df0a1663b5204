"""Input channels of layers brought to like ranges, so that one grid serves them all.

A channel of x is divided by s_c and the weights that read it are multiplied, with

    s_c = max|x_c|^a / max|w_c|^(1-a)

(Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023,
equation 4). For a depthwise convolution, whose weights have a scale for each channel, a = 1 costs nothing. `a` is
searched value by value. What divides x is absorbed by what makes it (see equalize.py), or else becomes a
multiplication, which a kernel does in registers before it stores x in 8 bits. What gains at the layers may still lose
at the outputs: `scalings` finds what gains, `apply_scalings` does it, and who calls them judges the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...compiler.ir import Graph, Loc, Node, Value
from .equalize import absorb, input_axis, scale_input, scaled_weights, weight_range
from .histogram import Histogram
from .insert import Affine, channel_axis, nearest
from .measure import Scaled, Trial, decibels
from .observers import range_of
from .placement import Placement
from .record import Recorded
from .report import Kept
from .statistics import ChannelRange

_ALPHAS = (0.25, 0.5, 0.75)
_WIDEST = 1e3
"""Scales lie within this factor of their median."""
_UNEVEN = 1.5
"""Where the largest channel is within this factor of the mean there is little to gain, and nothing is tried."""
LEAST_GAIN = 0.25
_PAID_GAIN = 2.0
"""dB that a layer must gain if nothing is computed for it, and if a multiplication is."""


@dataclass(frozen=True)
class _Shared:
    """A value that only layers read, and the ways to scale it."""

    value: Value
    layers: tuple[Node, ...]
    axis: int
    scales: tuple[np.ndarray, ...]  # each [channels]; ones first


@dataclass(frozen=True)
class Scaling:
    """What gains at the layers that read a value: to divide it by `scale` [channels], in dB."""

    way: _Shared
    scale: np.ndarray
    gain: float
    steps: Mapping[Node, Kept]
    """What it does to each layer."""


def scalings(graph: Graph, fit: Recorded, judge: Recorded, ranges: Mapping[Value, ChannelRange]) -> list[Scaling]:
    """What may be scaled, most gain first; the graph stays as it is.

    Scales and ranges come from `fit`, with the channels of the values that may be scaled in `ranges` (see `scalable`);
    what they gain is measured on `judge`.
    """
    scalings: list[Scaling] = []
    for each in _ways(fit, ranges):
        outcomes = iter(judge.measure(list(_trials(each, fit))))
        found = [[next(outcomes) for _ in each.layers] for _ in each.scales]
        costs = [decibels(1.0, sum(o.relative for o in outcome)) for outcome in found]
        best = int(np.argmax(costs))
        pairs = zip(each.layers, found[0], found[best], strict=True)
        steps = {node: Kept(before.snr, after.snr, False) for node, before, after in pairs}
        scalings.append(Scaling(each, each.scales[best], costs[best] - costs[0], steps))
    return sorted(scalings, key=lambda s: -s.gain)


def apply_scalings(graph: Graph, chosen: Sequence[Scaling], *, insert: bool = True) -> dict[Node, Kept]:
    """Scales in place what gains enough; the graph computes the same as before. The result tells what was done.

    `insert` allows multiplications where nothing absorbs a scale.
    """
    steps: dict[Node, Kept] = {}
    for each in chosen:
        kept = each.gain > LEAST_GAIN and _apply(graph, each.way, each.scale, insert and each.gain > _PAID_GAIN)
        steps |= {node: step._replace(kept=kept) for node, step in each.steps.items()}
    return steps


def scaled_copy(graph: Graph, chosen: Sequence[Scaling], *, insert: bool = True) -> Graph:
    """A copy of the graph to which the scalings are applied."""
    values: dict[Value, Value] = {}
    copy = graph.clone(values)
    nodes = dict(zip(graph.nodes, copy.nodes, strict=True))
    moved = []
    for each in chosen:
        way = replace(each.way, value=values[each.way.value], layers=tuple(nodes[n] for n in each.way.layers))
        moved.append(replace(each, way=way, steps={nodes[n]: step for n, step in each.steps.items()}))
    apply_scalings(copy, moved, insert=insert)
    return copy


def scalable(placement: Placement) -> dict[Value, ChannelRange]:
    """The values that may be scaled: those that only layers read, and along one axis; the statistics to gather."""
    layers = set(placement.layers)
    found: dict[Value, ChannelRange] = {}
    for node in placement.layers:
        x = node.operand(0)
        only_layers = all(u.user in layers and u.slot == 0 for u in x.uses)
        if x.producer is not None and only_layers and len({input_axis(n) for n in x.users}) == 1:
            found[x] = ChannelRange(input_axis(node))
    return found


def _ways(fit: Recorded, ranges: Mapping[Value, ChannelRange]) -> list[_Shared]:
    """The values that may be scaled, with the scales to try."""
    found: list[_Shared] = []
    for x, statistic in ranges.items():
        nodes, size = x.users, statistic.absolute_maximum
        weights = np.max([weight_range(n) for n in nodes], 0)
        known = all(n in fit.products for n in nodes) and size.shape == weights.shape
        if known and size.max(initial=0.0) > 0 and np.isfinite(size).all():
            free = all(_is_depthwise(n) for n in nodes)
            if size.max() > _UNEVEN * size.mean():
                scales = (np.ones_like(size), *_scales(size, weights, free))
                found.append(_Shared(x, nodes, statistic.axis, scales))
    return found


def _is_depthwise(node: Node) -> bool:
    return node.op == "Conv" and node.operand(1).type.dims[1] == 1


def _scales(size: np.ndarray, weights: np.ndarray, free: bool) -> Iterator[np.ndarray]:
    for alpha in (1.0,) if free else _ALPHAS:
        used = (size > 0) & (weights > 0)
        scale = np.ones_like(size)
        scale[used] = size[used] ** alpha / (1.0 if free else weights[used] ** (1 - alpha))
        if used.any():
            middle = float(np.median(scale[used]))
            scale[used] = np.clip(scale[used] / middle, 1 / _WIDEST, _WIDEST)
        yield scale


def _trials(each: _Shared, fit: Recorded) -> Iterator[Trial]:
    """For each scale and layer, the layer with both operands quantized as they would be."""
    rows, product = fit.rows(each.layers[0]), fit.products[each.layers[0]]
    for scale in each.scales:
        histogram = Histogram()
        histogram.update(rows * product.along(1 / scale))
        step, zero_point = range_of(histogram, "mse").affine()
        grid = Affine(float(step), zero_point)
        x = Scaled(_along(1 / scale, each.axis, each.value.type.rank), grid)
        for node in each.layers:
            yield Trial(node, {0: x, 1: nearest(scaled_weights(node, scale), channel_axis(node))})


def _apply(graph: Graph, each: _Shared, scale: np.ndarray, insert: bool) -> bool:
    """Divides the value by the scale and multiplies the weights; False if that is not possible."""
    if not absorb(graph, each.value, 1 / scale, each.axis):
        if not insert or each.value.producer is None:
            return False
        _multiply(graph, each, _along(1 / scale, each.axis, each.value.type.rank))
    for node in each.layers:
        scale_input(graph, node, scale)
    return True


def _multiply(graph: Graph, each: _Shared, by: np.ndarray) -> None:
    value, maker = each.value, each.value.producer
    assert maker is not None
    factor = graph.constant(by.astype(np.float32), f"{value.name}_factor")
    loc = Loc((f"{value.name}_smooth",))
    names = [f"{value.name}_smoothed"]
    result = graph.emit("Mul", [value, factor], names=names, before=maker._next, loc=loc).output
    for node in each.layers:
        graph.set_input(node, 0, result)


def _along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """[channels] in a shape that broadcasts along `axis`."""
    shape = [1] * rank
    shape[axis] = -1
    return np.asarray(vector.reshape(shape), np.float32)
