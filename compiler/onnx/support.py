"""Which nodes of a model cannot be compiled: all of them, found before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from ..ops import load_all
from ..ops.base import OPS
from .load import NEWEST_OPSET, OLDEST_OPSET, opsets_of
from .tensors import NARROW, element_type, unknown_kind
from .upgrade import REPLACED

if TYPE_CHECKING:
    import onnx

FunctionKey = tuple[str, str, str]  # domain, name, overload
Functions = dict[FunctionKey, "onnx.FunctionProto"]
_NARROW_READERS = ("DequantizeLinear", "Reshape", "Transpose")
_HINT = "Run what ONNX Runtime knows of them there with --fallback onnxruntime"


def domain_of(proto: onnx.NodeProto | onnx.FunctionProto) -> str:
    """The domain, "" for ai.onnx."""
    return "" if proto.domain == "ai.onnx" else proto.domain


def op_key(domain: str, op: str) -> str:
    """What the IR calls an op."""
    return f"{domain}.{op}" if domain else op


def function_key(proto: onnx.NodeProto) -> FunctionKey:
    return domain_of(proto), proto.op_type, proto.overload


def schema_of(domain: str, op: str, version: int) -> Any:
    """onnx's schema of an op at an opset version, None if it has none. (onnx's stubs lack what is read of it.)"""
    import onnx

    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def newest_version(domain: str, opsets: dict[str, int]) -> int:
    """The version at which nodes of a domain stand once they are upgraded."""
    return opsets.get(domain, 1) if domain else NEWEST_OPSET


def problems_of(node: onnx.NodeProto, functions: Functions, opsets: dict[str, int]) -> list[str]:
    """Why optc cannot take a node, with what its functions and bodies hold; empty if it can."""
    return list(_Survey(functions).nodes([node], opsets))


def check_supported(model: onnx.ModelProto, functions: Functions, *, fallback: bool = False) -> None:
    """Raises one UnsupportedError that names every node, input and constant optc cannot take.

    Unless the `fallback` is on already, its hint tells of it where ONNX Runtime knows such a node.
    """
    problems = list(dict.fromkeys(_Survey(functions).model(model)))
    if problems:
        count = f"{len(problems)} things" if len(problems) > 1 else "one thing"
        raise UnsupportedError(
            f"the model has {count} optc does not support:\n  " + "\n  ".join(problems),
            hint=None if fallback or not _known_elsewhere(model, functions) else _HINT,
        )


def _known_elsewhere(model: onnx.ModelProto, functions: Functions) -> bool:
    """True if ONNX Runtime (where it is installed) has an op of a node that optc cannot take."""
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:
        return False
    known = {(s.domain, s.name) for s in get_all_operator_schema()}
    opsets = opsets_of(model.opset_import, "model")
    return any(
        (domain_of(node), node.op_type) in known and problems_of(node, functions, opsets) for node in model.graph.node
    )


class _Survey:
    def __init__(self, functions: Functions) -> None:
        load_all()
        self.functions = functions
        self.seen: set[FunctionKey] = set()
        self.narrow: set[str] = set()  # initializers whose elements take less than a byte

    def model(self, model: onnx.ModelProto) -> Iterator[str]:
        opsets = opsets_of(model.opset_import, "model")
        for what, infos in (("input", model.graph.input), ("output", model.graph.output)):
            for info in infos:
                kind = unknown_kind(info.type)
                if kind and (what == "input" or kind != "untyped"):
                    yield f"{what} {info.name}: {kind} types are not supported"
                elif not kind and info.type.tensor_type.elem_type:
                    yield from _element(info.type.tensor_type.elem_type, f"{what} {info.name}")
        yield from self.graph(model.graph, opsets)

    def graph(self, graph: onnx.GraphProto, opsets: dict[str, int]) -> Iterator[str]:
        for tensor in graph.initializer:
            if tensor.data_type in NARROW:
                self.narrow.add(tensor.name)
            else:
                yield from _element(tensor.data_type, f"initializer {tensor.name}")
        yield from self.nodes(graph.node, opsets)

    def nodes(self, nodes: Iterable[onnx.NodeProto], opsets: dict[str, int], inside: str = "") -> Iterator[str]:
        for node in nodes:
            name = node.name or (node.output[0] if node.output else "?")
            place = f"node {name} ({op_key(domain_of(node), node.op_type)}{inside})"
            yield from self.node(node, place, opsets)
            if node.op_type not in _NARROW_READERS and not self.narrow.isdisjoint(node.input):
                yield f"{place}: only {', '.join(_NARROW_READERS)} may read constants of less than a byte an element"
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from self.graph(attribute.g, opsets)
                if attribute.HasField("t"):
                    yield from _element(attribute.t.data_type, place)
                if attribute.HasField("tp"):
                    yield f"{place}: {unknown_kind(attribute.tp) or 'type'} attributes are not supported"

    def node(self, node: onnx.NodeProto, place: str, opsets: dict[str, int]) -> Iterator[str]:
        domain, op, key = domain_of(node), node.op_type, function_key(node)
        if key in self.functions:
            if key not in self.seen:
                self.seen.add(key)
                function = self.functions[key]
                inner = opsets_of(function.opset_import, f"function {function.name}")
                yield from self.nodes(function.node, inner, f" in function {function.name}")
            return
        version = opsets.get(domain, NEWEST_OPSET)
        if not domain and version < OLDEST_OPSET and not _unchanged(op, version):
            yield f"{place}: its form of opset {version} is not supported; convert the model to opset {OLDEST_OPSET}"
        elif op_key(domain, op) in OPS or (not domain and (op in REPLACED or op == "Constant")):
            return
        else:
            yield from self.unknown(domain, op, place, opsets)

    def unknown(self, domain: str, op: str, place: str, opsets: dict[str, int]) -> Iterator[str]:
        """Why an op that is not in the table cannot be taken, unless onnx defines it by ops that can."""
        schema = schema_of(domain, op, newest_version(domain, opsets))
        if schema is None:
            import onnx

            known = any(s.domain == domain for s in onnx.defs.get_all_schemas())
            yield f"{place}: " + ("no such op" if known else f"unknown domain {domain!r}")
        elif schema.has_context_dependent_function:
            return  # its body depends on types; what it holds is known when it is expanded
        elif schema.has_function:
            inner = opsets_of(schema.function_body.opset_import, op)
            yield from self.nodes(schema.function_body.node, inner, f" in the body of {op}")
        elif "Sequence" in op or "Optional" in op:
            yield f"{place}: sequence and optional types are not supported"
        elif "String" in op or "Regex" in op:
            yield f"{place}: string tensors are not supported"
        else:
            yield f"{place}: not supported by this version"


def _unchanged(op: str, version: int) -> bool:
    """True if the op of an old opset is still the one of the oldest opset that is read."""
    then, oldest = schema_of("", op, version), schema_of("", op, OLDEST_OPSET)
    return then is not None and oldest is not None and bool(then.since_version == oldest.since_version)


def _element(number: int, place: str) -> Iterator[str]:
    try:
        element_type(number, place)
    except UnsupportedError as error:
        yield f"{place}: {error.message}"
