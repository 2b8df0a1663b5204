"""optc.Host: a part of the model that optc has no ops for, kept as an ONNX model that ONNX Runtime runs.

The importer makes it (onnx/host.py) where the user allows a fallback. Operands and results are in the order of the
model's inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ModelError
from ..ir import Node
from ..types import DType, Shape, TensorType, fresh_dim
from .base import Op, register

HOST = "optc.Host"


@register
class Host(Op):
    """Attributes: model (the bytes, u8), nodes ("name (op)" of each node in it), types (see `type_text`)."""

    name = HOST
    deterministic = False  # it may hold anything: never folded or shared

    def infer(self, node: Node) -> Sequence[TensorType]:
        types = node.attrs.get("types")
        if not isinstance(types, tuple):
            raise ModelError(f"{HOST}: attribute types must be a list of strings", node=node.name, found=repr(types))
        return [_parse(text) for text in types]


def type_text(dtype: DType, dims: Sequence[int | None]) -> str:
    """A result's type: "f32:2,?" is f32 of shape [2, d] with d known when the node has run."""
    return f"{dtype.text}:" + ",".join("?" if d is None else str(d) for d in dims)


def _parse(text: str) -> TensorType:
    dtype, _, dims = text.partition(":")
    shape: Shape = tuple(fresh_dim() if d == "?" else int(d) for d in dims.split(",") if d)
    return TensorType(DType.from_text(dtype), shape)
