"""--fallback onnxruntime for nodes the importer has no ops for: mixed models, against ONNX Runtime alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import optc
import pytest
from onnx import TensorProto, helper, numpy_helper
from optc.compiler.onnx.importer import import_model
from small_models import Cli

FLOAT, INT = int(TensorProto.FLOAT), int(TensorProto.INT64)
Declared = Mapping[str, tuple[int, Sequence[Any]]]  # {name: (element type, dims)}
RNG = np.random.default_rng(0)
OPSETS = {"": 17, "com.microsoft": 1, "ai.onnx.ml": 3}


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Declared,
    outputs: Declared,
    weights: Mapping[str, np.ndarray] | None = None,
    declared: Declared | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info(n, *t) for n, t in inputs.items()],
        [helper.make_tensor_value_info(n, *t) for n, t in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
        value_info=[helper.make_tensor_value_info(n, *t) for n, t in (declared or {}).items()],
    )
    opsets = [helper.make_opsetid(d, v) for d, v in OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def node(op: str, inputs: str, outputs: str, domain: str = "", **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}_{outputs[0]}", domain=domain, **attrs)


def contributed() -> onnx.ModelProto:
    """Ops of com.microsoft between ops of ai.onnx, with a dynamic batch."""
    weights = {
        "w": RNG.standard_normal((32, 16), np.float32),
        "s": RNG.random(16, np.float32) / 10,
        "b": RNG.random((8, 16), np.float32),
        "v": RNG.random((5, 8), np.float32) + 9,
    }
    nodes = [
        node("Relu", "x", "r"),
        node("FusedGemm", "r w s", "q", "com.microsoft", activation="LeakyRelu", activation_alpha=0.1),
        node("Sigmoid", "q", "g"),
        node("Mul", "g q", "m"),
        node("Gemm", "m b", "h", transB=1),
        node("CDist", "h v", "d", "com.microsoft", metric="euclidean"),
        node("Neg", "d", "y"),
    ]
    return model_of(nodes, {"x": (FLOAT, ["N", 32])}, {"y": (FLOAT, ["N", 5])}, weights, {"d": (FLOAT, ["N", 5])})


def ngrams() -> onnx.ModelProto:
    tfidf = node(
        "TfIdfVectorizer", "t", "c", mode="TF", min_gram_length=1, max_gram_length=2, max_skip_count=0,
        ngram_counts=[0, 3], ngram_indexes=[0, 1, 2, 3], pool_int64s=[1, 2, 3, 1, 2],
    )  # fmt: skip
    nodes = [node("Abs", "x", "t"), tfidf, node("Neg", "c", "y")]
    return model_of(nodes, {"x": (INT, ["B", 8])}, {"y": (FLOAT, ["B", 4])})


def strings() -> onnx.ModelProto:
    """Numbers to strings, through two nodes and a string constant, to numbers again."""
    words = node("Constant", "", "words", value=numpy_helper.from_array(np.array(["a", "b"], object), "words"))
    nodes = [
        node("Abs", "x", "i"),
        node("LabelEncoder", "i", "s", "ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=["A", "b", "c"]),
        node("StringNormalizer", "s", "l", case_change_action="LOWER", locale="C"),
        words,
        node("Concat", "l words", "all", axis=0),
        node("LabelEncoder", "all", "n", "ai.onnx.ml", keys_strings=["a", "b"], values_floats=[1.0, 2.0],
             default_float=-1.0),
        node("Mul", "n n", "y"),
    ]  # fmt: skip
    return model_of(nodes, {"x": (INT, ["N"])}, {"y": (FLOAT, ["M"])})


def parted() -> onnx.ModelProto:
    """Two nodes exchange strings while one of them waits for a node optc could run, which reads the other's result."""
    nodes = [
        node("Cast", "x", "s", to=TensorProto.STRING),
        node("LabelEncoder", "s", "k", "ai.onnx.ml", keys_strings=["0", "1"], values_int64s=[0, 1], default_int64=0),
        node("Neg", "k", "i"),
        node("Add", "i k", "j"),
        node("Gather", "s j", "t"),
        node("LabelEncoder", "t", "y", "ai.onnx.ml", keys_strings=["3", "7"], values_int64s=[30, 70], default_int64=-5),
    ]
    return model_of(nodes, {"x": (INT, ["N"])}, {"y": (INT, ["N"])})


def sequences() -> onnx.ModelProto:
    nodes = [
        node("Relu", "x", "r"),
        node("SplitToSequence", "r", "seq", axis=0),
        node("ConcatFromSequence", "seq", "c", axis=1),
        node("Neg", "c", "y"),
    ]
    return model_of(nodes, {"x": (FLOAT, ["N", 3])}, {"y": (FLOAT, [1, "M"])}, declared={"c": (FLOAT, [1, "M"])})


