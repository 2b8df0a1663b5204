"""Tensors made from parameters: ranges, fills, random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Node
from ..types import Dim, DType, TensorType, fresh_dim
from . import content as c
from . import dims
from .base import (
    Op,
    attr_dtype,
    attr_int,
    attr_ints,
    check_rank,
    check_same_dtype,
    const,
    dtype_of,
    fail,
    family,
    int_of,
    register,
    shape_of,
    type_of,
)  # fmt: skip
from .shape import target_dims


@register
class Range(Op):
    """start, limit, delta: max(0, ceil((limit - start) / delta)) elements."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [TensorType(check_same_dtype(node), (self._length(node),))]

    @staticmethod
    def _length(node: Node) -> Dim:
        given = [const(node, i) for i in range(3)]
        if all(g is not None for g in given):
            start, limit, delta = (
                float(g.item()) if g.dtype.kind == "f" else int(g.item()) for g in given if g is not None
            )
            if delta == 0:
                fail(node, "a delta of 0")
            return max(0, int(np.ceil((limit - start) / delta)))
        arrays = c.inputs_of(node, 3)
        if arrays is None:
            return fresh_dim("range")
        first, last, step = (a.item() for a in arrays)
        if not isinstance(step, int) or step == 0:
            return fresh_dim("range")
        span = last - first if step > 0 else first - last
        return dims.larger(0, dims.ceil(span / abs(step)) if not isinstance(span, int) else -(-span // abs(step)))

    def content(self, node: Node) -> np.ndarray | None:
        length, arrays = node.outputs[0].type.dims[0], c.inputs_of(node, 3)
        if not isinstance(length, int) or length > c.SMALL or arrays is None:
            return None
        first, step = arrays[0].item(), arrays[2].item()
        return c.as_array([first + i * step for i in range(length)])


@register
class ConstantOfShape(Op):
    """Every element is attribute `value` (one element, default float 0)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        value = node.attrs.get("value")
        dtype = DType.from_numpy(value.dtype) if isinstance(value, np.ndarray) else DType.F32
        shape = target_dims(node, 0)
        return [TensorType(dtype, None if shape is None else tuple(shape))]

    def content(self, node: Node) -> np.ndarray | None:
        out, value = node.outputs[0].type, node.attrs.get("value")
        if not out.is_static or dims.product(out.dims) > c.SMALL or not isinstance(value, np.ndarray):
            return None
        if value.dtype.kind not in "iub":
            return None
        return np.full(out.static_shape, value.reshape(-1)[0].item(), dtype=object)


@register
class EyeLike(Op):
    def infer(self, node: Node) -> Sequence[TensorType]:
        check_rank(node, 0, 2, 2)
        return [type_of(node, 0).with_dtype(attr_dtype(node, "dtype", dtype_of(node, 0)))]


class Random(Op):
    """A tensor of attribute `shape`."""

    deterministic = False

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = attr_ints(node, "shape")
        if shape is None:
            fail(node, "attribute shape is required")
        return [TensorType(attr_dtype(node, "dtype", DType.F32), shape)]


class RandomLike(Op):
    """A tensor of the operand's shape."""

    deterministic = False

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [type_of(node, 0).with_dtype(attr_dtype(node, "dtype", dtype_of(node, 0)))]


family(Random, "RandomNormal", "RandomUniform")
family(RandomLike, "RandomNormalLike", "RandomUniformLike")


@register
class Multinomial(Op):
    """Unnormalized log-probabilities (batch, classes) -> drawn classes (batch, sample_size)."""

    deterministic = False

    def infer(self, node: Node) -> Sequence[TensorType]:
        shape = check_rank(node, 0, 2, 2)
        rows = fresh_dim("n") if shape is None else shape[0]
        return [TensorType(attr_dtype(node, "dtype", DType.I32), (rows, attr_int(node, "sample_size", 1)))]


@register
class MelWeightMatrix(Op):
    """num_mel_bins, dft_length, sample_rate, lower and upper edge -> (dft_length // 2 + 1, num_mel_bins)."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        bins, length = int_of(node, 0), int_of(node, 1)
        shape_of(node, 4)
        rows = fresh_dim("rows") if length is None else length // 2 + 1
        dtype = attr_dtype(node, "output_datatype", DType.F32)
        return [TensorType(dtype, (rows, fresh_dim("mel") if bins is None else bins))]
