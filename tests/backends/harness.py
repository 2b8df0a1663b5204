"""Runs single nodes and small graphs through index definitions and loop kernels, and through onnx.reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from optc.backends.base import KERNEL_BUILDERS
from optc.backends.jit import jit
from optc.backends.kernels import builders, index
from optc.backends.kernels.context import BuildContext
from optc.backends.kernels.pointwise import build_group
from optc.backends.target import Target
from optc.compiler.ir import Graph, Node, Value
from optc.compiler.ops.base import op_of
from optc.compiler.types import DType, TensorType

OPSET = 23


def as_stored(array: np.ndarray) -> np.ndarray:
    """The array as kernels take it: bfloat16 as its bits, scalars with one dim."""
    array = np.ascontiguousarray(array)
    array = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    return array.reshape(1) if array.ndim == 0 else array


def node_of(
    op: str, arrays: Sequence[np.ndarray | None], attrs: Mapping[str, Any], constant: Sequence[int], outputs: int = 1
) -> Node:
    """One node with typed inputs; those numbered in `constant` are constants."""
    graph = Graph()
    values: list[Value | None] = []
    for number, array in enumerate(arrays):
        if array is None:
            values.append(None)
        elif number in constant:
            values.append(graph.constant(np.asarray(array)))
        else:
            dtype = DType.from_numpy(np.asarray(array).dtype)
            values.append(graph.add_input(f"x{number}", TensorType(dtype, np.asarray(array).shape)))
    return graph.emit(op, values, dict(attrs), num_outputs=outputs)


def run_node(node: Node, arrays: Sequence[np.ndarray | None], *, group: bool = False) -> list[np.ndarray]:
    """The node's outputs by its view, loop kernel or (first, if `group`) index definition."""
    index.load_all()
    builders.load_all()
    by_value = {v: np.asarray(a) for v, a in zip(node.inputs, arrays, strict=True) if v is not None and a is not None}
    if op_of(node).view and not group:
        return [by_value[node.operand(0)].reshape(node.output.type.static_shape)]
    func, inputs = None, [v for v in node.inputs if v is not None]
    if not group and node.op in KERNEL_BUILDERS:
        func = KERNEL_BUILDERS[node.op](node, BuildContext(Target.host()))
    if func is None:
        built = build_group([node], list(dict.fromkeys(inputs)), node.outputs, Target.host())
        func, inputs = built.func, list(built.inputs)
    return _call(func, [by_value[v] for v in inputs], node.outputs)


def run_graph(
    graph: Graph, feeds: Sequence[np.ndarray], shapes: Sequence[Sequence[int]], **hints: Any
) -> list[np.ndarray]:
    """A whole graph as one group, on arrays for its inputs; `shapes` are those of the outputs."""
    built = build_group(
        list(graph.nodes), [*graph.inputs, *graph.constants()], list(graph.outputs), Target.host(), **hints
    )
    by_value = dict(zip(graph.inputs, feeds, strict=True))
    arrays = [by_value[v] if v in by_value else np.asarray(v.data) for v in built.inputs]
    return _call(built.func, arrays, built.outputs, shapes)


def _call(
    func: Any, arrays: Sequence[np.ndarray], outputs: Sequence[Value], shapes: Sequence[Sequence[int]] | None = None
) -> list[np.ndarray]:
    shapes = shapes or [v.type.static_shape for v in outputs]
    results = [np.full(shape, 77).astype(v.type.dtype.numpy) for v, shape in zip(outputs, shapes, strict=True)]
    stored = [as_stored(r) for r in results]
    jit({"kernel": func})["kernel"](*map(as_stored, arrays), *stored)
    return [s.view(r.dtype).reshape(r.shape) for s, r in zip(stored, results, strict=True)]


def reference(op: str, arrays: Sequence[np.ndarray | None], attrs: Mapping[str, Any], outputs: int) -> list[np.ndarray]:
    """What onnx.reference computes."""
    names = ["" if a is None else f"x{n}" for n, a in enumerate(arrays)]
    results = [f"y{n}" for n in range(outputs)]
    node = onnx.helper.make_node(op, names, results, **attrs)
    infos = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), np.shape(a))
        for n, a in zip(names, arrays, strict=True)
        if a is not None
    ]
    outs = [onnx.helper.make_empty_tensor_value_info(r) for r in results]
    graph = onnx.helper.make_graph([node], "g", infos, outs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    feeds = {n: np.asarray(a) for n, a in zip(names, arrays, strict=True) if a is not None}
    return list(ReferenceEvaluator(model).run(None, feeds))  # type: ignore[arg-type]


def check_node(
    op: str,
    arrays: Sequence[np.ndarray | None],
    attrs: Mapping[str, Any] | None = None,
    *,
    constant: Sequence[int] = (),
    outputs: int = 1,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    group: bool = False,
) -> None:
    """Asserts that our kernel and onnx.reference agree; integers and bools exactly."""
    attrs = dict(attrs or {})
    graph_attrs = {k: tuple(v) if isinstance(v, list) else v for k, v in attrs.items()}
    node = node_of(op, arrays, graph_attrs, constant, outputs)
    got = run_node(node, arrays, group=group)
    for ours, theirs in zip(got, reference(op, arrays, attrs, outputs), strict=False):
        theirs = np.asarray(theirs)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if theirs.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(ours, theirs)
