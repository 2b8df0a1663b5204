"""Graph to ONNX model: the inverse of import, at the lowest opset that says every node."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, UnsupportedError
from ..ir import Attr, Graph, Node, Value
from ..types import DType
from . import bf16, fused, integer, nhwc, recurrent, trap, weights  # noqa: F401  (they register expansions)
from .expand import expand, has_own_ops
from .load import NEWEST_OPSET
from .tensors import tensor_proto, type_proto
from .versions import check_opset, is_default, lowest_opset, schema_at, schemas, split_key

if TYPE_CHECKING:
    import onnx

_EXTERNAL_ABOVE = 1_500_000_000  # bytes of constants; a protobuf message ends at 2 GiB
_EXTERNAL_ALIGNMENT = 4096
_EXTERNAL_MINIMUM = 1024  # smaller tensors stay in the model file
_OWN_METADATA = ("producer", "opset", "warnings", "initializer_inputs")
TensorWriter = Callable[[str, np.ndarray], "onnx.TensorProto"]


def export_model(graph: Graph, *, opset: int | None = None, writer: TensorWriter = tensor_proto) -> onnx.ModelProto:
    """The graph as an ONNX model; the graph is not changed.

    optc's own ops are expanded (see expand.py). `opset` defaults to the lowest that says every node, 13 at least.
    `writer` makes the tensor of a constant from its name and data.
    Raises UnsupportedError for ops without an expansion, and where `opset` is too old or unknown.
    """
    return _export(graph, opset, writer)


def save_model(graph: Graph, path: str | Path, *, opset: int | None = None, external: bool | None = None) -> None:
    """Writes the model, its constants to `<name>.data` beside it if `external` (default: if above 1.5 GB).

    Both files appear whole or not at all. Raises ArtifactError if they cannot be written.
    """
    path = Path(path)
    if external is None:
        external = sum(v.type.nbytes for v in graph.constants()) > _EXTERNAL_ABOVE
    data = path.with_name(path.name + ".data")
    temporary = [p.with_name(f".{p.name}.{os.getpid()}.part") for p in (path, data)]
    try:
        if external:
            with temporary[1].open("wb") as file:
                model = _export(graph, opset, _external_writer(file, data.name))
        else:
            model = _export(graph, opset, tensor_proto)
        temporary[0].write_bytes(model.SerializeToString())
        if external:
            os.replace(temporary[1], data)
        os.replace(temporary[0], path)
    except OSError as error:
        raise ArtifactError(f"cannot write the model: {error.strerror}", node=str(path)) from error
    finally:
        for part in temporary:
            part.unlink(missing_ok=True)


def _external_writer(file: IO[bytes], location: str) -> TensorWriter:
    def write(name: str, array: np.ndarray) -> onnx.TensorProto:
        import onnx

        if array.nbytes < _EXTERNAL_MINIMUM:
            return tensor_proto(name, array)
        file.write(b"\0" * (-file.tell() % _EXTERNAL_ALIGNMENT))
        entries = {"location": location, "offset": file.tell(), "length": array.nbytes}
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        tensor = onnx.TensorProto(name=name, data_type=DType.from_numpy(array.dtype).value, dims=array.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    return write


def _export(graph: Graph, opset: int | None, writer: TensorWriter) -> onnx.ModelProto:
    import onnx

    if has_own_ops(graph):
        graph = graph.clone()
        expand(graph)
    lowest = lowest_opset(graph)
    opset = lowest if opset is None else opset
    if not lowest <= opset <= NEWEST_OPSET:
        raise UnsupportedError(
            f"the graph cannot be written at opset {opset}",
            expected=f"{lowest} to {NEWEST_OPSET}",
            found="; ".join(check_opset(graph, opset)) or None,
        )
    domains = {split_key(n.op)[0] for n in graph.all_nodes()} - {""}
    imports = [onnx.helper.make_opsetid("", opset)]
    imports += [onnx.helper.make_opsetid(d, _domain_version(graph, d)) for d in sorted(domains)]
    model = onnx.ModelProto(
        ir_version=max(8, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)),
        producer_name="optc",
        opset_import=imports,
        graph=_Exporter(graph, opset, writer).model_graph(),
    )
    for key, value in graph.metadata.items():
        if key not in _OWN_METADATA:
            model.metadata_props.add(key=key, value=value)
    return model


def _domain_version(graph: Graph, domain: str) -> int:
    versions = [schemas(*split_key(n.op)) for n in graph.all_nodes() if split_key(n.op)[0] == domain]
    return max((s[-1].since_version for s in versions if s), default=1)


class _Exporter:
    def __init__(self, graph: Graph, opset: int, writer: TensorWriter) -> None:
        self.graph, self.opset, self.writer = graph, opset, writer
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()
        self.node_names: set[str] = set()
        self.body_outputs: dict[tuple[Graph, int], str] = {}

    def model_graph(self) -> onnx.GraphProto:
        """The outermost graph, with the constants of all."""
        self.taken |= {v.name for v in self.graph.inputs} | set(self.graph.output_names)
        proto = self.proto(self.graph)
        for value in self.constants():
            assert value.data is not None
            proto.initializer.append(self.writer(self.name(value), value.data))
        return proto

    def constants(self) -> list[Value]:
        """Constants nodes read, and those that graphs return."""
        found = dict.fromkeys(self.graph.constants())
        for node in self.graph.all_nodes():
            for sub in node.subgraphs.values():
                found |= dict.fromkeys(v for v in sub.outputs if v.is_constant)
        return list(found)

    def proto(self, graph: Graph) -> onnx.GraphProto:
        import onnx

        proto = onnx.GraphProto(name=graph.name)
        outer = graph is not self.graph
        for value in graph.inputs:
            self.names[value] = self.fresh(value.name) if outer else value.name
            proto.input.append(self.info(value, self.names[value]))
        copies = self.name_outputs(graph)
        for node in graph.nodes:
            proto.node.append(self.node(node))
        for value, name in copies:
            proto.node.append(onnx.helper.make_node("Identity", [self.name(value)], [name], name=self.fresh_node(name)))
        for value, name in zip(graph.outputs, self.output_names(graph), strict=True):
            proto.output.append(self.info(value, name))
        return proto

    # --- names ---------------------------------------------------------------------------------------------------

    def output_names(self, graph: Graph) -> list[str]:
        """What the outputs are called: their own names outermost; in a body, where names have no meaning, unique."""
        if graph is self.graph:
            return graph.output_names
        return [self.body_outputs[graph, i] for i in range(len(graph.outputs))]

    def name_outputs(self, graph: Graph) -> list[tuple[Value, str]]:
        """Names output values as the outputs are; (value, name) where that takes a copy: two outputs of one value,
        or one no node of this graph makes."""
        copies = []
        inside = graph is not self.graph
        for index, (value, output) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
            name = self.fresh(value.name) if inside else output
            self.body_outputs[graph, index] = name
            made_here = value.producer is not None and value.producer.graph is graph
            if made_here and value not in self.names:
                self.names[value] = name
            elif inside or self.names.get(value) != name:
                copies.append((value, name))
        return copies

    def name(self, value: Value) -> str:
        if value not in self.names:
            self.names[value] = self.fresh(value.name)
        return self.names[value]

    def fresh(self, name: str) -> str:
        return _unused(name, self.taken)

    def fresh_node(self, name: str) -> str:
        return _unused(name, self.node_names)

    # --- nodes ---------------------------------------------------------------------------------------------------

    def node(self, node: Node) -> onnx.NodeProto:
        import onnx

        domain, op = split_key(node.op)
        history = schemas(domain, op)
        schema = schema_at(domain, op, self.opset) if not domain else (history[-1] if history else None)
        inputs = ["" if v is None else self.name(v) for v in node.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        outputs = [self.output(v, schema) for v in node.outputs]
        while len(outputs) > 1 and not outputs[-1]:
            outputs.pop()
        proto = onnx.NodeProto(op_type=op, domain=domain, name=self.fresh_node(node.name), input=inputs, output=outputs)
        for key, value in sorted(node.attrs.items()):
            known = schema is None or key in schema.attributes
            if known or not is_default(history[-1], key, value):
                proto.attribute.append(self.attr(key, value, schema))
        return proto

    def output(self, value: Value, schema: Any) -> str:
        """The name of a result; none for an optional one nobody reads."""
        made = value.producer.outputs if value.producer is not None else ()
        dead = not value.uses and any(v.uses for v in made)  # of a node nobody reads, all results are named
        if schema is not None and dead and value.index < len(schema.outputs):
            option = schema.outputs[value.index].option
            if option == type(option).Optional:
                return ""
        return self.name(value)

    def attr(self, key: str, value: Attr, schema: Any) -> onnx.AttributeProto:
        import onnx

        if isinstance(value, Graph):
            return onnx.helper.make_attribute(key, self.proto(value))
        if isinstance(value, np.ndarray):
            return onnx.helper.make_attribute(key, tensor_proto(key, value))
        kind = None
        if schema is not None and key in schema.attributes:
            kind = int(schema.attributes[key].type.value)
            if kind == onnx.AttributeProto.FLOAT:
                value = float(value)  # type: ignore[arg-type]
        elif value == ():
            kind = int(onnx.AttributeProto.INTS)
        return onnx.helper.make_attribute(key, value.value if isinstance(value, DType) else value, attr_type=kind)

    def info(self, value: Value, name: str) -> onnx.ValueInfoProto:
        import onnx

        return onnx.ValueInfoProto(name=name, type=type_proto(value.type))


def _unused(name: str, taken: set[str]) -> str:
    unique, count = name, 0
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    taken.add(unique)
    return unique
