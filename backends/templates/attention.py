"""Fused attention: optc.Attention."""

from __future__ import annotations

from ...compiler.ir import Node, Value
from ...compiler.ops.base import attr_float, attr_int, attr_str
from ...compiler.ops.fused import BHSD, attention_dims, is_regular_attention
from ...compiler.types import DType
from ..kernels import attention
from ..kernels.builder import Dim
from ..steps import Kernel, Param
from .base import Anchor, plain, template


@template("optc.Attention")
def _attention(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not is_regular_attention(node):
        return None
    q, k, v = ([plain(d) for d in anchor.dims.shape(attention_dims(node, index))] for index in range(3))
    mask = node.input(3)
    boolean = mask is not None and mask.type.dtype is DType.BOOL
    spec = attention.AttentionSpec(
        batch=q[0], heads=q[1], key_heads=k[1], queries=q[2], keys=k[2], size=q[3], value_size=v[3],
        scale=attr_float(node, "scale", 1.0),
        layouts=_layouts(node),
        mask=None if mask is None else _mask_dims(anchor, mask),
        mask_value=attr_float(node, "mask_value", attention.LOWEST) if boolean else None,
        causal=bool(attr_int(node, "causal", 0)),
    )  # fmt: skip
    plan = next(attention.plans(spec, anchor.target))
    params: list[Param] = [value for value in node.inputs if value is not None]
    return anchor.kernel(attention.build(spec, plan), params, None, f"attention {plan}")


def _layouts(node: Node) -> tuple[str, str, str, str]:
    q, k, v, y = (attr_str(node, f"{name}_layout", BHSD) for name in "qkvy")
    return q, k, v, y


def _mask_dims(anchor: Anchor, mask: Value) -> tuple[Dim, Dim, Dim, Dim]:
    """Its dims as four."""
    shape = [1] * (4 - mask.type.rank) + anchor.shape(mask)
    return shape[0], shape[1], shape[2], shape[3]
