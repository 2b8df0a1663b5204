"""ONNX model to Graph: names to values, functions inlined, every node brought to the newest opset and typed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError, ShapeError, UnsupportedError
from ..ir import Attr, Graph, Loc, Value
from ..ops.base import OPS, infer_node
from ..ops.content import content_of
from ..ops.control import make_trap
from ..types import DType, TensorType
from .host import with_hosts
from .inputs import declared_shape, graph_inputs
from .load import load_proto, opsets_of
from .scope import Scope, node_name, sorted_nodes, warn_if_not_finite
from .support import Functions, check_supported, domain_of, function_key, newest_version, op_key, schema_of
from .tensors import ExternalData, element_type, sparse_to_array, tensor_type, to_array, type_proto, unknown_kind
from .upgrade import Call, upgrade

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger("optc")
_log.addHandler(logging.NullHandler())  # silent unless the application listens; the summary shows them anyway
_DTYPE_ATTRS = ("to", "dtype", "output_dtype", "output_datatype")


def import_model(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fallback: bool = False,
) -> Graph:
    """Reads a model of opset 7 to 28.

    `shapes` gives inputs fixed shapes, by name; a symbolic dim bound there is bound everywhere. Initializers that are
    also graph inputs become constants (metadata "initializer_inputs"). Declared types that contradict the graph are
    overruled and, like NaNs in constants, noted in metadata "warnings", a line each. With `fallback`, nodes optc has no
    ops for become optc.Host nodes (see host.py).

    Raises ModelError for a damaged or inconsistent model or external data outside its folder, UnsupportedError naming
    every node that cannot be compiled, ShapeError where types or `shapes` do not fit.
    """
    model, folder = load_proto(source)
    functions: Functions = {(domain_of(f), f.name, f.overload): f for f in model.functions}
    refused: set[str] = set()  # nodes found unsupported only while they are imported
    while True:
        try:
            admitted = with_hosts(model, functions, folder, refused) if fallback else model
            check_supported(admitted, functions, fallback=fallback)
            return _Importer(functions, ExternalData(folder)).model(admitted, shapes or {})
        except UnsupportedError as error:
            if not fallback or error.node not in {node_name(n) for n in model.graph.node} - refused:
                raise
            refused.add(error.node)


class _Importer:
    def __init__(self, functions: Functions, external: ExternalData) -> None:
        self.functions, self.external = functions, external
        self.warnings: list[str] = []
        self.calls: list[str] = []  # functions being inlined, outermost first
        self.symbols: set[str] = set()  # of the graph inputs
        self.never_taken = 0  # depth of If branches known to be dead, which need not fit
        self.loops = 0  # depth of Loop and Scan bodies, whose types are preliminary until the node is inferred

    def model(self, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> Graph:
        graph = Graph(model.graph.name or "main")
        opsets = opsets_of(model.opset_import, "model")
        scope = Scope(graph, opsets, self.external)
        scope.add_initializers(model.graph)
        inputs = [i for i in model.graph.input if not scope.is_initializer(i.name)]
        for name, type in graph_inputs(inputs, shapes).items():
            scope.define(name, graph.add_input(name, type), "an input")
            self.symbols |= {s.name for d in type.shape or () if not isinstance(d, int) for s in d.free_symbols}
        self.body(model.graph, scope)
        graph.metadata |= {p.key: p.value for p in model.metadata_props}
        graph.metadata |= {"producer": model.producer_name, "opset": str(opsets.get("", 0))}
        constants = [i.name for i in model.graph.input if scope.is_initializer(i.name)]
        if constants:
            graph.metadata["initializer_inputs"] = "\n".join(constants)
        self.warnings += [w for w in map(warn_if_not_finite, graph.constants()) if w]
        if self.warnings:
            graph.metadata["warnings"] = "\n".join(self.warnings)
            for warning in self.warnings:
                _log.warning("%s", warning)
        return graph

    def body(self, proto: onnx.GraphProto, scope: Scope) -> None:
        """Nodes and outputs; the inputs are in the scope already."""
        declared = {i.name: i for i in (*proto.value_info, *proto.output)}
        for node in sorted_nodes(proto.node):
            self.node(node, scope, declared)
        outputs = []
        for info in proto.output:
            value = scope.value(info.name, f"output {info.name}")
            if value is None:
                raise ModelError("an output is omitted", node=info.name)
            outputs.append(value)
        names = [o.name for o in proto.output]
        if len(set(names)) != len(names):
            raise ModelError("two outputs have the same name", found=", ".join(names))
        scope.graph.set_outputs(outputs, names)

    # --- nodes ---------------------------------------------------------------------------------------------------

    def node(self, node: onnx.NodeProto, scope: Scope, declared: Mapping[str, onnx.ValueInfoProto]) -> None:
        name = node_name(node)
        inputs = [scope.value(n, f"node {name}") if n else None for n in node.input]
        outputs = [scope.results.get(n, n) for n in node.output]
        while outputs and not outputs[-1]:
            outputs.pop()
        version = scope.opsets.get(domain_of(node), 1)
        call = Call(scope.graph, node.op_type, inputs, {}, outputs, version, Loc((name,)))
        dead = None if self.loops else _dead_branch(node, inputs)
        if dead is not None:
            (taken,) = (a.g for a in node.attribute if a.name.endswith("_branch") and a.name != dead)
            values = self.branch(taken, call, scope)
        else:
            call.attrs = self.attrs(node, inputs, scope)
            values = self.values(node, call, scope)
        for proto_name, value in zip(node.output, values, strict=False):
            if proto_name and value is not None:
                scope.define(proto_name, value, f"node {name}")
                if proto_name in declared:
                    self.compare(value, declared[proto_name])

    def values(self, node: onnx.NodeProto, call: Call, scope: Scope) -> Sequence[Value | None]:
        """The values of a node's outputs, None for omitted ones that nothing makes."""
        domain = domain_of(node)
        if function_key(node) in self.functions:
            return self.inlined(self.functions[function_key(node)], call)
        if not domain and call.op == "Constant":
            return [self.constant(node, call, scope)]
        if not domain:
            values = upgrade(call)
            if values is not None:
                return values
        key = op_key(domain, call.op)
        if key not in OPS:
            return self.expanded(node, call, scope)
        names = [n or f"{call.loc}.{i}" for i, n in enumerate(call.outputs)]
        unknown = [TensorType(DType.F32, None)] * len(names)
        made = call.graph.emit(key, call.inputs, call.attrs, types=unknown, names=names, loc=call.loc)
        try:
            infer_node(made)
        except ShapeError:
            if not self.never_taken:
                raise
        for value in made.outputs:
            if value.type.dtype is DType.STRING:
                raise UnsupportedError(f"{key} makes a string tensor", node=str(call.loc))
        return made.outputs

    def constant(self, node: onnx.NodeProto, call: Call, scope: Scope) -> Value:
        """A Constant node, in any of its forms."""
        name = str(call.loc)
        for attribute in node.attribute:
            if attribute.name == "sparse_value":
                array = sparse_to_array(attribute.sparse_tensor, self.external)
                return call.graph.constant(array, call.outputs[0])
        if len(call.attrs) != 1:
            raise ModelError("a Constant needs exactly one value", node=name, found=", ".join(call.attrs) or "none")
        ((form, value),) = call.attrs.items()
        if form.startswith("value_string"):
            raise UnsupportedError("string tensors are not supported", node=name)
        dtype = {"value_float": DType.F32, "value_floats": DType.F32, "value_int": DType.I64, "value_ints": DType.I64}
        if form != "value" and form not in dtype:
            raise ModelError("a Constant without a value", node=name, found=form)
        data = value if isinstance(value, np.ndarray) else np.asarray(value, dtype[form].numpy)
        return call.graph.constant(data, call.outputs[0])

    # --- control flow --------------------------------------------------------------------------------------------

    def branch(self, proto: onnx.GraphProto, call: Call, scope: Scope) -> Sequence[Value | None]:
        """The values of an If's outputs when the branch that is always taken stands in place of it."""
        inner = Scope(call.graph, scope.opsets, self.external, scope)
        inner.add_initializers(proto)
        inner.results = dict(zip((o.name for o in proto.output), call.outputs, strict=False))
        declared = {i.name: i for i in (*proto.value_info, *proto.output)}
        for node in sorted_nodes(proto.node):
            self.node(node, inner, declared)
        return [inner.value(o.name, f"output {o.name}") for o in proto.output]

    def branches(self, node: onnx.NodeProto, scope: Scope) -> dict[str, Attr]:
        """The branches of an If; one that does not fit the shapes becomes a trap, unless both do not."""
        found: dict[str, Attr] = {}
        error: ShapeError | None = None
        for attribute in (a for a in node.attribute if a.name in ("then_branch", "else_branch")):
            try:
                found[attribute.name] = self.attr(attribute, scope, [])
            except ShapeError as failure:
                if error is not None:
                    raise
                error = failure
                found[attribute.name] = branch = scope.graph.subgraph(attribute.g.name or attribute.name)
                make_trap(branch, len(attribute.g.output), f"{node_name(node)}: {attribute.name} cannot run: {failure}")
        return found

    # --- functions -----------------------------------------------------------------------------------------------

    def inlined(self, function: onnx.FunctionProto, call: Call) -> Sequence[Value | None]:
        """The values a function's outputs have when its body stands in place of the call."""
        name = f"{function.domain}.{function.name}"
        if name in self.calls:
            raise ModelError("a function calls itself", node=str(call.loc), found=" -> ".join([*self.calls, name]))
        defaults = Scope(call.graph, {}, self.external)
        attrs = {a.name: self.attr(a, defaults, []) for a in function.attribute_proto} | call.attrs
        inner = Scope(call.graph, opsets_of(function.opset_import, name), self.external, attrs=attrs)
        for index, formal in enumerate(function.input):
            inner.define(formal, call.input(index), name)
        inner.results = dict(zip(function.output, call.outputs, strict=False))
        self.calls.append(name)
        for node in sorted_nodes(function.node):
            self.node(node, inner, {})
        self.calls.pop()
        outputs = zip(function.output, call.outputs, strict=False)
        return [inner.value(n, f"function {name}") if wanted else None for n, wanted in outputs]

    def expanded(self, node: onnx.NodeProto, call: Call, scope: Scope) -> Sequence[Value | None]:
        """An op that onnx defines by other ops, in place of one optc has no class for."""
        import onnx

        domain = domain_of(node)
        version = newest_version(domain, scope.opsets)
        schema = schema_of(domain, call.op, version)
        body = None
        if schema is not None:
            for name, attribute in schema.attributes.items():
                if attribute.default_value.name and name not in call.attrs:
                    call.attrs[name] = self.attr(attribute.default_value, scope, [])
            if schema.has_function:
                body = schema.function_body
            elif schema.has_context_dependent_function:
                types = [onnx.TypeProto() if v is None else type_proto(v.type) for v in call.inputs]
                text = schema.get_context_dependent_function(
                    _node_proto(node, call).SerializeToString(), [t.SerializeToString() for t in types]
                )
                body = onnx.FunctionProto.FromString(text) if text else None
        if body is None:
            raise UnsupportedError(f"{op_key(domain, call.op)}: not supported in this form", node=str(call.loc))
        return self.inlined(body, call)

    # --- attributes ----------------------------------------------------------------------------------------------

    def attrs(self, node: onnx.NodeProto, inputs: Sequence[Value | None], scope: Scope) -> dict[str, Attr]:
        found = self.branches(node, scope) if node.op_type == "If" and not self.loops else {}
        for attribute in node.attribute:
            if attribute.name in found:
                continue
            if attribute.ref_attr_name:
                if attribute.ref_attr_name in scope.attrs:
                    found[attribute.name] = scope.attrs[attribute.ref_attr_name]
            elif attribute.name != "sparse_value":
                dead, loop = attribute.name == _dead_branch(node, inputs), node.op_type in ("Loop", "Scan")
                self.never_taken += dead
                self.loops += loop
                found[attribute.name] = self.attr(attribute, scope, _body_operands(node, inputs))
                self.never_taken -= dead
                self.loops -= loop
        for name in _DTYPE_ATTRS:
            number = found.get(name)
            if isinstance(number, int) and number:
                found[name] = element_type(number, node_name(node))
        return found

    def attr(self, attribute: onnx.AttributeProto, scope: Scope, operands: Sequence[Value | None]) -> Attr:
        kinds = type(attribute)
        kind = attribute.type
        if kind == kinds.TENSOR:
            return to_array(attribute.t, self.external, attribute.name)
        if kind == kinds.GRAPH:
            return self.subgraph(attribute.g, scope, operands)
        if kind == kinds.STRING:
            return _text(attribute.s)
        if kind == kinds.STRINGS:
            return tuple(map(_text, attribute.strings))
        fields = {kinds.FLOAT: "f", kinds.INT: "i", kinds.FLOATS: "floats", kinds.INTS: "ints"}
        if kind not in fields:
            raise UnsupportedError(f"attributes of type {kinds.AttributeType.Name(kind)} are not supported",
                                   node=attribute.name)  # fmt: skip
        value = getattr(attribute, fields[kind])
        return value if isinstance(value, (int, float)) else tuple(value)

    def subgraph(self, proto: onnx.GraphProto, outer: Scope, operands: Sequence[Value | None]) -> Graph:
        """A body; where it leaves an input untyped, that of the operand is taken, of unknown rank."""
        graph = outer.graph.subgraph(proto.name or "body")
        scope = Scope(graph, outer.opsets, self.external, outer)
        scope.add_initializers(proto)
        for index, info in enumerate(proto.input):
            operand = operands[index] if index < len(operands) else None
            if unknown_kind(info.type) is None and info.type.tensor_type.elem_type:
                kind = tensor_type(info, declared_shape(info, self.symbols))
            elif operand is not None:
                kind = TensorType(operand.type.dtype, None)
            else:
                raise UnsupportedError(f"input {info.name} of a subgraph has no tensor type", node=graph.name)
            scope.define(info.name, graph.add_input(info.name, kind), "an input")
        try:
            self.body(proto, scope)
        except ShapeError:
            graph.clear()  # it may be replaced by a trap: nothing may go on reading the values around it
            raise
        return graph

    def compare(self, value: Value, info: onnx.ValueInfoProto) -> None:
        """Notes where the declared type contradicts the inferred one; takes its shape where inference has none."""
        if unknown_kind(info.type) is not None or not info.type.tensor_type.elem_type:
            return
        declared = tensor_type(info, declared_shape(info, self.symbols))
        if value.type.shape is None:
            if value.producer is None or value.producer.op != "If":  # branches of different rank: no declaration fits
                value.type = value.type.with_shape(declared.shape)
        elif declared.dtype is not value.type.dtype or _contradicts(declared, value.type):
            self.warnings.append(f"{info.name} is declared {declared} and is {value.type}")


