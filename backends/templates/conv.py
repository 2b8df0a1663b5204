"""Convolutions, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int, attr_ints, attr_str
from ..kernels import conv, depthwise
from ..kernels.bf16 import depthwise as depthwise_bf16
from ..steps import Kernel
from .base import Anchor, template


def conv_spec(anchor: Anchor) -> conv.ConvSpec:
    """The shape of an optc.Conv or optc.ConvInteger."""
    node = anchor.node
    x, w = node.operand(0), node.operand(1)
    rank = x.type.rank - 2
    shape = anchor.shape(x)
    kernel = tuple(int(d) for d in w.type.static_shape[2:])
    return conv.ConvSpec(
        batch=shape[0],
        spatial=tuple(shape[1:-1]),
        c_in=int(shape[-1]),
        c_out=w.type.static_shape[0],
        kernel=kernel,
        strides=attr_ints(node, "strides") or (1,) * rank,
        pads=conv_pads(node, kernel),
        dilations=attr_ints(node, "dilations") or (1,) * rank,
        group=attr_int(node, "group", 1),
    )


def conv_pads(node: Node, kernel: Sequence[int]) -> tuple[int, ...]:
    """Explicit pads [begins..., ends...] of an optc.Conv or pool; SAME needs static spatial dims."""
    rank = len(kernel)
    auto = attr_str(node, "auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return attr_ints(node, "pads") or (0,) * (2 * rank)
    if auto == "VALID":
        return (0,) * (2 * rank)
    strides = attr_ints(node, "strides") or (1,) * rank
    dilations = attr_ints(node, "dilations") or (1,) * rank
    begins, ends = [], []
    for size, taps, stride, dilation in zip(node.operand(0).type.dims[1:-1], kernel, strides, dilations, strict=True):
        total = max(0, (-(-int(size) // stride) - 1) * stride + (taps - 1) * dilation + 1 - int(size))
        small = total // 2
        begins.append(total - small if auto == "SAME_LOWER" else small)
        ends.append(small if auto == "SAME_LOWER" else total - small)
    return (*begins, *ends)


def is_plain_conv(node: Node) -> bool:
    """Constant weights, known channels; SAME padding needs static spatial dims."""
    x, w = node.operand(0), node.operand(1)
    static = all(isinstance(d, int) for d in x.type.dims[1:-1])
    same = attr_str(node, "auto_pad", "NOTSET").startswith("SAME")
    return w.data is not None and isinstance(x.type.dims[-1], int) and (static or not same)


@template("optc.Conv", form=is_plain_conv, pitched=True)
def _conv(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    weights = node.operand(1).data
    if weights is None:
        return None
    spec = conv_spec(anchor)
    epilogue = anchor.epilogue(node.input(2))
    family: Any = depthwise if spec.depthwise else conv
    source = node.operand(0)
    if anchor.region.before:  # a Cast from bfloat16, which only the depthwise kernel reads through
        if not spec.depthwise:
            return None
        family, source = depthwise_bf16, anchor.region.before[0].operand(0)
    chosen = anchor.choose(spec, family)
    packed = chosen.family.pack_weights(np.asarray(weights), spec, chosen.plan)
    func = chosen.family.build(spec, chosen.plan, epilogue)
    return anchor.kernel(func, [source, packed], epilogue, str(chosen))
