"""Products with compressed weights: optc.MatMulPacked."""

from __future__ import annotations

import numpy as np

from ...compiler.ir import Node
from ...compiler.ops.base import attr_int
from ...compiler.types import DType
from ..kernels.packed import product
from ..steps import Kernel
from .base import Anchor, template


def _has_kernel(node: Node) -> bool:
    a, weights = node.operand(0).type, [v for v in node.inputs[1:] if v is not None]
    if a.shape is None or a.rank < 2 or any(v.data is None for v in weights):
        return False
    return product.takes(attr_int(node, "bits", 0), attr_int(node, "block", 0), weights[0].type.static_shape[0])


@template("optc.MatMulPacked", form=_has_kernel)
def _matmul_packed(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not _has_kernel(node):
        return None
    codes, scales = (np.asarray(node.operand(i).data) for i in (1, 2))
    codebook, zeros = (None if v is None else v.data for v in map(node.input, (3, 4)))
    spec = product.PackedSpec(
        rows=tuple(anchor.shape(node.operand(0))[:-1]), n=codes.shape[1], k=codes.shape[0],
        bits=attr_int(node, "bits", 0), block=min(attr_int(node, "block", 0), codes.shape[0]),
        codebook=codebook is not None, scale="float32" if scales.dtype == np.float32 else "bfloat16",
        zero=None if zeros is None else DType.from_numpy(zeros.dtype).tvm,
    )  # fmt: skip
    epilogue = anchor.epilogue()
    plan = anchor.plan(product, spec)
    constants = product.pack(spec, plan, codes, scales, codebook, zeros)
    func = product.build(spec, plan, epilogue)
    return anchor.kernel(func, [node.operand(0), *constants], epilogue, f"matmul_packed {spec.bits} bits {plan}")
