"""Bias correction: quantization shifts the mean of a layer's output, and the bias takes it back.

    b'_c = b_c + E[y_c - y^q_c]

over calibration samples (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, section 4.2, the empirical form). Each layer is corrected for its own operands' rounding, given float
inputs: then the layers' corrections do not depend on each other and one run finds them all.
"""

from __future__ import annotations

import numpy as np

from ...compiler.ir import Node
from .insert import Choice, bias_place, quantized_operands
from .measure import Trial
from .placement import Placement
from .record import Recorded
from .report import Kept


def shifts_of(
    placement: Placement, choice: Choice, fit: Recorded, judge: Recorded
) -> tuple[dict[Node, np.ndarray], dict[Node, Kept]]:
    """What to add to each layer's bias, f64 [channels], and what that does.

    The means come from `fit`; a correction is kept where it lowers the error on `judge`.
    """
    layers = [n for n in placement.layers if bias_place(n) is not None]
    trials = [Trial(n, quantized_operands(n, choice)) for n in layers]
    shifts: dict[Node, np.ndarray] = {}
    steps: dict[Node, Kept] = {}
    for node, found, before in zip(layers, fit.measure(trials), judge.measure(trials), strict=True):
        shift = found.shift
        after = before.shifted(shift)
        keep = after.noise < before.noise  # false for what is not finite
        steps[node] = Kept(before.snr, after.snr, keep)
        if keep:
            shifts[node] = shift
    return shifts, steps