def _contradicts(declared: TensorType, found: TensorType) -> bool:
    if declared.shape is None:
        return False
    pairs = zip(declared.dims, found.dims, strict=False)
    numbers = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    return declared.rank != found.rank or any(a != b for a, b in numbers)


def _body_operands(node: onnx.NodeProto, inputs: Sequence[Value | None]) -> Sequence[Value | None]:
    """The operands that become the inputs of a body, in order (Loop: after its counter and condition)."""
    if node.op_type == "Loop":
        return [None, None, *inputs[2:]]
    return inputs if node.op_type == "Scan" else []


def _dead_branch(node: onnx.NodeProto, inputs: Sequence[Value | None]) -> str | None:
    """The branch of an If that is never taken as the condition is known (exporters write Squeeze or Identity, by the
    shape)."""
    condition = content_of(inputs[0]) if node.op_type == "If" and inputs else None
    if condition is None or condition.size != 1:
        return None
    return "else_branch" if condition.flat[0] else "then_branch"


def _node_proto(node: onnx.NodeProto, call: Call) -> onnx.NodeProto:
    """The call as a NodeProto, for onnx to build a context-dependent function from."""
    import onnx

    names = [v.name if v is not None else "" for v in call.inputs]
    plain = {k: v.value if isinstance(v, DType) else v for k, v in call.attrs.items() if not isinstance(v, Graph)}
    proto = onnx.helper.make_node(call.op, names, call.outputs, domain=node.domain, **plain)  # type: ignore[arg-type]
    proto.attribute.extend(a for a in node.attribute if a.HasField("g"))
    return proto


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
