"""Output sizes of sliding windows, as Conv, the pools and ConvTranspose define them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import Node
from ..types import Dim, Shape
from . import dims
from .base import attr_int, attr_ints, attr_str, fail


@dataclass(frozen=True)
class Window:
    """Attributes of a windowed op over `len(kernel)` spatial axes; `pads` holds all begins, then all ends.

    `auto_pad` is "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER"; `pads` counts for NOTSET alone.
    """

    kernel: tuple[Dim, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    ceil_mode: bool = False

    @staticmethod
    def of(node: Node, kernel: Sequence[Dim]) -> Window:
        """Reads and checks the attributes for a kernel of these sizes."""
        rank = len(kernel)
        strides = attr_ints(node, "strides", (1,) * rank) or (1,) * rank
        dilations = attr_ints(node, "dilations", (1,) * rank) or (1,) * rank
        pads = attr_ints(node, "pads", (0,) * 2 * rank) or (0,) * 2 * rank
        for name, values, count in (
            ("strides", strides, rank),
            ("dilations", dilations, rank),
            ("pads", pads, 2 * rank),
        ):
            if len(values) != count:
                fail(node, f"attribute {name} has the wrong length", expected=count, found=list(values))
        if min(strides, default=1) < 1 or min(dilations, default=1) < 1:
            fail(node, "strides and dilations must be positive", found=f"{list(strides)}, {list(dilations)}")
        auto_pad = attr_str(node, "auto_pad", "NOTSET") or "NOTSET"
        if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            fail(node, "unknown auto_pad", found=auto_pad)
        ceil_mode = bool(attr_int(node, "ceil_mode", 0))
        return Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(pads), auto_pad, ceil_mode)

    @property
    def extents(self) -> tuple[Dim, ...]:
        """Sizes of the dilated kernel."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def output_sizes(self, spatial: Shape) -> Shape:
        """Number of window positions along each axis; zero or negative where the window does not fit."""
        return tuple(self._size(axis, size) for axis, size in enumerate(spatial))

    def _size(self, axis: int, size: Dim) -> Dim:
        stride, extent = self.strides[axis], self.extents[axis]
        if self.auto_pad.startswith("SAME"):
            return dims.ceil_div(size, stride)
        begin, end = (0, 0) if self.auto_pad == "VALID" else (self.pads[axis], self.pads[axis + len(self.kernel)])
        room = size + begin + end - extent
        if not self.ceil_mode:
            return dims.floor_div(room, stride) + 1
        # Rounded up, but a window that would start in the padding behind the input is dropped: there are
        # ceil((size + begin) / stride) starts before it.
        return dims.smaller(dims.ceil_div(room, stride) + 1, dims.ceil_div(size + begin, stride))

    def resolved_pads(self, spatial: Shape) -> tuple[Dim, ...]:
        """Begins, then ends, with auto_pad worked out for this input size; ceil_mode's extra cells are not counted."""
        if self.auto_pad == "NOTSET":
            return self.pads
        if self.auto_pad == "VALID":
            return (0,) * len(self.pads)
        begins, ends = [], []
        for axis, size in enumerate(spatial):
            covered = (self._size(axis, size) - 1) * self.strides[axis] + self.extents[axis]
            total = dims.larger(0, covered - size)
            half = dims.floor_div(total, 2)
            begins.append(half if self.auto_pad == "SAME_UPPER" else total - half)
            ends.append(total - half if self.auto_pad == "SAME_UPPER" else half)
        return (*begins, *ends)


def clamped_sizes(sizes: Shape) -> Shape:
    """Sizes below 0 become 0: no position fits. (Symbolic ones are left alone; no such input makes sense.)"""
    return tuple(max(0, d) if isinstance(d, int) else d for d in sizes)
