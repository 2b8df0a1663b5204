"""Fused attention: optc.Attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...compiler.ir import Node, Value
from ...compiler.ops.base import attr_float, attr_int, attr_str
from ...compiler.ops.fused import BHSD, attention_dims, is_regular_attention
from ...compiler.types import DType
from ..kernels import attention
from ..kernels.amx import attention as amx_attention
from ..kernels.builder import Dim
from ..steps import Kernel, Param
from .base import Anchor, plain, template

HIDDEN = -1e30
"""Scores with this or less added have no weight beside any other."""


def attention_spec(anchor: Anchor) -> tuple[attention.AttentionSpec, list[Param]]:
    """What a regular optc.Attention is, and what its kernel reads: q, k, v and the mask if one is left to read."""
    node = anchor.node
    q, k, v = ([plain(d) for d in anchor.dims.shape(attention_dims(node, index))] for index in range(3))
    mask = node.input(3)
    causal = bool(attr_int(node, "causal", 0))
    if has_causal_mask(node):
        mask, causal = None, True
    boolean = mask is not None and mask.type.dtype is DType.BOOL
    spec = attention.AttentionSpec(
        batch=q[0], heads=q[1], key_heads=k[1], queries=q[2], keys=k[2], size=q[3], value_size=v[3],
        scale=attr_float(node, "scale", 1.0),
        layouts=_layouts(node),
        mask=None if mask is None else _mask_dims(anchor, mask),
        mask_value=attr_float(node, "mask_value", attention.LOWEST) if boolean else None,
        causal=causal,
    )  # fmt: skip
    return spec, [value for value in (*node.inputs[:3], mask) if value is not None]


@template("optc.Attention", form=is_regular_attention)
def _attention(anchor: Anchor) -> Kernel | None:
    if not is_regular_attention(anchor.node):
        return None
    spec, params = attention_spec(anchor)
    epilogue = anchor.epilogue()
    if epilogue is not None and epilogue.values:
        return None
    family: Any = attention
    if anchor.region.before:  # Casts from bfloat16, which only the kernel on tiles reads through
        short = {cast.outputs[0]: cast.operand(0) for cast in anchor.region.before}
        if not short.keys() >= set(params[:3]) or not amx_attention.applies(spec, anchor.target):
            return None
        family, params = amx_attention, [*(short[anchor.node.operand(i)] for i in range(3)), *params[3:]]
    plan = anchor.plan(family, spec)
    name = family.__name__.rpartition("kernels.")[2].replace(".", " ")
    return anchor.kernel(family.build(spec, plan, epilogue), params, epilogue, f"{name} {plan}")


def _layouts(node: Node) -> tuple[str, str, str, str]:
    q, k, v, y = (attr_str(node, f"{name}_layout", BHSD) for name in "qkvy")
    return q, k, v, y


def _mask_dims(anchor: Anchor, mask: Value) -> tuple[Dim, Dim, Dim, Dim]:
    """Its dims as four."""
    shape = [1] * (4 - mask.type.rank) + anchor.shape(mask)
    return shape[0], shape[1], shape[2], shape[3]


def has_causal_mask(node: Node) -> bool:
    """Whether the mask is constant and hides just the keys that `causal` would, of which the kernel skips blocks.

    A number far below all scores is as good as minus infinity in a row that sees some key; so each row must see one.
    """
    mask = node.input(3)
    queries, keys = attention_dims(node, 0)[2], attention_dims(node, 1)[2]
    if mask is None or mask.data is None or not isinstance(queries, int) or not isinstance(keys, int):
        return False
    if queries > keys or mask.data.size != queries * keys or mask.type.static_shape[-2:] != (queries, keys):
        return False
    table = np.asarray(mask.data).reshape(queries, keys)
    if mask.type.dtype is DType.BOOL:
        table = np.where(table, 0.0, attr_float(node, "mask_value", attention.LOWEST))
    seen = np.tri(queries, keys, keys - queries, dtype=bool)
    return bool((table[seen] == 0).all() and (table[~seen] <= HIDDEN).all())