def in_a_body() -> onnx.ModelProto:
    """An If with such a node in a branch, which captures a value."""
    info = helper.make_tensor_value_info("o", FLOAT, None)
    branches = {
        "then_branch": helper.make_graph(
            [node("CDist", "r r", "o", "com.microsoft", metric="euclidean")], "t", [], [info]
        ),
        "else_branch": helper.make_graph([node("Identity", "r", "o")], "e", [], [info]),
    }
    nodes = [
        node("Relu", "x", "r"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Cast", "top", "c", to=TensorProto.BOOL),
        node("If", "c", "z", **branches),
        node("Neg", "z", "y"),
    ]
    return model_of(nodes, {"x": (FLOAT, [3, 3])}, {"y": (FLOAT, [3, 3])}, declared={"z": (FLOAT, [3, 3])})


def casts() -> onnx.ModelProto:
    """Ops optc has, in a form it has not, which shows while they are imported; a string initializer."""
    nodes = [
        node("Cast", "x", "s", to=TensorProto.STRING),
        node("Concat", "s words", "all", axis=0),
        node("Cast", "all", "n", to=FLOAT),
        node("Neg", "n", "y"),
    ]
    return model_of(nodes, {"x": (INT, ["N"])}, {"y": (FLOAT, ["M"])}, {"words": np.array(["1", "2"], object)})


def function() -> onnx.ModelProto:
    """A function of the model that holds such a node; its second operand is computed from constants alone."""
    body = [node("Neg", "a", "n"), node("CDist", "n b", "c", "com.microsoft", metric="euclidean")]
    opsets = [helper.make_opsetid(d, v) for d, v in OPSETS.items()]
    nodes = [node("Relu", "x", "r"), node("Abs", "k", "p"), node("F", "r p", "d", "mine"), node("Neg", "d", "y")]
    y = (FLOAT, ["N", 3])
    weights = {"k": RNG.standard_normal((3, 4), np.float32)}
    model = model_of(nodes, {"x": (FLOAT, ["N", 4])}, {"y": y}, weights, {"d": y})
    model.functions.append(helper.make_function("mine", "F", ["a", "b"], ["c"], body, opsets))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    return model


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], list[np.ndarray]]] = {
    "contributed": (contributed, [RNG.standard_normal((n, 32), np.float32) for n in (3, 1)]),
    "ngrams": (ngrams, [RNG.integers(-4, 4, (n, 8)) for n in (2, 5)]),
    "strings": (strings, [np.array(x) for x in ([0, -1, 5], [1])]),
    "parted": (parted, [np.array(x) for x in ([3, 1, 0], [7])]),
    "sequences": (sequences, [RNG.standard_normal((n, 3), np.float32) for n in (2, 4)]),
    "casts": (casts, [np.array(x) for x in ([3, -1, 0], [7])]),
    "function": (function, [RNG.standard_normal((n, 4), np.float32) for n in (2, 5)]),
    "in_a_body": (in_a_body, [RNG.standard_normal((3, 3), np.float32), np.zeros((3, 3), np.float32)]),
}


def reference(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_onnxruntime(case: str) -> None:
    build, samples = CASES[case]
    source = build()
    model = optc.compile(source, fallback="onnxruntime", threads=1)
    for x in samples:
        np.testing.assert_allclose(model(x), reference(source, x), rtol=1e-5, atol=1e-5)


def test_a_fresh_process_runs_the_artifact(tmp_path: Path) -> None:
    source = contributed()
    x = np.ones((2, 32), np.float32)
    np.save(tmp_path / "x.npy", x)
    optc.compile(source, fallback="onnxruntime", threads=1).save(tmp_path / "a.optc")
    script = (
        "import sys, numpy as np, optc; f = sys.argv[1]; "
        "np.save(f + 'y', optc.load(f + 'a.optc')(np.load(f + 'x.npy')))"
    )
    subprocess.run([sys.executable, "-c", script, f"{tmp_path}/"], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), reference(source, x), rtol=1e-5)


def test_external_data(tmp_path: Path) -> None:
    source = contributed()
    x = RNG.standard_normal((2, 32), np.float32)
    expected = reference(source, x)
    onnx.save(source, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = optc.compile(tmp_path / "m.onnx", fallback="onnxruntime", threads=1)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)


def test_summary_and_manifest_name_each_node() -> None:
    model = optc.compile(contributed(), fallback="onnxruntime", threads=1)
    nodes = ["FusedGemm_q (com.microsoft.FusedGemm)", "CDist_d (com.microsoft.CDist)"]
    assert model.manifest["summary"]["fallback"] == nodes
    assert all(f"{node} runs on ONNX Runtime" in model.summary() for node in nodes)


@pytest.mark.parametrize(("case", "calls", "nodes"), [("strings", 1, 4), ("parted", 1, 6), ("sequences", 1, 2)])
def test_connected_nodes_are_one_call(case: str, calls: int, nodes: int) -> None:
    graph = import_model(CASES[case][0](), fallback=True)
    hosts = [n for n in graph.nodes if n.op == "optc.Host"]
    assert len(hosts) == calls
    assert sum(len(n.attrs["nodes"]) for n in hosts) == nodes


def test_without_it_every_node_is_named(cli: Cli, tmp_path: Path) -> None:
    onnx.save(contributed(), tmp_path / "m.onnx")
    code, _, err = cli("compile", tmp_path / "m.onnx", "-o", tmp_path / "m.optc")
    assert code == 4
    assert all(name in err for name in ("FusedGemm_q", "CDist_d", "--fallback onnxruntime"))


def test_a_model_without_such_nodes_is_left_alone() -> None:
    model = model_of([node("Neg", "x", "y")], {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])})
    assert not [n for n in import_model(model, fallback=True).nodes if n.op == "optc.Host"]


def test_a_result_of_unknown_rank_is_named() -> None:
    model = contributed()
    del model.graph.value_info[:]
    with pytest.raises(optc.UnsupportedError, match=r"rank of results.*d of CDist_d.*value_info"):
        import_model(model, fallback=True)


def test_an_op_nobody_knows() -> None:
    model = model_of([node("Nothing", "x", "y")], {"x": (FLOAT, ["N"])}, {"y": (FLOAT, ["N"])})
    with pytest.raises(optc.UnsupportedError, match="Nothing") as error:
        import_model(model)
    assert "--fallback" not in str(error.value)
    with pytest.raises(optc.UnsupportedError, match=r"ONNX Runtime does not take the model either.*Nothing"):
        import_model(model, fallback=True)
