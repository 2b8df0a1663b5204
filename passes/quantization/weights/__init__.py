"""Weight-only compression: weights become codes of a few bits that kernels decode; activations stay float.

formats.py names the formats and reads specs, rounding.py rounds a matrix to one, pack.py rewrites a graph, imports.py
recognises what other tools have compressed.
"""

from __future__ import annotations

from .formats import WeightFormat, WeightSpec, parse_spec
from .imports import CompressedWeights
from .pack import LayerReport, PackWeights, WeightReport, pack_weights
from .rounding import Packed, quantize, signal_to_noise

__all__ = [
    "CompressedWeights", "LayerReport", "PackWeights", "Packed", "WeightFormat", "WeightReport", "WeightSpec",
    "pack_weights", "parse_spec", "quantize", "signal_to_noise",
]  # fmt: skip
