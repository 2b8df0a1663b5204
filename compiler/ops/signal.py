"""Fourier transforms; complex numbers are pairs along the last axis."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import Dim, TensorType, fresh_dim
from . import dims
from .base import Op, attr_int, axis_of, check_rank, dim_of, dtype_of, fail, int_of, register, shape_of


@register
class DFT(Op):
    """input, dft_length, axis (default -2). One-sided forward keeps length // 2 + 1; one-sided inverse is real."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, shape = dtype_of(node, 0), check_rank(node, 0, 2)
        if shape is None:
            return [TensorType(dtype, None)]
        onesided, inverse = attr_int(node, "onesided", 0), attr_int(node, "inverse", 0)
        parts = 1 if onesided and inverse else 2
        axis = -2 if node.input(2) is None else int_of(node, 2)
        if axis is None:
            return [TensorType(dtype, (*(fresh_dim("dft") for _ in shape[:-1]), parts))]
        axis = axis_of(node, axis, len(shape))
        if axis == len(shape) - 1:
            fail(node, "the axis of the pairs cannot be transformed", found=axis)
        length: Dim | None = dim_of(node, 1)
        if node.input(1) is None:
            length = (shape[axis] - 1) * 2 if onesided and inverse else shape[axis]
        out = list(shape)
        out[-1] = parts
        if length is None:
            out[axis] = fresh_dim("dft")
        else:
            out[axis] = dims.floor_div(length, 2) + 1 if onesided and not inverse else length
        return [TensorType(dtype, tuple(out))]


@register
class STFT(Op):
    """signal (batch, length, 1 or 2), frame_step, window, frame_length -> (batch, frames, bins, 2)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype, signal = dtype_of(node, 0), check_rank(node, 0, 2, 3)
        window = shape_of(node, 2) if node.input(2) is not None else None
        whole = None if signal is None or node.input(2) is not None else signal[1]
        length = dim_of(node, 3) if node.input(3) is not None else window[0] if window else whole
        step = dim_of(node, 1)
        bins: Dim = fresh_dim("bins")
        if length is not None:
            bins = dims.floor_div(length, 2) + 1 if attr_int(node, "onesided", 1) else length
        frames: Dim = fresh_dim("frames")
        if signal is not None and length is not None and step is not None:
            frames = dims.floor_div(signal[1] - length, step) + 1
        return [TensorType(dtype, (fresh_dim("n") if signal is None else signal[0], frames, bins, 2))]
