"""Pools, channels last, and the mean over all pixels; of floats, or of bytes and bfloat16 on their way to be floats."""

from __future__ import annotations

from typing import Any

from ...compiler.ir import Node, Value
from ...compiler.ops.base import attr_int, attr_ints, attr_str
from ...compiler.types import DType
from ..kernels import mean, pool
from ..kernels.reduce import reduced_axes
from ..steps import Kernel
from .base import Anchor, template
from .conv import conv_pads

_HELD: dict[DType, Any] = {DType.F32: "float32", DType.U8: "uint8", DType.BF16: "uint16"}
"""How kernels hold what they read."""


def _is_plain_pool(node: Node) -> bool:
    """The indices are not asked for; SAME padding needs static spatial dims."""
    x = node.operand(0)
    static = all(isinstance(d, int) for d in x.type.dims[1:-1])
    same = attr_str(node, "auto_pad", "NOTSET").startswith("SAME")
    return isinstance(x.type.dims[-1], int) and (static or not same)


@template("optc.MaxPool", "optc.AveragePool", form=_is_plain_pool, pitched=True)
def _pool(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    kernel, source = attr_ints(node, "kernel_shape"), _source(anchor)
    if kernel is None or source is None or not _is_plain_pool(node):
        return None
    x, scale, zero_point = source
    if x.type.dtype not in _HELD:
        return None
    shape, out = anchor.shape(x), anchor.shape(node.outputs[0])
    ones = (1,) * len(kernel)
    spec = pool.PoolSpec(
        kind="max" if node.op == "optc.MaxPool" else "average",
        batch=shape[0],
        spatial=tuple(shape[1:-1]),
        out=tuple(out[1:-1]),
        channels=int(shape[-1]),
        kernel=kernel,
        strides=attr_ints(node, "strides") or ones,
        pads=conv_pads(node, kernel),
        dilations=attr_ints(node, "dilations") or ones,
        count_include_pad=bool(attr_int(node, "count_include_pad", 0)),
        dtype=_HELD[x.type.dtype],
        scale=scale,
        zero_point=zero_point,
    )
    epilogue = anchor.epilogue()
    plan = anchor.plan(pool, spec)
    return anchor.kernel(pool.build(spec, plan, epilogue), [x], epilogue, f"pool {plan}")


def _is_mean_of_pixels(node: Node) -> bool:
    """Over all dims but the first and last, of what a DequantizeLinear or a Cast from bfloat16 makes."""
    x = node.operand(0)
    maker = x.producer
    if maker is None or maker.op not in ("DequantizeLinear", "Cast") or x.type.shape is None:
        return False
    return (
        isinstance(x.type.dims[-1], int) and x.type.rank > 2 and reduced_axes(node) == list(range(1, x.type.rank - 1))
    )


@template("ReduceMean", form=_is_mean_of_pixels)
def _mean(anchor: Anchor) -> Kernel | None:
    source = _source(anchor)
    if source is None or not _is_mean_of_pixels(anchor.node):
        return None
    x, scale, zero_point = source
    if x.type.dtype not in (DType.U8, DType.BF16):
        return None
    batch, *spatial, channels = anchor.shape(x)
    spec = mean.MeanSpec(batch, tuple(spatial), int(channels), scale, zero_point, _HELD[x.type.dtype])
    epilogue = anchor.epilogue()
    if epilogue is not None and not epilogue.flat:
        return None
    plan = anchor.plan(mean, spec)
    return anchor.kernel(mean.build(spec, plan, epilogue), [x], epilogue, f"mean {plan}")


def _source(anchor: Anchor) -> tuple[Value, float, int] | None:
    """What the anchor reads: a tensor, and the scale and zero point of the DequantizeLinear it reads that through
    (1 and 0 if there is none). None if they are not constants of one element."""
    if not anchor.region.before:
        return anchor.node.operand(0), 1.0, 0
    (maker,) = anchor.region.before
    if maker.op == "Cast":
        return maker.operand(0), 1.0, 0
    scale, point = maker.operand(1).data, maker.input(2)
    if scale is None or scale.size != 1 or (point is not None and point.data is None):
        return None
    zero = 0 if point is None or point.data is None else int(point.data.reshape(-1)[0])
    return maker.operand(0), float(scale.reshape(-1)[0]), zero
