"""Ops that optc has no class for: typed by onnx where onnx knows them, named in one error where nobody does."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Node
from ..types import TensorType
from .base import Op, UnknownOp, register


@register
class Unknown(Op):
    name = "optc.Unknown"

    def infer(self, node: Node) -> Sequence[TensorType]:
        raise UnknownOp(f"unknown op {node.op}", node=node.name)
