"""Mixed precision: which values are stored in bf16, which products take them, what stays in f32."""

from __future__ import annotations

import numpy as np
import pytest
from optc.backends.cpu import store_bf16
from optc.backends.target import Target
from optc.compiler.errors import UnsupportedError
from optc.compiler.ir import Graph, Node, Value
from optc.compiler.types import DType, TensorType
from optc.passes.base import PassContext

COOPERLAKE = Target.parse("cpu:cooperlake")


def start(*shape: int) -> tuple[Graph, Value]:
    graph = Graph()
    return graph, graph.add_input("x", TensorType(DType.F32, shape))


def conv(graph: Graph, x: Value, channels: int, group: int = 1) -> Value:
    weights = np.full((channels, int(x.type.dims[-1]) // group, 1, 1), 0.1, np.float32)
    return graph.emit("optc.Conv", [x, graph.constant(weights, "w")], {"group": group}).output


def run(graph: Graph, *outputs: Value) -> list[Node]:
    graph.set_outputs(outputs, [f"y{i}" for i in range(len(outputs))])
    store_bf16(graph, COOPERLAKE, PassContext())
    return list(graph.nodes)


def ops(nodes: list[Node]) -> list[str]:
    return [n.op.removeprefix("optc.") for n in nodes]


def test_products_read_bf16_and_what_follows_them_is_f32() -> None:
    graph, x = start(1, 4, 4, 8)
    y = graph.emit("Relu", [conv(graph, x, 16)]).output
    nodes = run(graph, conv(graph, y, 8))
    assert ops(nodes) == ["Cast", "ConvBF16", "Relu", "Cast", "ConvBF16"]
    assert [n.outputs[0].type.dtype for n in nodes] == [DType.BF16, DType.F32, DType.F32, DType.BF16, DType.F32]
    weights = nodes[1].operand(1)
    assert weights.type.dtype is DType.BF16


def test_outputs_keep_their_type() -> None:
    graph, x = start(1, 4, 4, 8)
    y = graph.emit("Relu", [conv(graph, x, 16)]).output
    nodes = run(graph, conv(graph, y, 8), y)
    assert [v.type.dtype for v in graph.outputs] == [DType.F32, DType.F32]
    assert ops(nodes) == ["Cast", "ConvBF16", "Relu", "Cast", "ConvBF16"]


def test_each_reader_that_is_no_product_widens_by_itself() -> None:
    graph, x = start(1, 4, 4, 8)
    y = graph.emit("Relu", [conv(graph, x, 8)]).output
    a, b = graph.emit("Add", [conv(graph, y, 8), y]).output, graph.emit("Neg", [y]).output
    nodes = run(graph, conv(graph, a, 8), conv(graph, b, 8))
    assert ops(nodes).count("ConvBF16") == 4
    widened = [n for n in nodes if n.op == "Cast" and n.outputs[0].type.dtype is DType.F32]
    assert len(widened) == 2
    assert {u.user.op for n in widened for u in n.outputs[0].uses} == {"Add", "Neg"}


def test_moves_go_on_in_bf16() -> None:
    graph, x = start(1, 4, 4, 8)
    left, right = (graph.emit("Relu", [conv(graph, x, 8)]).output for _ in range(2))
    joined = graph.emit("Concat", [left, right], {"axis": -1}).output
    nodes = run(graph, conv(graph, joined, 8))
    (concat,) = (n for n in nodes if n.op == "Concat")
    assert {v.type.dtype for v in (*concat.inputs, *concat.outputs) if v is not None} == {DType.BF16}
    assert concat.outputs[0].users[0].op == "optc.ConvBF16"


def test_depthwise_keeps_its_weights_and_reads_through_a_cast() -> None:
    graph, x = start(1, 4, 4, 8)
    y = conv(graph, conv(graph, x, 8), 8, group=8)
    nodes = run(graph, conv(graph, y, 4))
    assert ops(nodes) == ["Cast", "ConvBF16", "Cast", "Cast", "Conv", "Cast", "ConvBF16"]
    depthwise = nodes[4]
    assert depthwise.operand(1).type.dtype is DType.F32
    assert depthwise.operand(0).type.dtype is DType.F32


def test_a_matrix_product_with_a_bias_of_one_row() -> None:
    graph, x = start(5, 8)
    w, bias = graph.constant(np.ones((6, 8), np.float32)), graph.constant(np.ones((1, 6), np.float32))
    y = graph.emit("Gemm", [x, w, bias], {"transB": 1, "alpha": 0.5}).output
    nodes = run(graph, y)
    assert ops(nodes) == ["Cast", "MatMulBF16"]
    assert nodes[1].attrs == {"transB": 1, "alpha": 0.5}
    assert nodes[1].operand(2).type.static_shape == (6,)


@pytest.mark.parametrize("op", ["Softmax", "CumSum"])
def test_what_no_kernel_reads_in_bf16_stays(op: str) -> None:
    """A product whose only reader needs f32 stores f32."""
    graph, x = start(1, 4, 4, 8)
    operands = [conv(graph, x, 8)] + ([graph.constant(np.int64(1))] if op == "CumSum" else [])
    nodes = run(graph, graph.emit(op, operands).output)
    assert ops(nodes) == ["Cast", "ConvBF16", op]


def test_without_products_nothing_changes() -> None:
    graph, x = start(4, 4)
    assert ops(run(graph, graph.emit("Relu", [x]).output)) == ["Relu"]


def test_a_target_without_bf16_is_refused() -> None:
    graph, x = start(1, 4, 4, 8)
    graph.set_outputs([conv(graph, x, 8)], ["y"])
    with pytest.raises(UnsupportedError, match="does not multiply bfloat16") as caught:
        store_bf16(graph, Target.parse("cpu:x86-64-v4"), PassContext())
    assert "cooperlake" in str(caught.value)
