"""The quantized model as one session in which every layer can be switched to float, or to another quantization.

A layer computes `product(where(on, round(x / d), x), w) + shift` in float arithmetic, and `on`, the grid of `round`,
the divisor `d` (of each input channel), `w` and `shift` may be given anew with each run. So a hundred questions of the
form "what if this layer were ..." cost a hundred runs and no new session.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.ir import Graph, Node, Value
from .execute import Runner, Sample
from .insert import Affine, Choice, Weights, channel_axis
from .placement import Placement


@dataclass(frozen=True)
class Fix:
    """Another quantization of one layer; what is None stays as it is.

    `grid` is that of its input, divided by `divisor` f32 [input channels]; `weights` are floats as the integers stand
    for them, f32; `shift` is added to its output, f64 [output channels]. Not `on` means float.
    """

    grid: Affine | None = None
    weights: np.ndarray | None = None
    divisor: np.ndarray | None = None
    shift: np.ndarray | None = None
    on: bool = True


FLOAT = Fix(on=False)


class WhatIf:
    """A quantization of a float graph, ready to be asked. `watch` are values wanted beside the graph's outputs; only
    the layers `asked` can be changed (None: all), which lets ONNX Runtime optimize the others."""

    def __init__(
        self,
        graph: Graph,
        placement: Placement,
        choice: Choice,
        watch: Sequence[Value] = (),
        asked: Collection[Node] | None = None,
    ) -> None:
        copies: dict[Value, Value] = {}
        copy = graph.clone(copies)
        nodes = dict(zip(graph.nodes, copy.nodes, strict=True))
        self._parts: dict[Node, dict[str, Value]] = {}
        for node in placement.layers:
            self._parts[node] = parts = _switchable(copy, node, nodes[node], choice)
            copies[node.outputs[0]] = parts.pop("result")
        layers = set(placement.layers)
        for value in placement.values:
            for user, slot in placement.readers[value]:
                if value in choice.grids and isinstance(user, Node) and user not in layers:
                    scale, zero = _grid(copy, choice.grids[value])
                    copy.set_input(nodes[user], slot, _rounded(copy, copies[value], scale, zero, nodes[user]))
        outputs = dict(zip(graph.output_names, copy.outputs, strict=True))
        outputs |= {v.name: copies[v] for v in watch}
        copy.set_outputs(list(outputs.values()), list(outputs))
        self._names = {name: value.name for name, value in outputs.items()}
        free = [v.name for n, parts in self._parts.items() if asked is None or n in asked for v in parts.values()]
        self._runner = Runner(copy, list(dict.fromkeys(self._names.values())), free=free)

    def run(self, sample: Sample, fixes: Mapping[Node, Fix] | None = None) -> dict[str, np.ndarray]:
        """The outputs, and what is watched, by name, for one sample with these layers changed."""
        given: dict[str, np.ndarray] = {}
        for node, fix in (fixes or {}).items():
            parts = self._parts[node]
            for name, array in _changed(fix, node).items():
                default = _data(parts[name])
                given[parts[name].name] = np.broadcast_to(_shaped(array, default), default.shape).astype(default.dtype)
        results = self._runner.run(sample, given)
        return {wanted: results[name] for wanted, name in self._names.items()}


def input_channels(node: Node) -> int:
    """How many channels a layer reads."""
    shape = _data(node.operand(1)).shape
    if node.op == "Conv":
        group = node.attrs.get("group", 1)
        assert isinstance(group, int)
        return int(shape[1]) * group
    return int(shape[1] if node.op == "Gemm" and node.attrs.get("transB", 0) else shape[0])


def output_channels(node: Node) -> int:
    """How many channels a layer makes."""
    group = node.attrs.get("group", 1) if node.op == "ConvTranspose" else 1
    assert isinstance(group, int)
    return int(_data(node.operand(1)).shape[channel_axis(node)]) * group


def floats_of(node: Node, weights: Weights) -> np.ndarray:
    """What a layer's quantized weights stand for, f32."""
    shape = [-1 if i == channel_axis(node) else 1 for i in range(weights.data.ndim)]
    return np.asarray(weights.data * weights.scale.reshape(shape), np.float32)


def _changed(fix: Fix, node: Node) -> dict[str, np.ndarray]:
    """What a fix gives the layer's parts."""
    if not fix.on:
        one, zero = np.ones(1), np.zeros(1)
        return {"on": np.array(False), "weights": _data(node.operand(1)), "divisor": one, "shift": zero}
    given = {"weights": fix.weights, "divisor": fix.divisor, "shift": fix.shift}
    if fix.grid is not None:
        given |= {"scale": np.array(fix.grid.scale), "zero": np.array(fix.grid.zero_point)}
    return {name: array for name, array in given.items() if array is not None}


def _shaped(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    return array.reshape(like.shape) if array.size == like.size else array


def _data(value: Value) -> np.ndarray:
    assert value.data is not None
    return value.data


def _switchable(graph: Graph, node: Node, copy: Node, choice: Choice) -> dict[str, Value]:
    """Makes the copy of a layer switchable; its constants that runs may replace, and its `result`."""
    weights = floats_of(node, choice.weights_of(node))
    x, result = copy.operand(0), copy.outputs[0]
    shift = choice.shifts.get(node, np.zeros(output_channels(node))).astype(np.float32)
    scale, zero = _grid(graph, choice.grids[node.operand(0)])
    parts = {
        "on": graph.constant(np.array(True), "on"),
        "scale": scale,
        "zero": zero,
        "divisor": graph.constant(_along_channels(np.ones(input_channels(node), np.float32), node, x), "divisor"),
        "weights": graph.constant(weights, "weights"),
        "shift": graph.constant(_along_channels(shift, node, result), "shift"),
    }
    divided = graph.emit("Div", [x, parts["divisor"]], before=copy).output
    chosen = [parts["on"], _rounded(graph, divided, scale, zero, copy), x]
    graph.set_input(copy, 0, graph.emit("Where", chosen, before=copy, types=[x.type]).output)
    graph.set_input(copy, 1, parts["weights"])
    uses = result.uses
    total = graph.emit("Add", [result, parts["shift"]], before=copy._next, types=[result.type]).output
    for user, slot in uses:
        if isinstance(user, Node):
            graph.set_input(user, slot, total)
    graph.set_outputs([total if v is result else v for v in graph.outputs], graph.output_names)
    return parts | {"result": total}


def _along_channels(array: np.ndarray, node: Node, value: Value) -> np.ndarray:
    """Shaped to broadcast along the channels of a layer's input or output."""
    axis = 1 if node.op in ("Conv", "ConvTranspose") else value.type.rank - 1
    return array.reshape([-1 if i == axis else 1 for i in range(value.type.rank)])


def _grid(graph: Graph, grid: Affine) -> tuple[Value, Value]:
    """Scale and zero point."""
    scale = graph.constant(np.float32(grid.scale), "scale")
    return scale, graph.constant(np.uint8(grid.zero_point), "zero_point")


def _rounded(graph: Graph, value: Value, scale: Value, zero: Value, before: Node) -> Value:
    """The value to the grid and back."""
    q = graph.emit("QuantizeLinear", [value, scale, zero], before=before).output
    return graph.emit("DequantizeLinear", [q, scale, zero], before=before).output
