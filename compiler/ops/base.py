"""ADD AN OP: subclass `Op` in a file of its family and decorate it with `@register`; list the file in __init__.py.

An op here is its type inference and its traits. Its meaning is ONNX's own; its lowering lies in backends/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import numpy as np

from ..errors import ModelError, OptcError, ShapeError
from ..ir import Attr, Graph, Node, Value
from ..types import Dim, DType, Shape, TensorType


class Op:
    """One operator of the IR. Subclasses set `name` and override `infer`."""

    name: ClassVar[str]
    pointwise: ClassVar[bool] = False  # output[i] depends on the inputs' broadcast element i only
    reduction: ClassVar[bool] = False
    view: ClassVar[bool] = False  # the same bytes under another shape (Reshape, Flatten, Squeeze, ...)
    anchor: ClassVar[bool] = False  # heads a fused region (Conv, MatMul, pools, norms, ...)
    deterministic: ClassVar[bool] = True  # False for Random*, Dropout in training, ...: never folded or shared

    def infer(self, node: Node) -> Sequence[TensorType]:
        """The types of the outputs. Raises ShapeError through `fail` where the inputs do not fit."""
        raise UnknownOp(node.op)

    def content(self, node: Node) -> np.ndarray | None:
        """Elements of output 0 as dims, where the inputs' contents tell (small integer tensors); else None."""
        return None


class UnknownOp(OptcError):
    """No Op class of this name."""

    exit_code = 4


OPS: dict[str, Op] = {}
_OpClass = TypeVar("_OpClass", bound=type[Op])


def register(cls: _OpClass) -> _OpClass:
    """Makes an op known under its name."""
    OPS[cls.name] = cls()
    return cls


def op_of(node: Node) -> Op:
    """The op class of a node; one that knows nothing if the op is unknown."""
    from . import load_all

    load_all()
    return OPS.get(node.op) or OPS["optc.Unknown"]


def infer_node(node: Node) -> None:
    """Sets the types (and contents) of a node's outputs.

    Raises ShapeError naming the node. A type inferred is a fact: it replaces whatever the output was declared as,
    except that an unknown rank or dim keeps what was declared.
    """
    op = op_of(node)
    types = op.infer(node)
    if len(types) < len(node.outputs):
        fail(node, "too many outputs", expected=f"at most {len(types)}", found=len(node.outputs))
    for value, type in zip(node.outputs, types, strict=False):  # trailing outputs may be omitted
        value.type = type
        value.content = None
    content = op.content(node)
    if content is not None:
        node.outputs[0].content = content


def infer_graph(graph: Graph) -> None:
    """Infers every node in order (subgraphs are inferred by the node that holds them)."""
    for node in graph.nodes:
        infer_node(node)


# --- what infer and content functions use ------------------------------------------------------------------------


def fail(node: Node, message: str, *, expected: object = None, found: object = None, hint: str | None = None) -> None:
    """Raises ShapeError about this node."""
    raise ShapeError(f"{node.op}: {message}", node=node.name, expected=expected, found=found, hint=hint)


def const(node: Node, index: int) -> np.ndarray | None:
    """The data of operand `index`, if it is a constant."""
    value = node.input(index)
    return None if value is None else value.data


def ints(node: Node, index: int) -> list[Dim] | None:
    """Operand `index` as a flat list of dims, if its elements are known; None if omitted or unknown."""
    value = node.input(index)
    if value is None:
        return None
    if value.content is not None:
        return list(value.content.reshape(-1))
    if value.data is not None:
        return [int(x) for x in value.data.reshape(-1)]
    return None


def attr_int(node: Node, name: str, default: int) -> int:
    return _attr(node, name, default, int)


def attr_float(node: Node, name: str, default: float) -> float:
    return float(_attr(node, name, default, (int, float)))  # type: ignore[arg-type]


def attr_str(node: Node, name: str, default: str) -> str:
    return _attr(node, name, default, str)


def attr_ints(node: Node, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
    value = node.attrs.get(name)
    if value is None:
        return None if default is None else tuple(default)
    if isinstance(value, tuple):
        return value
    raise ModelError(f"{node.op}: attribute {name} must be a list of integers", node=node.name, found=repr(value))


_T = TypeVar("_T")


def _attr(node: Node, name: str, default: _T, kind: type | tuple[type, ...]) -> _T:
    value: Attr | _T | None = node.attrs.get(name, default)  # type: ignore[arg-type]
    if isinstance(value, kind):
        return value  # type: ignore[return-value]
    raise ModelError(f"{node.op}: attribute {name} has the wrong type", node=node.name, found=repr(value))


def axis_of(node: Node, axis: int, rank: int, extra: int = 0) -> int:
    """`axis` counted from the front; raises ShapeError if it lies outside [-rank-extra, rank+extra)."""
    if not -(rank + extra) <= axis < rank + extra:
        fail(node, "axis out of range", expected=f"in [{-(rank + extra)}, {rank + extra - 1}]", found=axis)
    return axis + rank + extra if axis < 0 else axis


def broadcast_shapes(node: Node, shapes: Sequence[Shape]) -> Shape:
    """Multidirectional broadcasting (ONNX Broadcasting.md) over symbolic dims.

    Two dims that may differ and are not both numbers are taken to be equal at run time (or 1 where one is known to
    be 1), as ONNX Runtime does; the more specific one is kept.
    """
    rank = max((len(s) for s in shapes), default=0)
    out: list[Dim] = []
    for axis in range(rank):
        dims = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
        out.append(_broadcast_dims(node, dims, shapes))
    return tuple(out)


def _broadcast_dims(node: Node, dims: Sequence[Dim], shapes: Sequence[Shape]) -> Dim:
    wide = [d for d in dims if not (isinstance(d, int) and d == 1)]
    if not wide:
        return 1
    numbers = [d for d in wide if isinstance(d, int)]
    if len(set(numbers)) > 1:
        fail(node, "shapes do not broadcast", found=" and ".join(str(list(s)) for s in shapes))
    return numbers[0] if numbers else wide[0]


def same_types(dtype: DType, shape: Shape | None, count: int = 1) -> list[TensorType]:
    return [TensorType(dtype, shape)] * count


InferFn = Callable[[Node], Sequence[TensorType]]
__all__ = [
    "OPS", "Op", "UnknownOp", "Value", "attr_float", "attr_int", "attr_ints", "attr_str", "axis_of", "broadcast_shapes",
    "const", "fail", "infer_graph", "infer_node", "ints", "op_of", "register", "same_types",
]  # fmt: skip
