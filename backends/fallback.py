"""Nodes that run on ONNX Runtime inside the artifact (`--fallback onnxruntime`): each becomes a small ONNX model.

An optc.Host node is such a model already."""

from __future__ import annotations

from typing import cast

import numpy as np

from ..compiler.ir import Graph, Node, Value, captures
from ..compiler.ops.host import HOST
from .steps import HostCall


class Fallback:
    """Collects the models of fallback nodes; `extras` are the artifact members that hold them."""

    def __init__(self) -> None:
        self.models: list[bytes] = []

    @property
    def extras(self) -> dict[str, bytes]:
        return {f"fallback/{index}.onnx": model for index, model in enumerate(self.models)}

    def call(self, node: Node) -> HostCall:
        """The step that runs `node` on ONNX Runtime. Raises the exporter's errors if ONNX cannot say it."""
        from ..compiler.onnx.exporter import export_model

        if node.op == HOST:
            return self.hosted(node)
        inputs = [v for v in dict.fromkeys(node.inputs) if v is not None and not v.is_constant]
        for sub in node.subgraphs.values():
            inputs += [v for v in captures(sub) if v not in inputs]
        graph = Graph(node.name)
        copies: dict[Value, Value] = {v: graph.add_input(v.name, v.type) for v in inputs}
        operands = [v if v is None or v.is_constant else copies[v] for v in node.inputs]
        attrs = {k: v.clone(dict(copies)) if isinstance(v, Graph) else v for k, v in node.attrs.items()}
        types = [v.type for v in node.outputs]
        new = graph.emit(node.op, operands, attrs, types=types, names=[v.name for v in node.outputs], loc=node.loc)
        graph.set_outputs(new.outputs, [f"y{i}" for i in range(len(new.outputs))])
        self.models.append(export_model(graph).SerializeToString(deterministic=True))
        return HostCall(node.name, len(self.models) - 1, inputs, node.outputs, [f"{node.name} ({node.op})"])

    def hosted(self, node: Node) -> HostCall:
        """The step that runs the model an optc.Host holds; operands that have become constants become the model's."""
        import onnx

        from ..compiler.onnx.tensors import tensor_proto

        model = onnx.load_from_string(cast(np.ndarray, node.attrs["model"]).tobytes())
        ports, given = list(model.graph.input), []
        del model.graph.input[:]
        for port, value in zip(ports, node.inputs, strict=True):
            assert value is not None
            if value.data is not None:
                model.graph.initializer.append(tensor_proto(port.name, value.data))
            else:
                model.graph.input.append(port)
                given.append(value)
        self.models.append(model.SerializeToString(deterministic=True))
        nodes = cast("tuple[str, ...]", node.attrs["nodes"])
        return HostCall(node.name, len(self.models) - 1, given, node.outputs, nodes)
