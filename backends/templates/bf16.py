"""The products in bfloat16: operands bf16, sums f32 and whatever follows them in registers.

AMX tiles take them where the target has tiles and there are rows to fill them; all else goes to dot products of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...compiler.ir import Node, Value
from ...compiler.ops.base import attr_float, attr_int
from ..kernels.amx import conv_bf16 as amx_conv
from ..kernels.amx import matmul_bf16 as amx_matmul
from ..kernels.bf16 import conv, matmul
from ..kernels.matmul import MatmulSpec
from ..packing import Packed
from ..steps import Kernel, Param
from .base import Anchor, template
from .conv import conv_spec, is_plain_conv
from .tiles import families

FEWEST_PRODUCTS = 16
"""Products of a sum from which tiles are worth it (see tiles.py)."""


def _call(anchor: Anchor, able: Sequence[Any], spec: Any, weights: Value, columns: int) -> Kernel:
    """The kernel of one of the families able to compute this node: x, packed weights, bias, the epilogue's."""
    alpha, bias = attr_float(anchor.node, "alpha", 1.0), anchor.node.input(2)
    epilogue = anchor.epilogue() if alpha == 1.0 else anchor.epilogue(bias, alpha)
    added: Param = np.zeros(columns, np.float32) if bias is None or alpha != 1.0 else bias
    chosen = anchor.choose(spec, *able)
    bits = np.asarray(weights.data).view(np.uint16)
    packed = Packed(bits, lambda array: chosen.family.pack_weights(array, spec, chosen.plan))
    func = chosen.family.build(spec, chosen.plan, epilogue)
    params: list[Param] = [anchor.node.operand(0), packed, added]
    return anchor.kernel(func, params, epilogue, str(chosen))


@template("optc.ConvBF16", form=is_plain_conv, pitched=True)
def _conv(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not is_plain_conv(node):
        return None
    spec = conv_spec(anchor)
    return _call(
        anchor, families(conv, amx_conv, spec, anchor.target, FEWEST_PRODUCTS), spec, node.operand(1), spec.c_out
    )


def is_constant_matmul(node: Node) -> bool:
    """B is a constant matrix, and A read in place."""
    a, b = node.operand(0), node.operand(1)
    plain = b.data is not None and b.type.rank == 2 and not attr_int(node, "transA", 0)
    return plain and a.type.shape is not None and a.type.rank >= 2


@template("optc.MatMulBF16", form=is_constant_matmul, pitched=True)
def _matmul(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not is_constant_matmul(node):
        return None
    a, b = node.operand(0), node.operand(1)
    trans_b = bool(attr_int(node, "transB", 0))
    shape = anchor.shape(a)
    k, n = b.type.static_shape[:: -1 if trans_b else 1]
    spec = MatmulSpec(m=shape[-2], n=n, k=k, batch_a=tuple(shape[:-2]), trans_b=trans_b)
    return _call(anchor, families(matmul, amx_matmul, spec, anchor.target, FEWEST_PRODUCTS), spec, b, n)
