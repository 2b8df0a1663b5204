"""Softmax and normalisation of rows."""

from __future__ import annotations

from typing import Any

from ...compiler.ir import Node, Value
from ...compiler.ops.base import attr_float, attr_int
from ...compiler.types import DType
from ..kernels import norm, softmax
from ..kernels.builder import product
from ..steps import Kernel, Param
from .base import Anchor, template


def _rows(anchor: Anchor, value: Value, axis: int) -> tuple[Any, Any]:
    """(rows, columns) of a value seen as a matrix whose rows start at `axis`."""
    shape = anchor.shape(value)
    return product(shape[:axis]), product(shape[axis:])


def softmax_over_last(node: Node) -> bool:
    x = node.operand(0)
    return x.type.dtype is DType.F32 and x.type.rank > 0 and attr_int(node, "axis", -1) in (-1, x.type.rank - 1)


@template("Softmax", "LogSoftmax")
def _softmax(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not softmax_over_last(node):
        return None
    x = node.operand(0)
    rows, columns = _rows(anchor, x, x.type.rank - 1)
    spec = softmax.SoftmaxSpec(rows, columns, node.op == "LogSoftmax")
    plan = anchor.plan(softmax, spec)
    return anchor.kernel(softmax.build(spec, plan), [x], None, f"softmax {plan}")


def norm_over_last(node: Node) -> bool:
    """Whether rows are the last axis, of float32, so that what follows goes by rows and columns too."""
    x = node.operand(0)
    return x.type.dtype is DType.F32 and x.type.rank > 0 and attr_int(node, "axis", -1) in (-1, x.type.rank - 1)


def norm_spec(anchor: Anchor) -> tuple[norm.NormSpec, list[Param]] | None:
    """The normalisation of rows that a node is, and what its kernel reads; None if its form has no template."""
    node = anchor.node
    x = node.operand(0)
    axis = attr_int(node, "axis", -1) % max(x.type.rank, 1)
    dims = x.type.dims[axis:]
    scale, bias = node.input(1), node.input(2)
    whole = all(v is None or v.type.dims == dims for v in (scale, bias))
    if x.type.dtype is not DType.F32 or not whole or any(v.uses for v in node.outputs[1:]):
        return None
    rows, columns = _rows(anchor, x, axis)
    source = anchor.region.before[0].operand(0) if anchor.region.before else x
    spec = norm.NormSpec(
        kind="layer" if node.op == "LayerNormalization" else "rms",
        rows=rows,
        columns=columns,
        epsilon=attr_float(node, "epsilon", 1e-5),
        scale=scale is not None,
        bias=bias is not None,
        dtype="float32" if source is x else "uint16",
    )
    return spec, [v for v in (source, scale, bias) if v is not None]


@template("LayerNormalization", "RMSNormalization", form=norm_over_last)
def _norm(anchor: Anchor) -> Kernel | None:
    found = norm_spec(anchor)
    epilogue = anchor.epilogue()
    if found is None or (epilogue is not None and not epilogue.flat):
        return None
    spec, params = found
    plan = anchor.plan(norm, spec)
    return anchor.kernel(norm.build(spec, plan, epilogue), params, epilogue, f"norm {plan}")
