"""Types of graph inputs: symbolic dims by name, and the shapes the caller fixes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, ShapeError
from ..ir import Graph
from ..ops.base import infer_graph
from ..types import Dim, Shape, TensorType, fresh_dim, substitute, symbol
from .tensors import identifier, tensor_type

if TYPE_CHECKING:
    import onnx


def graph_inputs(infos: Iterable[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[int]]) -> dict[str, TensorType]:
    """{input name: type}. Equal dim_params become one symbol; a dim without a name, or negative, one of its own.

    Raises ModelError if two inputs share a name, ShapeError if `shapes` contradicts a fixed dim, itself, or names an
    input the model has not.
    """
    names = _SymbolNames()
    types: dict[str, TensorType] = {}
    for info in infos:
        if not info.name or info.name in types:
            raise ModelError("two inputs have the same name" if info.name else "an input has no name", node=info.name)
        types[info.name] = tensor_type(info, _dims(info, names))
    return fixed_types(types, shapes)


def fixed_types(types: dict[str, TensorType], shapes: Mapping[str, Sequence[int]]) -> dict[str, TensorType]:
    """Input types with `shapes` in place; a symbol that one of them fixes is fixed in all. Raises ShapeError."""
    types = dict(types)
    binding: dict[Any, Dim] = {}
    for name, shape in shapes.items():
        if name not in types:
            raise ShapeError("a shape is given for an input the model does not have", node=name,
                             expected=f"one of {', '.join(types)}")  # fmt: skip
        types[name] = types[name].with_shape(_bind(name, types[name], shape, binding))
    return {n: t if t.shape is None else t.with_shape(substitute(t.shape, binding)) for n, t in types.items()}


def fix_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> None:
    """Gives inputs of a graph fixed shapes, and all that follows from them. Raises ShapeError."""
    types = fixed_types({v.name: v.type for v in graph.inputs}, shapes)
    for value in graph.inputs:
        value.type = types[value.name]
    infer_graph(graph)


def _bind(name: str, type: TensorType, shape: Sequence[int], binding: dict[Any, Dim]) -> Shape:
    """Notes which symbols the wanted shape fixes."""
    wanted = tuple(int(d) for d in shape)
    declared = wanted if type.shape is None else type.shape
    if len(declared) != len(wanted) or any(d < 0 for d in wanted):
        raise ShapeError("the given shape has the wrong rank", node=name, expected=type, found=list(wanted))
    for dim, number in zip(declared, wanted, strict=True):
        fixed = dim if isinstance(dim, int) else binding.setdefault(dim, number)
        if fixed != number:
            raise ShapeError("the given shape contradicts the model, or another given shape", node=name,
                             expected=f"{type} with {dim} = {fixed}", found=list(wanted))  # fmt: skip
    return declared


class _SymbolNames:
    """Names of dims as symbols: one dim_param, one symbol; no two share one."""

    def __init__(self) -> None:
        self.of: dict[object, str] = {}

    def symbol(self, key: object, hint: str) -> Dim:
        """The symbol of whatever `key` stands for, called `hint` if that name is free."""
        if key not in self.of:
            name = identifier(hint)
            while name in self.of.values():
                name += "_"
            self.of[key] = name
        return symbol(self.of[key])


def _dims(info: onnx.ValueInfoProto, names: _SymbolNames) -> list[Dim] | None:
    if not info.type.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for axis, dim in enumerate(info.type.tensor_type.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(int(dim.dim_value))
        elif _is_name(dim.dim_param):
            dims.append(names.symbol(dim.dim_param, dim.dim_param))
        else:
            dims.append(names.symbol((info.name, axis), f"{info.name}_{axis}"))
    return dims


def declared_shape(info: onnx.ValueInfoProto, known: Container[str]) -> list[Dim] | None:
    """The shape a value inside the graph is declared with: symbols of the inputs, fresh ones for all others."""
    if not info.type.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in info.type.tensor_type.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(int(dim.dim_value))
        else:
            name = identifier(dim.dim_param) if _is_name(dim.dim_param) else ""
            dims.append(symbol(name) if name in known else fresh_dim())
    return dims


def _is_name(param: str) -> bool:
    """False for placeholders such as "?" and "-1", which some exporters give to dims that need not be equal."""
    return any(c.isalpha() for c in param)
