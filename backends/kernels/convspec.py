"""What a convolution is, whatever computes it."""

from __future__ import annotations

from dataclasses import dataclass

from .builder import Dim, floordiv, known, product
from .matmul import guess


@dataclass(frozen=True)
class ConvSpec:
    """One convolution. `batch` and `spatial` (input) may be int64 expressions, all else is known.

    `pads` are as in ONNX: all begins, then all ends; `kernel`, `strides`, `dilations` have one entry a spatial dim.
    """

    batch: Dim
    spatial: tuple[Dim, ...]
    c_in: int
    c_out: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1

    @property
    def reach(self) -> tuple[int, ...]:
        """Input elements that a kernel spans along each dim."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def out_spatial(self) -> tuple[Dim, ...]:
        """Spatial dims of the output."""
        rank = len(self.spatial)
        padded = [known(i) + self.pads[d] + self.pads[d + rank] for d, i in enumerate(self.spatial)]
        return tuple(floordiv(p - r, s) + 1 for p, r, s in zip(padded, self.reach, self.strides, strict=True))

    @property
    def pointwise(self) -> bool:
        """Whether each output pixel depends on the same input pixel alone."""
        ones = (*self.kernel, *self.strides)
        return all(x == 1 for x in ones) and not any(self.pads) and self.group == 1

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved by itself (see depthwise.py)."""
        return self.group == self.c_in == self.c_out and self.group > 1

    @property
    def padded(self) -> bool:
        """Whether any border is added to the image."""
        return any(self.pads)

    @property
    def runs(self) -> tuple[int, int]:
        """How many stretches of x that follow each other in memory make up a window, and the elements of each."""
        taps = int(product(self.kernel))
        if self.group == 1 and self.dilations[-1] == 1:
            return taps // self.kernel[-1], self.kernel[-1] * self.c_in
        return taps, self.c_in // self.group

    @property
    def macs(self) -> int:
        """Multiply-adds, unknown dims guessed."""
        out = guess(self.batch) * self.c_out * (self.c_in // self.group)
        for extent, taps in zip(self.out_spatial, self.kernel, strict=True):
            out *= guess(extent) * taps
        return out
