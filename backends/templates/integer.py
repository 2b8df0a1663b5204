"""The products in integers: u8 activations, s8 weights, s32 sums and whatever follows them in registers.

AMX tiles take them where the target has tiles and there are rows to fill them; all else goes to byte dot products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...compiler.ir import Node, Value
from ..isa.dot import arithmetic
from ..kernels.amx import conv as amx_conv
from ..kernels.amx import matmul as amx_matmul
from ..kernels.dot import conv, depthwise, matmul
from ..kernels.matmul import MatmulSpec
from ..packing import Packed
from ..steps import Kernel, Param
from ..target import Target
from .base import Anchor, template
from .conv import conv_spec, is_plain_conv
from .tiles import families

FEWEST_PRODUCTS = 32
"""Products of a sum from which tiles are worth it (see tiles.py)."""


def _bias(node: Node, target: Target, axis: int) -> list[Param]:
    """What is added to the sums: a bias, zeros where the node has none, and what an arithmetic that shifts leaves out.
    The columns are `axis` of the weights."""
    value, weights = node.input(2), np.asarray(node.operand(1).data)
    added: list[Param] = [value if value is not None else np.zeros(weights.shape[axis], np.int32)]
    if shift := arithmetic(target).shift:
        rest = tuple(i for i in range(weights.ndim) if i != axis)
        added.append((shift * weights.sum(rest, np.int64)).astype(np.int32))
    return added


def _call(anchor: Anchor, able: Sequence[Any], spec: Any, weights: Value, rest: Sequence[Param]) -> Kernel:
    """The kernel of one of the families able to compute this node: x, packed weights, `rest`, the epilogue's."""
    epilogue = anchor.epilogue()
    chosen = anchor.choose(spec, *able)
    packed = Packed(np.asarray(weights.data), lambda array: chosen.family.pack_weights(array, spec, chosen.plan))
    func = chosen.family.build(spec, chosen.plan, epilogue)
    return anchor.kernel(func, [anchor.node.operand(0), packed, *rest], epilogue, str(chosen))


@template("optc.ConvInteger", form=is_plain_conv, pitched=True)
def _conv(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not is_plain_conv(node):
        return None
    spec = conv_spec(anchor)
    rest = _bias(node, anchor.target, 0)
    if spec.padded:
        border = node.input(3)
        rest.append(border if border is not None else np.zeros(1, np.uint8))
    if depthwise.applies(spec):
        return _call(anchor, [depthwise], spec, node.operand(1), rest)
    return _call(anchor, families(conv, amx_conv, spec, anchor.target, FEWEST_PRODUCTS), spec, node.operand(1), rest)


def _is_plain_matmul(node: Node) -> bool:
    a, b = node.operand(0), node.operand(1)
    return b.data is not None and b.type.rank == 2 and a.type.shape is not None and a.type.rank >= 2


@template("optc.MatMulInteger", form=_is_plain_matmul, pitched=True)
def _matmul(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not _is_plain_matmul(node):
        return None
    a, b = node.operand(0), node.operand(1)
    shape = anchor.shape(a)
    k, n = b.type.static_shape
    spec = MatmulSpec(m=shape[-2], n=n, k=k, batch_a=tuple(shape[:-2]))
    return _call(
        anchor,
        families(matmul, amx_matmul, spec, anchor.target, FEWEST_PRODUCTS),
        spec,
        b,
        _bias(node, anchor.target, 1),
    )
