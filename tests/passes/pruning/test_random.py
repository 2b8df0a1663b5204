"""On random graphs: removing any unit leaves a valid graph, which computes what the original does with those channels
zero wherever they are read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from helpers import random_inputs, run_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optc.compiler.ir import Graph, Value
from optc.compiler.types import DType, TensorType, symbol
from optc.compiler.verify import verify
from optc.passes.pruning import prune
from optc.passes.pruning.channels import Channels, Kept
from optc.passes.pruning.rules import find_channels
from optc.passes.pruning.selection import find_groups
from optc.passes.pruning.shrink import shrink

TOLERANCE = 2e-5  # of the largest element: two orders of summation in float32
GENTLE = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Maker:
    """Emits layers with random weights into a graph."""

    def __init__(self, seed: int) -> None:
        self.graph = Graph()
        self.rng = np.random.default_rng(seed)

    def const(self, *shape: int, low: float = -1.0) -> Value:
        return self.graph.constant(self.rng.uniform(low, 1.0, shape).astype(np.float32), "w")

    def ints(self, *values: int) -> Value:
        return self.graph.constant(np.array(values, np.int64), "i")

    def op(self, name: str, *inputs: Value | None, count: int = 1, **attrs: object) -> Value:
        return self.graph.emit(name, inputs, attrs, num_outputs=count).outputs[0]  # type: ignore[arg-type]

    def conv(self, x: Value, out: int, kernel: int = 1, group: int = 1) -> Value:
        weight = self.const(out, x.type.static_shape[1] // group, kernel, kernel)
        return self.op("Conv", x, weight, self.const(out), group=group, pads=(kernel // 2,) * 4)

    def dense(self, x: Value, out: int) -> Value:
        weight = self.const(int(x.type.dims[-1]), out)  # type: ignore[arg-type]
        return self.op("Add", self.op("MatMul", x, weight), self.const(out))


def norm(m: Maker, x: Value) -> Value:
    c = x.type.static_shape[1]
    return m.op("BatchNormalization", x, m.const(c), m.const(c), m.const(c), m.const(c, low=0.5))


def group_norm(m: Maker, x: Value) -> Value:
    c = x.type.static_shape[1]
    return m.op("GroupNormalization", x, m.const(c), m.const(c), num_groups=c // 2)


def layer_norm_elsewhere(m: Maker, x: Value) -> Value:
    return m.op("LayerNormalization", x, m.const(4, 4), m.const(4, 4), axis=2)


def residual(m: Maker, x: Value) -> Value:
    return m.op("Add", x, m.conv(m.op("Relu", x), x.type.static_shape[1], 3))


def gate(m: Maker, x: Value) -> Value:
    """Squeeze and excite; the gate of a zero channel is not zero."""
    c = x.type.static_shape[1]
    inner = m.op("Relu", m.conv(m.op("GlobalAveragePool", x), 4))
    return m.op("Mul", x, m.op("HardSigmoid", m.conv(inner, c)))


def dense_block(m: Maker, x: Value) -> Value:
    return m.op("Concat", x, m.op("Sigmoid", m.conv(x, 4, 3)), axis=1)


def gated_split(m: Maker, x: Value) -> Value:
    node = m.graph.emit("Split", (m.conv(x, 12), m.ints(6, 6)), {"axis": 1}, num_outputs=2)
    return m.op("Mul", node.outputs[0], m.op("Tanh", node.outputs[1]))


def sliced(m: Maker, x: Value) -> Value:
    return m.op("Slice", m.conv(x, 10), m.ints(3), m.ints(-1), m.ints(1))


def shuffle(m: Maker, x: Value) -> Value:
    c = x.type.static_shape[1]
    y = m.op("Reshape", x, m.ints(0, 2, c // 2, 4, 4))
    return m.op("Reshape", m.op("Transpose", y, perm=(0, 2, 1, 3, 4)), m.ints(0, -1, 4, 4))


def to_space_and_back(m: Maker, x: Value) -> Value:
    y = m.op("DepthToSpace", m.conv(x, 12), blocksize=2, mode=["DCR", "CRD"][int(m.rng.integers(2))])
    return m.op("SpaceToDepth", m.op("Selu", y), blocksize=2)


def groups_by_reshape(m: Maker, x: Value) -> Value:
    """A group norm as torch exports it."""
    c = x.type.static_shape[1]
    y = m.op("InstanceNormalization", m.op("Reshape", x, m.ints(0, 2, -1)), m.const(2), m.const(2))
    y = m.op("Reshape", y, m.ints(2, c, 4, 4))
    return m.op("Add", m.op("Mul", y, m.const(c, 1, 1)), m.const(c, 1, 1))


def resized(m: Maker, x: Value) -> Value:
    shape = x.type.static_shape
    y = m.op("Resize", m.op("MaxPool", x, kernel_shape=(2, 2)), None, None, m.ints(*shape), mode="nearest")
    return m.op("Pad", y, m.ints(0, 0, 0, 0, 0, 0, 0, 0))


LAYERS: list[Callable[[Maker, Value], Value]] = [
    lambda m, x: m.conv(x, 6, 3),
    lambda m, x: m.conv(x, x.type.static_shape[1], 3, group=x.type.static_shape[1]),  # depthwise
    lambda m, x: m.conv(x, 2 * x.type.static_shape[1], 1, group=x.type.static_shape[1]),  # with a multiplier
    lambda m, x: m.conv(x, 8, 1, group=2),
    lambda m, x: m.conv(x, x.type.static_shape[1], 1, group=x.type.static_shape[1] // 2),
    lambda m, x: m.op("ConvTranspose", x, m.const(x.type.static_shape[1], 6, 1, 1), m.const(6)),
    lambda m, x: m.op("ConvTranspose", x, m.const(x.type.static_shape[1], 2, 1, 1), group=x.type.static_shape[1] // 2),
    lambda m, x: m.op("PRelu", x, m.const(x.type.static_shape[1], 1, 1)),
    lambda m, x: m.op("HardSwish", m.op("Add", x, m.const(1, x.type.static_shape[1], 1, 1))),
    lambda m, x: m.op("ReduceMax", m.op("Unsqueeze", x, m.ints(2)), m.ints(2), keepdims=0),
    norm, group_norm, layer_norm_elsewhere, residual, gate, dense_block, gated_split, sliced, shuffle,
    to_space_and_back, groups_by_reshape, resized,
]  # fmt: skip


def convnet(seed: int, layers: list[int], flat: bool) -> Graph:
    m = Maker(seed)
    x = m.conv(m.graph.add_input("x", TensorType(DType.F32, (2, 3, 4, 4))), 8, 3)
    for index in layers:
        x = LAYERS[index](m, x)
    x = m.op("Flatten", x if flat else m.op("GlobalAveragePool", x))
    hidden = m.op("Gemm", x, m.const(5, int(x.type.static_shape[1])), m.const(5), transB=1)
    m.graph.set_outputs([m.op("Gemm", m.op("Sigmoid", hidden), m.const(5, 3), m.const(3))], ["y"])
    return m.graph


def transformer(seed: int, fused: bool, multiplied: bool) -> Graph:
    """One block; q, k and v from one product or from three, and an inner layer with a gate or without."""
    m = Maker(seed)
    x = m.dense(m.graph.add_input("x", TensorType(DType.F32, (symbol("N"), 5, 6))), 8)
    x = m.op("LayerNormalization", x, m.const(8), m.const(8))
    heads = m.ints(0, 0, 4, 2)
    if fused:
        qkv = m.op("Reshape", m.dense(x, 24), m.ints(0, 0, 3, 4, 2))
        parts = [m.op("Gather", qkv, m.graph.constant(np.int64(i)), axis=2) for i in range(3)]
    else:
        parts = [m.op("Reshape", m.dense(x, 8), heads) for _ in range(3)]
    q, v = (m.op("Transpose", parts[i], perm=(0, 2, 1, 3)) for i in (0, 2))
    k = m.op("Transpose", parts[1], perm=(0, 2, 3, 1))
    scores = m.op("Add", m.op("MatMul", q, k), m.const(4, 5, 5))  # a bias a head
    attended = m.op("Transpose", m.op("MatMul", m.op("Softmax", scores, axis=-1), v), perm=(0, 2, 1, 3))
    x = m.op("Add", x, m.dense(m.op("Reshape", attended, m.ints(0, 0, 8)), 8))
    inner = m.op("Gelu", m.dense(x, 7))
    if multiplied:
        inner = m.op("Mul", inner, m.dense(x, 7))
    m.graph.set_outputs([m.op("Add", x, m.dense(inner, 8))], ["y"])
    return m.graph


def zeroed(graph: Graph, channels: Channels, gone: np.ndarray) -> dict[Value, np.ndarray]:
    """New data for the constants through which the channels are read."""
    data: dict[Value, np.ndarray] = {}
    for node, slot, axis, labels, role in channels.cuts:
        value = node.operand(slot)
        if role == "reads" and value.data is not None:
            array = data.setdefault(value, np.array(value.data))
            np.moveaxis(array, axis, 0)[gone[labels]] = 0
    return data


def check_any_unit(graph: Graph, pick: Callable[[int], int]) -> None:
    channels = find_channels(graph)
    roots = channels.roots()
    groups = [g for g in find_groups(channels, roots, "l2") if g.total > 1 and len(g.units)]
    assert groups
    group = groups[pick(len(groups))]
    gone = roots == group.units[pick(len(group.units))]
    original = graph.clone(mapping := {})
    for value, data in zeroed(graph, channels, gone).items():
        mapping[value].data = data
    before = sum(v.type.numel for v in graph.constants())
    shrink(channels, Kept(~gone))
    verify(graph)
    assert sum(v.type.numel for v in graph.constants()) < before
    inputs = random_inputs(graph)
    expected, found = run_reference(original, inputs)["y"], run_reference(graph, inputs)["y"]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


@GENTLE
@given(st.data(), st.integers(0, 99), st.lists(st.integers(0, len(LAYERS) - 1), max_size=4), st.booleans())
def test_any_unit_of_a_convolutional_network(data: st.DataObject, seed: int, layers: list[int], flat: bool) -> None:
    check_any_unit(convnet(seed, layers, flat), lambda n: data.draw(st.integers(0, n - 1)))


@settings(GENTLE, max_examples=25)
@given(st.data(), st.integers(0, 99), st.booleans(), st.booleans())
def test_any_unit_of_a_transformer(data: st.DataObject, seed: int, fused: bool, multiplied: bool) -> None:
    check_any_unit(transformer(seed, fused, multiplied), lambda n: data.draw(st.integers(0, n - 1)))


SPECS = [
    "channels=50%,align=1",
    "channels=95%,align=1,schedule=balanced,criterion=l1",
    "channels=30%,align=2",
    "channels=99%,align=1;weights<1e-2",
]


@GENTLE
@given(st.integers(0, 99), st.lists(st.integers(0, len(LAYERS) - 1), max_size=6), st.booleans(), st.sampled_from(SPECS))
def test_any_spec_leaves_a_network_that_runs(seed: int, layers: list[int], flat: bool, spec: str) -> None:
    graph = convnet(seed, layers, flat)
    report = prune(graph, spec)
    verify(graph)
    result = run_reference(graph, random_inputs(graph))["y"]
    assert result.shape == (2, 3)
    assert np.isfinite(result).all()
    assert all(1 <= group.after <= group.before for group in report.groups)
