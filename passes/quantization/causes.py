"""What makes a quantized layer inexact, read from the distribution of its input, its weights and measured noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.ir import Node, Value
from .calibrate import collect
from .equalize import input_axis
from .execute import Sample
from .histogram import Histogram
from .insert import Affine, channel_axis, nearest
from .statistics import ChannelRange
from .whatif import input_channels

if TYPE_CHECKING:
    from .quantize import Study

CLEAN = 35.0
"""dB alone from which a layer is as exact as 8 bits are."""
_BEFORE = 6.0
"""dB that a layer must lose in the whole model for most of its noise to come from before (it is 3/4 at 6 dB)."""
_PEAK = 4.0
"""Greatest value over the 99.9th percentile that makes an outlier."""
_SPREAD = 8.0
"""Greatest channel over the median one that makes a spread."""
_UNPAID = 32
"""Multiply-adds for each value converted below which a layer between floats does not pay in integers."""


@dataclass(frozen=True)
class Facts:
    """Of a layer. `snr` and `alone` are dB in the whole model and given float inputs, `input_only` and `weights_only`
    alone with one operand quantized. `clipped` is the share of input values beyond the grid, `clip_error` and
    `round_error` are the expected squares of either. `peak` is max |x| over the 99.9th percentile; `lowest`, `highest`
    f64 [input channels] are what each channel spans. `widened`: a bias that would leave int32 made a weight's step
    larger. `island`: floats before and after, and little work a value."""

    clipped: float
    clip_error: float
    round_error: float
    peak: float
    lowest: np.ndarray
    highest: np.ndarray
    widened: bool = False
    island: bool = False
    snr: float = 0.0
    alone: float = 0.0
    input_only: float = 0.0
    weights_only: float = 0.0

    @property
    def channels(self) -> np.ndarray:
        """max |x| of each input channel."""
        return np.asarray(np.maximum(np.abs(self.lowest), np.abs(self.highest)))

    @property
    def spread(self) -> float:
        """The greatest channel over the median of those that are not zero."""
        live = self.channels[self.channels > 0]
        return float(live.max() / np.median(live)) if live.size else 1.0


def cause_of(facts: Facts) -> tuple[str, str]:
    """(cause, figures that show it), the first that applies."""
    before = facts.alone - facts.snr
    if facts.alone < CLEAN:
        cause, detail = _own_cause(facts)
        return cause, f"{detail}; most noise comes from before" if before > _BEFORE else detail
    if before > _BEFORE:
        return "error from before", f"{before:.0f} dB less than given float inputs"
    if facts.island:
        return "integer island", "exact, but floats on both sides: conversions are not paid for"
    return "none", "as exact as 8 bits are"


def _own_cause(facts: Facts) -> tuple[str, str]:
    """What the layer itself adds noise by."""
    if facts.weights_only < facts.input_only:
        if facts.widened:
            return "bias overflow", "a bias too large for int32 widened the steps of weights"
        return "weight rounding", f"weights alone give {facts.weights_only:.1f} dB, the input {facts.input_only:.1f}"
    if facts.clip_error > facts.round_error:
        return "clipped tail", f"{facts.clipped:.2%} of the input is clipped, which costs more than rounding"
    if facts.spread > _SPREAD:
        return "channel spread", f"a channel of the input spans {facts.spread:.0f} times the median one's range"
    if facts.peak > _PEAK:
        return "outlier range", f"the input's greatest value is {facts.peak:.0f} times its 99.9th percentile"
    return "rounding of the input", f"spread evenly: weights {facts.weights_only:.1f} dB, input {facts.input_only:.1f}"


def facts_of(study: Study, layers: Sequence[Node], samples: Sequence[Sample]) -> dict[Node, Facts]:
    """What is known of each layer without its noise."""
    wanted = {n.operand(0).name: [ChannelRange(input_axis(n))] for n in layers}
    collect(study.graph, wanted, samples)
    found = {}
    for node in layers:
        value, grid = node.operand(0), study.choice.grids[node.operand(0)]
        channels, histogram = wanted[value.name][0], study.histograms.get(value.name)
        clipped, clip, round_, peak = _tails(histogram, grid) if histogram is not None else (0.0, 0.0, 0.0, 1.0)
        low, high = channels.minimum, channels.maximum
        found[node] = Facts(clipped, clip, round_, peak, low, high, _is_widened(study, node), _is_island(study, node))
    return found


def _tails(histogram: Histogram, grid: Affine) -> tuple[float, float, float, float]:
    """(share clipped, mean square of what is clipped, of rounding, peak over 99.9th percentile)."""
    lower, upper, counts = histogram.bins()
    if not counts.size:
        return 0.0, 0.0, 0.0, 1.0
    middle, share = (lower + upper) / 2, counts / counts.sum()
    least, most = -grid.scale * grid.zero_point, grid.scale * (255 - grid.zero_point)
    beyond = middle - middle.clip(least - grid.scale / 2, most + grid.scale / 2)
    out, zero = beyond != 0, (lower == 0) & (upper == 0)
    size = np.abs(middle)
    order = np.argsort(size)
    place = min(int(np.searchsorted(share[order].cumsum(), 0.999)), size.size - 1)
    usual = float(size[order][place])
    peak = max(-histogram.minimum, histogram.maximum) / usual if usual > 0 else 1.0
    rounding = float(share[~out & ~zero].sum()) * grid.scale**2 / 12
    return float(share[out].sum()), float((share * beyond**2).sum()), rounding, peak


def _is_widened(study: Study, node: Node) -> bool:
    """Whether a scale of the weights is larger than the weights need."""
    if node in study.choice.weights:
        return False
    chosen = study.choice.weights_of(node)
    own = nearest(np.asarray(node.operand(1).data, np.float32), channel_axis(node))
    return bool((chosen.scale > own.scale * 1.01).any())


def _is_island(study: Study, node: Node) -> bool:
    """Quantized for this layer only, from floats and to floats, with few multiply-adds for each value read."""
    value = node.operand(0)
    own = len(value.uses) == 1 and not _from_layer(value, study)
    left = not any(v in study.choice.grids for v in _followers(node))
    work = prod(node.operand(1).type.static_shape) / input_channels(
        node
    )  # multiply-adds that read a value, at stride 1
    return own and left and work < _UNPAID


def _from_layer(value: Value, study: Study) -> bool:
    return value.producer is not None and any(
        n is value.producer or n.outputs[0] in value.producer.inputs for n in study.placement.layers
    )


def _followers(node: Node) -> list[Value]:
    """The layer's result and those of the nodes that read it."""
    result = node.outputs[0]
    return [result, *(v for user in result.users for v in user.outputs)]
