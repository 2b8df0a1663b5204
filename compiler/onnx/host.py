"""Moves what optc has no ops for into optc.Host nodes, which ONNX Runtime runs (`--fallback onnxruntime`).

It works on the ONNX model, before import: what is moved keeps its opsets, attributes and constants to the byte. A
node is moved if the importer refuses it, or if it makes or reads a value optc cannot hold (strings, sequences, ...);
one whose body or function holds such a node is moved whole. Connected nodes become one optc.Host.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TargetError, UnsupportedError
from ..ops.host import HOST, type_text
from ..types import DType
from .load import opsets_of
from .scope import free_names, node_name, sorted_nodes
from .support import Functions, domain_of, op_key, problems_of
from .tensors import ExternalData, tensor_proto, to_array, unknown_kind

if TYPE_CHECKING:
    import onnx

_LARGEST = (1 << 31) - (1 << 20)  # bytes; a protobuf message ends at 2 GiB
_HELD = frozenset(d.value for d in DType if d is not DType.STRING)
Types = dict[str, "onnx.TypeProto"]


def with_hosts(
    model: onnx.ModelProto, functions: Functions, folder: Path | None, refused: Set[str] = frozenset()
) -> onnx.ModelProto:
    """A model in which every node that optc cannot take, and those named in `refused`, are part of an optc.Host.

    The same model if there are none. Raises UnsupportedError if ONNX Runtime does not take the model or does not
    know the type of a result, TargetError if it is not installed.
    """
    opsets = opsets_of(model.opset_import, "model")

    def is_refused(node: onnx.NodeProto) -> bool:
        return node_name(node) in refused or bool(problems_of(node, functions, opsets))

    if any(map(is_refused, model.graph.node)) or any(
        not _can_hold_element(t.data_type) for t in model.graph.initializer
    ):
        return _Split(model, folder, is_refused).result()
    return model


class _Split:
    """One model's nodes, as indices into `nodes`, and which of them are moved."""

    def __init__(
        self, model: onnx.ModelProto, folder: Path | None, is_refused: Callable[[onnx.NodeProto], bool]
    ) -> None:
        self.model, self.external = model, ExternalData(folder)
        graph = model.graph
        self.types = _inferred(model, folder)
        self.constants = {
            n.output[0]: n for n in graph.node if n.op_type == "Constant" and not domain_of(n) and n.output
        }
        self.initializers = {t.name: t for t in graph.initializer}
        self.sparse = {s.values.name: s for s in graph.sparse_initializer}
        self.nodes = [n for n in sorted_nodes(graph.node) if not self.constants.keys() & set(n.output)]
        self.reads = [list(dict.fromkeys([*filter(None, n.input), *sorted(free_names(n))])) for n in self.nodes]
        makers = {name: i for i, n in enumerate(self.nodes) for name in n.output if name}
        self.before = [{makers[n]: None for n in names if n in makers} for names in self.reads]
        self.hosted = {i for i, n in enumerate(self.nodes) if is_refused(n) or self.is_foreign(i)}

    def is_foreign(self, index: int) -> bool:
        """True if the node makes or reads a value that optc cannot hold."""
        return any(not self.can_hold(n) for n in (*self.reads[index], *self.nodes[index].output) if n)

    def can_hold(self, name: str) -> bool:
        return name not in self.types or _can_hold(self.types[name])

    # --- groups --------------------------------------------------------------------------------------------------

    def levels(self) -> list[int]:
        """How often the longest path to each node changes between moved and other nodes.

        A path that leaves a moved node and comes back to another rises by two, so moved nodes of one level can be
        one node without a cycle.
        """
        levels: list[int] = []
        for index, before in enumerate(self.before):
            moved = index in self.hosted
            levels.append(max((levels[i] + ((i in self.hosted) != moved) for i in before), default=int(moved)))
        return levels

    def groups(self) -> list[list[int]]:
        """The connected moved nodes of each level; other nodes are moved too where they part two nodes that hand over
        a value optc cannot hold."""
        import networkx as nx

        while True:
            levels = self.levels()
            between = {n for i in self.hosted for n in self.parting(i, levels)}
            if not between:
                break
            self.hosted |= between
        links = nx.Graph()
        links.add_nodes_from(self.hosted)
        links.add_edges_from(
            (i, j) for i in self.hosted for j in self.before[i] if j in self.hosted and levels[i] == levels[j]
        )
        return sorted(sorted(group) for group in nx.connected_components(links))

    def parting(self, index: int, levels: Sequence[int]) -> set[int]:
        """Nodes that keep node `index` from being in one group with those whose foreign values it reads."""
        foreign = {n for n in self.reads[index] if not self.can_hold(n)}
        makers = [i for i in self.before[index] if i in self.hosted and foreign & set(self.nodes[i].output)]
        lowest = min((levels[i] for i in makers), default=levels[index])
        found: set[int] = set()
        stack = list(self.before[index]) if lowest < levels[index] else []
        while stack:
            node = stack.pop()
            if levels[node] > lowest and node not in found:
                found.add(node)
                stack.extend(self.before[node])
        return found - self.hosted

    # --- the new model -------------------------------------------------------------------------------------------

    def result(self) -> onnx.ModelProto:
        import onnx

        groups = self.groups()
        new = onnx.ModelProto()
        new.CopyFrom(self.model)
        graph = new.graph
        del graph.node[:]
        graph.node.extend(n for i, n in enumerate(self.nodes) if i not in self.hosted)
        read = Counter(name for names in self.reads for name in names) + Counter(o.name for o in graph.output)
        results = [self.outputs(group, read) for group in groups]
        self.check_types([name for names in results for name in names])
        for index, (group, outputs) in enumerate(zip(groups, results, strict=True)):
            if outputs:
                graph.node.append(self.host(group, outputs, f"host_{index}"))
        used = {name for node in graph.node for name in free_names(node)} | {o.name for o in graph.output}
        graph.node.extend(n for name, n in self.constants.items() if name in used)
        self.keep_used(graph, used)
        return new

    def keep_used(self, graph: onnx.GraphProto, used: set[str]) -> None:
        """Drops the constants that only moved nodes read."""
        moved = {name for i in self.hosted for name in self.reads[i]} - used
        for tensors in (graph.initializer, graph.sparse_initializer):
            kept = [t for t in tensors if (t.name if tensors is graph.initializer else t.values.name) not in moved]
            if len(kept) < len(tensors):
                del tensors[:]
                tensors.extend(kept)
        inputs = [i for i in graph.input if i.name not in moved or i.name not in self.initializers]
        del graph.input[:]
        graph.input.extend(inputs)

    def check_types(self, outputs: Sequence[str]) -> None:
        """Raises UnsupportedError naming the results of moved nodes whose dtype or rank nobody knows."""
        unknown = [n for n in outputs if n not in self.types or not self.types[n].tensor_type.HasField("shape")]
        if unknown:
            makers = {name: node for node in self.nodes for name in node.output}
            raise UnsupportedError(
                "the dtype or rank of results of nodes that would run on ONNX Runtime is not known",
                found="; ".join(f"{name} of {_title(makers[name])}" for name in unknown),
                hint="Declare them in the model's value_info.",
            )

    def outputs(self, group: Sequence[int], read: Counter[str]) -> list[str]:
        """What a group makes and others read, `read` being how many nodes and outputs read each value."""
        inside = Counter(name for i in group for name in self.reads[i])
        return [n for i in group for n in self.nodes[i].output if n and read[n] > inside[n]]

    def host(self, group: Sequence[int], outputs: Sequence[str], name: str) -> onnx.NodeProto:
        """The optc.Host of a group."""
        import onnx

        nodes = [self.nodes[i] for i in group]
        made = [name for node in nodes for name in node.output if name]
        reads = [n for n in dict.fromkeys(n for i in group for n in self.reads[i]) if n not in set(made)]
        inputs = [n for n in reads if not (n in self.initializers or n in self.sparse or n in self.constants)]
        part = onnx.GraphProto(name=name)
        part.node.extend(self.constants[n] for n in reads if n in self.constants)
        part.node.extend(nodes)
        part.initializer.extend(self.embedded(self.initializers[n]) for n in reads if n in self.initializers)
        part.sparse_initializer.extend(self.sparse[n] for n in reads if n in self.sparse)
        for infos, names in ((part.input, inputs), (part.output, outputs)):
            infos.extend(onnx.ValueInfoProto(name=n, type=self.types.get(n)) for n in names)
        model = onnx.ModelProto(ir_version=self.model.ir_version, producer_name="optc", graph=part)
        model.opset_import.extend(self.model.opset_import)
        model.functions.extend(self.model.functions)
        if model.ByteSize() > _LARGEST:
            raise UnsupportedError("nodes that would run on ONNX Runtime hold more than 2 GiB of constants",
                                   node=node_name(nodes[0]), found=f"{model.ByteSize()} bytes")  # fmt: skip
        return onnx.helper.make_node(
            HOST.partition(".")[2],
            inputs,
            outputs,
            name="+".join(map(node_name, nodes)) if len(nodes) <= 3 else f"{node_name(nodes[0])}+{len(nodes) - 1}",
            domain=HOST.partition(".")[0],
            model=tensor_proto("model", np.frombuffer(model.SerializeToString(deterministic=True), np.uint8)),
            nodes=[_title(node) for node in nodes],
            types=[_type_text(self.types[n]) for n in outputs],
        )

    def embedded(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """The tensor with its data in it."""
        external = tensor.data_location == type(tensor).EXTERNAL
        return tensor_proto(tensor.name, to_array(tensor, self.external)) if external else tensor


def _inferred(model: onnx.ModelProto, folder: Path | None) -> Types:
    """The types of all values of the main graph, as ONNX Runtime infers them from the declared ones.

    They are read from the model it saves: a session's own list does not tell a scalar from an unknown rank.
    """
    import onnx

    try:
        import onnxruntime as ort
    except ImportError as error:
        raise TargetError("--fallback onnxruntime needs ONNX Runtime", hint="pip install onnxruntime") from error
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    known = {o.name for o in asked.graph.output}
    made = dict.fromkeys(n for node in asked.graph.node for n in node.output if n and n not in known)
    asked.graph.output.extend(onnx.ValueInfoProto(name=n) for n in made)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    with tempfile.TemporaryDirectory(prefix="optc-") as scratch:
        options.optimized_model_filepath = str(Path(scratch, "typed.onnx"))
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        try:
            ort.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own errors have no common class
            raise UnsupportedError(f"ONNX Runtime does not take the model either: {error}") from error
        typed = onnx.load(options.optimized_model_filepath, load_external_data=False)
    types = {i.name: i.type for i in (*model.graph.value_info, *model.graph.input)}
    for tensor in model.graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for info in typed.graph.output:
        if info.name not in types or info.type.tensor_type.HasField("shape"):
            types[info.name] = info.type
    return types


def _can_hold(type: onnx.TypeProto) -> bool:
    return unknown_kind(type) is None and _can_hold_element(type.tensor_type.elem_type)


def _can_hold_element(number: int) -> bool:
    return number in _HELD


def _type_text(type: onnx.TypeProto) -> str:
    tensor = type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    return type_text(DType(tensor.elem_type), dims)


def _title(node: onnx.NodeProto) -> str:
    return f"{node_name(node)} ({op_key(domain_of(node), node.op_type)})"
