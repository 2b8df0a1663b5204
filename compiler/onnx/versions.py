"""The lowest opset at which a node of the newest form means the same."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..ir import Attr, Graph, Node
from ..types import DType
from .load import NEWEST_OPSET
from .upgrade import form_version

_FLOOR = 13  # older readers gain nothing: every tool of today reads it


def split_key(key: str) -> tuple[str, str]:
    """(domain, name) of an IR op; the domain is "" for ai.onnx."""
    domain, _, name = key.rpartition(".")
    return domain, name


@functools.cache
def schemas(domain: str, name: str) -> tuple[Any, ...]:
    """All versions of an op that onnx knows, oldest first."""
    found = [s for s in _all_schemas() if s.name == name and s.domain == domain]
    return tuple(sorted(found, key=lambda s: s.since_version))


@functools.cache
def _all_schemas() -> tuple[Any, ...]:
    import onnx

    return tuple(onnx.defs.get_all_schemas_with_history())


def schema_at(domain: str, name: str, version: int) -> Any:
    """The schema in force at an opset version, None if the op is unknown to onnx."""
    known = [s for s in schemas(domain, name) if s.since_version <= version]
    return known[-1] if known else None


def lowest_opset(graph: Graph) -> int:
    """The lowest opset of ai.onnx that says every node of the graph and its subgraphs."""
    return max((node_opset(n) for n in graph.all_nodes()), default=_FLOOR)


def node_opset(node: Node) -> int:
    """The lowest opset (13 or later) at which this node, as it is, means what it means in the IR."""
    inputs = tuple(v.type.dtype if v is not None else None for v in node.inputs)
    attrs = tuple((k, type(v) if isinstance(v, (np.ndarray, Graph)) else v) for k, v in sorted(node.attrs.items()))
    signature = (node.op, inputs, tuple(v.type.dtype for v in node.outputs), attrs)
    if signature not in _OPSETS:
        _OPSETS[signature] = _node_opset(node)
    return _OPSETS[signature]


_OPSETS: dict[tuple[Any, ...], int] = {}
"""By what decides on it: op, element types and attributes. Graphs repeat few of these again and again."""


def _node_opset(node: Node) -> int:
    domain, name = split_key(node.op)
    history = schemas(domain, name)
    if domain or not history:
        return _FLOOR
    lowest = int(history[-1].since_version)
    for schema in reversed(history):
        if not _fits(node, schema, history[-1]):
            break
        lowest = schema.since_version
    return max(lowest, form_version(name), _meaning_version(node), _FLOOR)


def _meaning_version(node: Node) -> int:
    """The opset that gave a node's attributes their meaning, where schemas do not tell."""
    if node.op == "Mod" and node.operand(0).type.dtype.is_float and not node.attrs.get("fmod"):
        return 28  # before, floats needed fmod=1
    return 0


def _fits(node: Node, schema: Any, newest: Any) -> bool:
    """True if an older schema takes the node's operands, element types and attributes."""
    inputs = [v.type.dtype if v is not None else None for v in node.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    if not schema.min_input <= len(inputs) <= schema.max_input or len(node.outputs) > schema.max_output:
        return False
    if any(k not in schema.attributes and not is_default(newest, k, v) for k, v in node.attrs.items()):
        return False
    if any(a.required and k not in node.attrs for k, a in schema.attributes.items()):
        return False
    pairs = [*zip(inputs, _formals(schema.inputs, len(inputs)), strict=False)]
    pairs += zip((v.type.dtype for v in node.outputs), _formals(schema.outputs, len(node.outputs)), strict=False)
    return all(dtype is None or type_string(dtype) in formal.types for dtype, formal in pairs)


def _formals(formals: Any, count: int) -> list[Any]:
    """The formal of each actual parameter, the last one repeated for variadic ones."""
    return [formals[min(i, len(formals) - 1)] for i in range(count)] if len(formals) else []


def is_default(schema: Any, key: str, value: Attr) -> bool:
    """True if an attribute says what its absence says."""
    import onnx

    attribute = schema.attributes.get(key)
    if attribute is None or not attribute.default_value.name:
        return False
    default = onnx.helper.get_attribute_value(attribute.default_value)
    default = default.decode() if isinstance(default, bytes) else default
    value = value.value if isinstance(value, DType) else value
    if isinstance(value, float):
        return bool(np.float32(value) == np.float32(default))
    return bool(type(value) is type(default) and value == default)


@functools.cache
def type_string(dtype: DType) -> str:
    """What schemas call a tensor of this element type."""
    names = {DType.F32: "float", DType.F64: "double", DType.F16: "float16", DType.BF16: "bfloat16"}
    return f"tensor({names.get(dtype) or dtype.numpy.name if dtype is not DType.STRING else 'string'})"


def check_opset(graph: Graph, opset: int) -> list[str]:
    """The nodes that an opset is too old for, each with the one it needs."""
    needs = [(n.name, node_opset(n)) for n in graph.all_nodes()]
    return [f"{name} needs {version}" for name, version in needs if version > min(opset, NEWEST_OPSET)]
