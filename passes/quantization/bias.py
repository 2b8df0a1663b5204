"""Bias correction: quantization shifts the mean of a layer's output, and the bias takes it back.

    b'_c = b_c + E[y_c - y^q_c]

over calibration samples (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, section 4.2, the empirical form). Each layer is corrected for its own operands' rounding, given float
inputs: then the layers' corrections do not depend on each other and one run finds them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...compiler.ir import Graph, Node
from .execute import Sample
from .insert import Choice, bias_place, quantized_operands
from .measure import Trial, measure_each
from .placement import Placement
from .report import Kept


def shifts_of(
    graph: Graph, placement: Placement, choice: Choice, fit: Sequence[Sample], judge: Sequence[Sample]
) -> tuple[dict[Node, np.ndarray], dict[Node, Kept]]:
    """What to add to each layer's bias, f64 [channels], and what that does.

    The means come from the samples `fit`; a correction is kept where it lowers the error on the samples `judge`.
    """
    layers = [n for n in placement.layers if bias_place(n) is not None]
    trials = [Trial(n, quantized_operands(n, choice)) for n in layers]
    shifts: dict[Node, np.ndarray] = {}
    steps: dict[Node, Kept] = {}
    seen, plain = measure_each(graph, trials, fit, judge)
    for node, found, before in zip(layers, seen, plain, strict=True):
        shift = found.shift
        after = before.shifted(shift)
        keep = after.noise < before.noise  # false for what is not finite
        steps[node] = Kept(before.snr, after.snr, keep)
        if keep:
            shifts[node] = shift
    return shifts, steps
