"""Bytes looked up in a table: optc.Lookup."""

from __future__ import annotations

from ...compiler.types import DType
from ..kernels import table
from ..steps import Kernel
from .base import Anchor, template


@template("optc.Lookup")
def _lookup(anchor: Anchor) -> Kernel | None:
    x, entries = anchor.node.operand(0), anchor.node.operand(1)
    if entries.type.dtype is not DType.U8:
        return None
    spec = table.TableSpec(tuple(anchor.shape(x)))
    plan = anchor.plan(table, spec)
    return anchor.kernel(table.build(spec, plan), [x, entries], None, f"table {plan}")
