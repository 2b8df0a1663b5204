"""Matrix products: MatMul, Gemm and optc.MatMul."""

from __future__ import annotations

import numpy as np

from ...compiler.ir import Node, Value
from ...compiler.ops.base import attr_float, attr_int
from ...compiler.types import DType
from ..kernels import matmul
from ..steps import Kernel, Param
from .base import Anchor, template


def _is_plain_matmul(node: Node) -> bool:
    a, b = node.operand(0), node.operand(1)
    if a.type.shape is None or b.type.shape is None:
        return False
    if a.type.dtype is not DType.F32 or a.type.rank < 2 or b.type.rank < 2:
        return False
    if node.op == "Gemm":
        bias = node.input(2)
        return bias is None or (attr_float(node, "beta", 1.0) == 1.0 and is_row(bias))
    return b.data is None or b.type.rank == 2


def is_row(value: Value | None) -> bool:
    """A bias along the last axis."""
    return (
        value is not None
        and value.type.is_static
        and value.type.rank >= 1
        and all(d == 1 for d in value.type.static_shape[:-1])
    )


@template("MatMul", "Gemm", "optc.MatMul", form=_is_plain_matmul, pitched=True)
def _matmul(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not _is_plain_matmul(node):
        return None
    a, b = node.operand(0), node.operand(1)
    trans_a, trans_b = bool(attr_int(node, "transA", 0)), bool(attr_int(node, "transB", 0))
    shape_a, shape_b = anchor.shape(a), anchor.shape(b)
    m, k = (shape_a[-1], shape_a[-2]) if trans_a else (shape_a[-2], shape_a[-1])
    n = shape_b[-2] if trans_b else shape_b[-1]
    constant = b.data is not None
    spec = matmul.MatmulSpec(
        m=m, n=n, k=shape_b[-1] if trans_b and constant else (shape_b[-2] if constant else k),
        batch_a=tuple(shape_a[:-2]), batch_b=tuple(shape_b[:-2]),
        trans_a=trans_a, trans_b=trans_b, constant_b=constant,
    )  # fmt: skip
    bias = node.input(2) if node.op == "Gemm" else None
    epilogue = anchor.epilogue(bias, attr_float(node, "alpha", 1.0))
    plan = anchor.plan(matmul, spec)
    second: Param = b if b.data is None else matmul.pack_weights(np.asarray(b.data), spec, plan)
    return anchor.kernel(matmul.build(spec, plan, epilogue), [a, second], epilogue, f"matmul {plan}")
