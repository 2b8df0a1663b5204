"""Graph to text. The format is described in text.py."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import weakref
from collections.abc import Mapping
from typing import Literal

import numpy as np

from .ir import Attr, Graph, Node, Value
from .types import DType, TensorType, dim_text

Consts = Literal["short", "full"]
BARE_NAME = r"(?:[\w./\-]|::)+"
_LITERAL_LIMIT = 16  # elements; larger constants print as a hash (short) or base64 (full)


def print_graph(graph: Graph, *, consts: Consts = "short") -> str:
    """The graph as text. `consts="full"` writes large constants too (base64), so that it parses back alone."""
    printed: set[Value] = set()
    return _graph_text(graph, consts, printed, indent="")


def print_node(node: Node) -> str:
    """One node as a line, nested graphs shortened to `graph {...}`."""
    return (
        _node_head(node)
        + _attrs_text({k: v for k, v in node.attrs.items() if not isinstance(v, Graph)}, [])
        + (f" with graphs {', '.join(node.subgraphs)}" if node.subgraphs else "")
    )


def _graph_text(graph: Graph, consts: Consts, printed: set[Value], indent: str) -> str:
    inputs = ", ".join(_typed(v) for v in graph.inputs)
    inner = indent + "  "
    lines = [f"graph {name_text(graph.name)}({inputs}) {{"]

    def declare(values: list[Value]) -> None:
        for value in values:
            if value not in printed:
                printed.add(value)
                lines.append(f"{inner}{_typed(value)} = const {_const_text(value, consts)}")

    for node in graph.nodes:
        declare(_constants_of(node))
        subgraphs = [f"{key}={_graph_text(sub, consts, printed, inner)}" for key, sub in sorted(node.subgraphs.items())]
        plain = {k: v for k, v in node.attrs.items() if not isinstance(v, Graph)}
        lines.append(inner + _node_head(node) + _attrs_text(plain, subgraphs))
    declare([v for v in graph.outputs if v.is_constant])
    returns = [
        f"%{name_text(v.name)}" + ("" if v.name == name else f" as {json.dumps(name)}")
        for v, name in zip(graph.outputs, graph.output_names, strict=False)
    ]
    lines.append(f"{inner}return {', '.join(returns)}".rstrip())
    return "\n".join(lines) + f"\n{indent}}}"


def _constants_of(node: Node) -> list[Value]:
    """Constants the node or its subgraphs read: declared before the node, where every reader sees them."""
    found = [v for v in node.inputs if v is not None and v.is_constant]
    for _, sub in sorted(node.subgraphs.items()):
        found += sub.constants()
        for inner in (sub, *(s for n in sub.all_nodes() for s in n.subgraphs.values())):
            found += [v for v in inner.outputs if v.is_constant]
    return found


def _node_head(node: Node) -> str:
    results = ", ".join(_typed(v) for v in node.outputs)
    operands = ", ".join("_" if v is None else f"%{name_text(v.name)}" for v in node.inputs)
    return f"{results} = {node.op}({operands})"


def _typed(value: Value) -> str:
    text = "?" if value.type is None else type_text(value.type)  # None: a broken graph, shown by verify
    return f"%{name_text(value.name)}: {text}"


def _attrs_text(attrs: Mapping[str, Attr], extra: list[str]) -> str:
    items = [f"{k}={attr_text(v)}" for k, v in sorted(attrs.items())] + extra
    return f" {{{', '.join(items)}}}" if items else ""


def name_text(name: str) -> str:
    """A name bare where its characters allow, else quoted."""
    return name if re.fullmatch(BARE_NAME, name) and name != "_" else json.dumps(name)


def type_text(type: TensorType) -> str:
    """E.g. f32[N,3,224,224]; f32[*] while the rank is unknown."""
    dims = "*" if type.shape is None else ",".join(map(dim_text, type.shape))
    return f"{type.dtype.text}[{dims}]"


def attr_text(attr: Attr) -> str:
    """An attribute's value; nested graphs are printed by the caller."""
    if isinstance(attr, str):
        return json.dumps(attr)
    if isinstance(attr, bytes):
        return "b" + json.dumps(attr.decode("latin-1"))
    if isinstance(attr, DType):
        return attr.text
    if isinstance(attr, tuple):
        return f"[{','.join(map(attr_text, attr))}]"
    if isinstance(attr, np.ndarray):
        dtype = DType.from_numpy(attr.dtype)
        return f"{type_text(TensorType(dtype, attr.shape))} {array_text(attr, 'full')}"
    if isinstance(attr, Graph):
        return print_graph(attr)
    return _scalar_text(attr)


def _const_text(value: Value, consts: Consts) -> str:
    assert value.data is not None
    return array_text(value.data, consts)


def array_text(array: np.ndarray, consts: Consts) -> str:
    """Elements of an array: nested lists if few, one scalar if all are equal, else hash or base64."""
    if array.dtype == object:
        return json.dumps(array.tolist())
    if not np.iscomplexobj(array):
        if array.size <= _LITERAL_LIMIT:
            return _nested_text(array)
        if _is_splat(array):
            return _scalar_text(array.reshape(-1)[0])
    if consts == "full":
        return f'base64("{base64.b64encode(array.tobytes()).decode("ascii")}")'
    return f"<{digest(array)[:12]}>"


def _nested_text(array: np.ndarray) -> str:
    if array.ndim == 0:
        return _scalar_text(array[()])
    return f"[{','.join(_nested_text(np.asarray(a)) for a in array)}]"


def _scalar_text(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    number = float(value)  # type: ignore[arg-type]  # np.floating, and bf16 which is none
    if not math.isfinite(number):
        return str(number)
    text = str(value) if isinstance(value, (np.float32, np.float16)) else repr(number)
    return text if any(c in text for c in ".e") else text + ".0"


def _is_splat(array: np.ndarray) -> bool:
    flat = array.reshape(-1)
    first = flat[0].tobytes()
    if any(x.tobytes() != first for x in flat[:_LITERAL_LIMIT]):
        return False
    return bool(flat.tobytes() == first * flat.size)


_digests: dict[int, tuple[weakref.ref[np.ndarray], str]] = {}


def digest(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and bytes, in hex; remembered for arrays that cannot be written to."""
    known = _digests.get(id(array))
    if known is not None and known[0]() is array:
        return known[1]
    sha = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    if array.dtype == object:
        sha.update(json.dumps(array.tolist()).encode())
    else:  # bf16 has no buffer format: hash bytes
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    text = sha.hexdigest()
    if not array.flags.writeable:
        key = id(array)
        _digests[key] = (weakref.ref(array, lambda _: _digests.pop(key, None)), text)
    return text
