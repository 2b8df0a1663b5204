"""Constant folding: what depends on constants only is computed now, by ONNX Runtime (or onnx.reference).

A result whose elements inference knows needs no run. All other foldable nodes of a graph run in one session.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.ir import Graph, Node, Value
from ...compiler.ops.base import op_of
from ...compiler.types import DType
from ..base import PassContext, register_pass
from ..rewrite import erase_dead

_log = logging.getLogger("optc")
_FED_ABOVE = 4096  # bytes
_UNSIZED_LIMIT = 65536  # bytes of operands of a node whose result's size is not known before it runs


@register_pass
@dataclass(frozen=True)
class FoldConstants:
    """Folds nodes whose results are at most `max_bytes`, or no larger than what they are computed from.

    Never folds what is random, or holds a subgraph; nor the DequantizeLinear of a weight, which must stay
    recognizable, unless `dequantize` says so.
    """

    name: ClassVar[str] = "fold-constants"
    max_bytes: int = 1 << 20
    dequantize: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        known = self._fold_known(graph) + _fold_empty(graph)
        run = self._fold_by_running(graph, ctx)
        ctx.count(self.name, known + run)
        return known + run > 0

    def _fold_known(self, graph: Graph) -> int:
        """Folds outputs whose `content` is all numbers."""
        folded = 0
        for node in list(graph.all_nodes()):
            if node.graph is None or not node.outputs or not node.outputs[0].uses:
                continue
            value = node.outputs[0]
            content = value.content
            if content is None or not value.type.is_static or value.type.dtype.is_float:
                continue
            if not all(isinstance(x, int) for x in content.reshape(-1)):
                continue
            data = np.array(content.tolist(), value.type.dtype.numpy).reshape(value.type.static_shape)
            node.graph.replace_uses(value, node.graph.constant(data, value.name))
            erase_dead([node])
            folded += 1
        return folded

    def _fold_by_running(self, graph: Graph, ctx: PassContext) -> int:
        foldable: dict[Node, None] = {}
        for node in graph.all_nodes():
            if self._is_foldable(node, foldable):
                foldable[node] = None
        wanted = [v for n in foldable for v in n.outputs if any(u.user not in foldable for u in v.uses)]
        if not wanted:
            return 0
        results = evaluate(list(foldable), wanted)
        for value, data in zip(wanted, results, strict=True):
            home = value.producer.graph if value.producer is not None else None
            if data is None or home is None:
                continue
            constant = home.constant(data, value.name, value.type.dtype)
            home.replace_uses(value, constant)
        failed = [v.name for v, data in zip(wanted, results, strict=True) if data is None]
        if failed:
            ctx.notes.append(f"not folded, as neither ONNX Runtime nor onnx.reference runs it: {', '.join(failed)}")
        before = sum(1 for n in foldable if n.graph is not None)
        erase_dead(reversed(foldable))
        return before - sum(1 for n in foldable if n.graph is not None)

    def _is_foldable(self, node: Node, foldable: dict[Node, None]) -> bool:
        if node.op == "DequantizeLinear" and not self.dequantize:
            return False
        if node.subgraphs or node.op.startswith("optc.") or not op_of(node).deterministic:
            return False
        inputs = [v for v in node.inputs if v is not None]
        if not all(v.is_constant or v.producer in foldable for v in inputs):
            return False
        if any(v.type.dtype is DType.STRING for v in (*inputs, *node.outputs)):
            return False
        given = sum(_nbytes(v) for v in inputs)
        if not all(v.type.is_static for v in node.outputs):
            return given <= min(_UNSIZED_LIMIT, self.max_bytes) and node.op not in (
                "Expand",
                "Tile",
                "Range",
                "ConstantOfShape",
            )
        return node.op == "DequantizeLinear" or sum(v.type.nbytes for v in node.outputs) <= max(self.max_bytes, given)


def _fold_empty(graph: Graph) -> int:
    """Folds outputs that have no elements; the rest of a model need not compute with sizes of 0."""
    folded = 0
    for node in list(graph.all_nodes()):
        home = node.graph
        empty = [v for v in node.outputs if v.uses and v.type.is_static and 0 in v.type.dims]
        if home is None or not empty:
            continue
        for value in empty:
            data = np.empty(value.type.static_shape, value.type.dtype.numpy)
            home.replace_uses(value, home.constant(data, value.name, value.type.dtype))
        erase_dead([node])
        folded += len(empty)
    return folded


def _nbytes(value: Value) -> int:
    return value.type.nbytes if value.type.is_static else 0


def evaluate(nodes: Sequence[Node], wanted: Sequence[Value]) -> list[np.ndarray | None]:
    """The values `wanted` of nodes (in order) that depend on constants only; None for one that nothing can run.

    Runs all in one session; where that fails, each wanted value in one of its own.
    """
    results = _run(nodes, wanted)
    if results is not None:
        return list(results)
    if len(wanted) == 1:
        return [None]
    single = [evaluate(_cone(nodes, value), [value]) for value in wanted]
    return [result[0] for result in single]


def _cone(nodes: Iterable[Node], value: Value) -> list[Node]:
    """The nodes that `value` depends on, in order."""
    needed = {value}
    cone = []
    for node in reversed(list(nodes)):
        if any(v in needed for v in node.outputs):
            cone.append(node)
            needed.update(v for v in node.inputs if v is not None)
    return cone[::-1]


def _run(nodes: Sequence[Node], wanted: Sequence[Value]) -> list[np.ndarray] | None:
    """Runs the nodes on ONNX Runtime, else on onnx.reference; None if neither can."""
    import onnxruntime as ort
    from onnx.reference import ReferenceEvaluator

    from ...compiler.onnx.exporter import export_model

    graph, names, feeds = _graph_of(nodes, wanted)
    model = export_model(graph)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(y) for y in session.run(names, feeds)]
    except Exception:  # its errors share no class below Exception
        _log.debug("constant folding: ONNX Runtime cannot run %s", wanted, exc_info=True)
    try:
        return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feeds)]
    except Exception:  # an evaluator raises whatever numpy raises; the caller notes that the nodes stay
        _log.debug("constant folding: onnx.reference cannot run %s", wanted, exc_info=True)
    return None


def _graph_of(nodes: Sequence[Node], wanted: Sequence[Value]) -> tuple[Graph, list[str], dict[str, np.ndarray]]:
    """A graph of copies of the nodes that returns the values wanted, its output names, and arrays for its inputs.

    Large constants are inputs, so that no model holds a copy of them.
    """
    graph = Graph("fold")
    copies: dict[Value, Value] = {}
    feeds: dict[str, np.ndarray] = {}

    def copy(value: Value | None) -> Value | None:
        if value is None or value in copies:
            return None if value is None else copies[value]
        name, data = graph.fresh_name(value.name), value.data
        if data is not None and data.nbytes > _FED_ABOVE and data.dtype.kind in "fiub":
            feeds[name] = data
            copies[value] = Value(name, value.type)
            graph.inputs.append(copies[value])
        else:
            copies[value] = Value(name, value.type, data)
        return copies[value]

    for node in nodes:
        inputs = [copy(v) for v in node.inputs]
        outputs = [v for v in map(copy, node.outputs) if v is not None]
        graph.insert(Node(node.op, inputs, outputs, node.attrs, node.loc))
    names = [f"result{i}" for i in range(len(wanted))]
    graph.set_outputs([copies[v] for v in wanted], names)
    return graph, names, feeds
