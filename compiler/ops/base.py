"""ADD AN OP: subclass `Op` in a file of its family and decorate it with `@register`; list the file in __init__.py.

An op here is its type inference and its traits. Its meaning is ONNX's own; its lowering lies in backends/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np

from ..errors import ModelError, OptcError, ShapeError, UnsupportedError
from ..ir import Attr, Graph, Node
from ..types import Dim, DType, Shape, TensorType, fresh_count, is_fresh, substitute
from .dims import complexity


class Op:
    """One operator of the IR. Subclasses override `infer`; `name` is the class's own unless set."""

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

    def contents(self, node: Node) -> Sequence[np.ndarray | None]:
        """Contents of all outputs, from the first on; ops with several such outputs override this one."""
        return [self.content(node)]


class UnknownOp(OptcError):
    """No Op class of this name."""

    exit_code = 4


OPS: dict[str, Op] = {}
_OpClass = TypeVar("_OpClass", bound=type[Op])


def register(cls: _OpClass) -> _OpClass:
    """Makes an op known under its name."""
    if "name" not in vars(cls):
        cls.name = cls.__name__
    OPS[cls.name] = cls()
    return cls


def family(base: type[Op], *names: str) -> None:
    """Registers one class for each name, for ops that differ in nothing that concerns a compiler but their meaning."""
    for name in names:
        register(type(name.rsplit(".", 1)[-1], (base,), {"name": name, "__module__": base.__module__}))


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
    fresh_before = fresh_count()
    types = op.infer(node)
    if len(types) < len(node.outputs):
        fail(node, "too many outputs", expected=f"at most {len(types)}", found=len(node.outputs))
    binding = _declared(node, types, fresh_before)
    for value, type in zip(node.outputs, types, strict=False):  # trailing outputs may be omitted
        if type.shape is not None:
            value.type = type.with_shape(substitute(type.shape, binding)) if binding else type
        else:
            value.type = value.type.with_dtype(type.dtype)
        value.content = None
    for value, content in zip(node.outputs, op.contents(node), strict=False):
        value.content = content


def _declared(node: Node, types: Sequence[TensorType], fresh_before: int) -> dict[Any, Dim]:
    """The new data symbols among inferred dims, each with the dim the output has had there: so that inferring a node
    again changes nothing."""
    if fresh_count() == fresh_before:
        return {}
    found: dict[Any, Dim] = {}
    for value, type in zip(node.outputs, types, strict=False):
        old, new = value.type.shape, type.shape
        if old is not None and new is not None and len(old) == len(new):
            found |= {n: o for o, n in zip(old, new, strict=True) if is_fresh(n, fresh_before)}
    return found


def infer_graph(graph: Graph) -> None:
    """Infers every node in order (subgraphs are inferred by the node that holds them)."""
    for node in graph.nodes:
        infer_node(node)


# --- what infer and content functions use ------------------------------------------------------------------------


def fail(
    node: Node, message: str, *, expected: object = None, found: object = None, hint: str | None = None
) -> NoReturn:
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


def type_of(node: Node, index: int) -> TensorType:
    """The type of operand `index`; raises ShapeError if it is omitted."""
    value = node.input(index)
    if value is None:
        fail(node, f"operand {index} is required")
    return value.type


def shape_of(node: Node, index: int) -> Shape | None:
    """The shape of operand `index`, None if its rank is unknown; raises ShapeError if it is omitted."""
    return type_of(node, index).shape


def dtype_of(node: Node, index: int) -> DType:
    """The dtype of operand `index`; raises ShapeError if it is omitted."""
    return type_of(node, index).dtype


def dim_of(node: Node, index: int) -> Dim | None:
    """The only element of operand `index`, if it is known; None if omitted or unknown."""
    elements = ints(node, index)
    return elements[0] if elements is not None and len(elements) == 1 else None


def int_of(node: Node, index: int) -> int | None:
    """The only element of operand `index`, if it is a known number; None if omitted or unknown."""
    element = dim_of(node, index)
    return element if isinstance(element, int) else None


def numbers(node: Node, index: int) -> list[int] | None:
    """Operand `index` as a flat list, if all its elements are known numbers; None if omitted or unknown."""
    elements = ints(node, index)
    if elements is None:
        return None
    found = [e for e in elements if isinstance(e, int)]
    return found if len(found) == len(elements) else None


def check_rank(node: Node, index: int, low: int, high: int | None = None) -> Shape | None:
    """The shape of operand `index`; raises ShapeError if its rank is known and not in [low, high] (no end: None)."""
    shape = shape_of(node, index)
    if shape is not None and not (low <= len(shape) and (high is None or len(shape) <= high)):
        wanted = f"rank {low}" if high == low else f"rank {low} to {high}" if high else f"rank {low} or more"
        fail(node, f"operand {index} has the wrong rank", expected=wanted, found=f"shape {list(shape)}")
    return shape


def check_same_dtype(node: Node, *indices: int) -> DType:
    """The dtype these operands share (all that are given if none is named); raises ShapeError if they differ."""
    given = [v for i, v in enumerate(node.inputs) if v is not None and (not indices or i in indices)]
    if not given:
        fail(node, "an operand is required")
    if len({v.type.dtype for v in given}) > 1:
        found = ", ".join(f"{v.name}: {v.type.dtype.text}" for v in given)
        fail(node, "operands must share one dtype", found=found)
    return given[0].type.dtype


def attr_dtype(node: Node, name: str, default: DType | None = None) -> DType:
    """An attribute that holds a DType or its ONNX number; 0 means the default, as if it were absent.

    Raises UnsupportedError for an element type that optc has not, ModelError if there is no value at all.
    """
    value = node.attrs.get(name)
    if isinstance(value, DType):
        return value
    if value in (None, 0):
        if default is None:
            raise ModelError(f"{node.op}: attribute {name} is required", node=node.name)
        return default
    try:
        return DType(value)
    except ValueError:
        raise UnsupportedError(f"{node.op}: element type {value!r} is not supported", node=node.name) from None


def attr_int(node: Node, name: str, default: int) -> int:
    return _attr(node, name, default, int)


def attr_float(node: Node, name: str, default: float) -> float:
    return float(_attr(node, name, default, (int, float)))


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
    value: Attr | _T | None = node.attrs.get(name, default)
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
    if len({d for d in wide if isinstance(d, int)}) > 1:
        fail(node, "shapes do not broadcast", found=" and ".join(str(list(s)) for s in shapes))
    return min(wide, key=complexity)


def same_types(dtype: DType, shape: Shape | None, count: int = 1) -> list[TensorType]:
    return [TensorType(dtype, shape)] * count
