"""The oracle for type inference: onnx's own node tests, whose arrays say what every output's type must be.

Run as a script, it sweeps all of them and prints what disagrees.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from optc.compiler.ir import Graph, Node, Value
from optc.compiler.ops import load_all
from optc.compiler.ops.base import OPS, infer_node
from optc.compiler.types import DType, TensorType, free_symbols, is_data_symbol, same_dim, substitute, symbol


@dataclass(frozen=True)
class Case:
    """One node test: a model of a few nodes, and arrays for its inputs and outputs (of the first data set)."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


@functools.cache
def cases() -> dict[str, Case]:
    """The node tests over plain tensors of types optc has, whose ops it knows."""
    from onnx.backend.test.case.node import collect_testcases

    load_all()
    found: dict[str, Case] = {}
    for case in collect_testcases(None):
        if case.model is None or not case.data_sets:
            continue
        inputs, outputs = case.data_sets[0]
        if all(isinstance(x, (np.ndarray, np.generic)) and _known(x) for x in (*inputs, *outputs)) and _ops(case.model):
            arrays = [tuple(np.asarray(x) for x in xs) for xs in (inputs, outputs)]
            found[case.name] = Case(case.name, case.model, arrays[0], arrays[1])
    return found


def _known(array: Any) -> bool:
    try:
        return DType.from_numpy(np.asarray(array).dtype) is not DType.STRING
    except KeyError:
        return False


def _ops(model: onnx.ModelProto) -> bool:
    values = (*model.graph.input, *model.graph.output)
    plain = all(v.type.WhichOneof("value") == "tensor_type" for v in values)
    return plain and all(_op_name(n) in OPS for n in _nodes(model.graph))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.op_type != "Constant":
            yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _op_name(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


MODES = ("static", "constant", "symbolic")


def build(case: Case, mode: str) -> tuple[Graph, dict[Any, int]]:
    """The inferred graph and what its symbols stand for.

    `mode` says what inference is told of the inputs: their shapes ("static"), the elements of the small integer ones
    too ("constant"), or those elements and a symbol for each dim over 1 of all others ("symbolic").
    """
    graph, values, binding = Graph(case.name), dict[str, Value](), dict[Any, int]()
    numbers = itertools.count()
    for info, array in zip(case.model.graph.input, case.inputs, strict=True):
        type = TensorType(DType.from_numpy(array.dtype), tuple(array.shape))
        if mode != "static" and (type.dtype.is_int or array.size == 1) and array.size <= 16:
            values[info.name] = graph.constant(array, info.name)
            continue
        if mode == "symbolic":
            shape = [d if d < 2 else symbol(f"s{next(numbers)}") for d in array.shape]
            binding |= {s: d for s, d in zip(shape, array.shape, strict=True) if not isinstance(s, int)}
            type = type.with_shape(shape)
        values[info.name] = graph.add_input(info.name, type)
    _fill(graph, case.model.graph, values)
    return graph, binding


def _fill(graph: Graph, proto: onnx.GraphProto, values: dict[str, Value], infer: bool = True) -> None:
    for initializer in proto.initializer:
        values[initializer.name] = graph.constant(numpy_helper.to_array(initializer), initializer.name)
    for item in proto.node:
        attrs = {a.name: _attr(a, values) for a in item.attribute}
        if item.op_type == "Constant":
            ((kind, data),) = attrs.items()
            values[item.output[0]] = graph.constant(np.asarray(data, _CONSTANTS.get(kind)), item.output[0])
            continue
        while item.output and not item.output[-1]:
            del item.output[-1]
        outputs = [Value(graph.fresh_name(o or "unused"), TensorType(DType.F32, None)) for o in item.output]
        operands = [values[i] if i else None for i in item.input]
        node = graph.insert(Node(_op_name(item), operands, outputs, attrs))
        values |= dict(zip(item.output, outputs, strict=True))
        if infer:
            infer_node(node)
    graph.set_outputs([values[o.name] for o in proto.output])


_CONSTANTS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}


def _attr(attribute: onnx.AttributeProto, values: dict[str, Value]) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == onnx.AttributeProto.GRAPH:
        body, scope = Graph(value.name), dict(values)
        for info in value.input:
            kind = info.type.tensor_type
            scope[info.name] = body.add_input(info.name, TensorType(DType(kind.elem_type or 1), None))
        _fill(body, value, scope, infer=False)
        return body
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
    return value


def disagreement(case: Case, mode: str) -> str | None:
    """What is wrong with the inferred types of the outputs; None if nothing is."""
    graph, binding = build(case, mode)
    for value, array in zip(graph.outputs, case.outputs, strict=True):
        wanted = TensorType(DType.from_numpy(array.dtype), tuple(array.shape))
        if value.type.dtype is not wanted.dtype:
            return f"{value!r}, should be {wanted}"
        if value.type.shape is None:
            continue
        bound = substitute(value.type.shape, binding)
        agree = len(bound) == array.ndim and all(
            same_dim(b, d) or any(is_data_symbol(s) for s in free_symbols([b])) for b, d in zip(bound, array.shape)
        )
        if not agree:
            return f"{value!r}, which is {list(bound)}, should be {wanted}"
    return None


def is_exact(case: Case, mode: str) -> bool:
    """True if every output's shape is known up to the symbols of the inputs."""
    graph, binding = build(case, mode)
    return all(v.type.shape is not None and free_symbols(v.type.shape) <= set(binding) for v in graph.outputs)


def main() -> None:
    load_all()
    for mode in MODES:
        wrong, loose, total = 0, [], 0
        for case in cases().values():
            total += 1
            try:
                found = disagreement(case, mode)
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            if found:
                wrong += 1
                print(f"{mode} {case.name}: {found}")
            elif not is_exact(case, mode):
                loose.append(case.name)
        print(f"{mode}: {total} cases, {wrong} wrong, {len(loose)} with dims that inference cannot know")
        print("   ", " ".join(loose))


if __name__ == "__main__":
    main()
