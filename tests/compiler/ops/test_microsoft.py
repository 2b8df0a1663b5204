"""Types of the com.microsoft ops."""

from __future__ import annotations

import pytest
from optc.compiler.ir import Graph
from optc.compiler.types import DType, TensorType, parse_dim


def type_of(text: str) -> TensorType:
    dtype, dims = text.split(":")
    return TensorType(DType.from_text(dtype), tuple(parse_dim(d) for d in dims.split(",") if d))


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "output"),
    [
        ("FastGelu", ["f32:N,8", "f32:8"], {}, "f32:N,8"),
        ("FusedMatMul", ["f32:N,8,4", "f32:N,8,6"], {"transA": 1}, "f32:N,4,6"),
        ("FusedConv", ["f32:N,3,8,8", "f32:4,3,3,3", "f32:4"], {"activation": "Relu"}, "f32:N,4,6,6"),
        ("SkipLayerNormalization", ["f32:N,S,8", "f32:N,S,8", "f32:8"], {}, "f32:N,S,8"),
        ("QLinearAdd", ["u8:N,8", "f32:", "u8:", "u8:8", "f32:", "u8:", "f32:", "u8:"], {}, "u8:N,8"),
        ("QLinearSigmoid", ["u8:N,8", "f32:", "u8:", "f32:", "u8:"], {}, "u8:N,8"),
        ("QLinearGlobalAveragePool", ["i8:N,8,7,7", "f32:", "i8:", "f32:", "i8:"], {}, "i8:N,8,1,1"),
        (
            "QLinearGlobalAveragePool",
            ["u8:N,7,7,8", *["f32:", "u8:", "f32:", "u8:"]],
            {"channels_last": 1},
            "u8:N,1,1,8",
        ),
        ("NhwcMaxPool", ["u8:N,8,8,3"], {"kernel_shape": (2, 2), "strides": (2, 2)}, "u8:N,4,4,3"),
        (
            "QLinearConv",
            ["u8:N,8,8,3", "f32:", "u8:", "i8:4,3,3,3", "f32:", "i8:", "f32:", "i8:"],
            {"channels_last": 1},
            "i8:N,6,6,4",
        ),
        ("QLinearWhere", ["bool:N,1", "u8:8", "f32:", "u8:", "u8:", "f32:", "u8:", "f32:", "u8:"], {}, "u8:N,8"),
        ("DynamicQuantizeLSTM", ["f32:T,N,8", "i8:1,8,48", "i8:1,12,48"], {"hidden_size": 12}, "f32:T,1,N,12"),
        ("QLinearConcat", ["f32:", "u8:", "u8:N,2", "f32:", "u8:", "u8:N,3", "f32:", "u8:"], {"axis": 1}, "u8:N,5"),
        ("MatMulIntegerToFloat", ["u8:N,8", "i8:8,6", "f32:", "f32:", "u8:", "i8:"], {}, "f32:N,6"),
    ],
)
def test_types(op: str, inputs: list[str], attrs: dict[str, object], output: str) -> None:
    graph = Graph()
    values = [graph.add_input(f"x{i}", type_of(t)) for i, t in enumerate(inputs)]
    assert graph.emit(f"com.microsoft.{op}", values, attrs).outputs[0].type == type_of(output)  # type: ignore[arg-type]
