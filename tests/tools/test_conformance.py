"""The conformance sweep itself: what counts, how results are compared, what a dying worker does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from optc.tools import conformance
from optc.tools.conformance import Arrays, Case, check, exclusion, markdown_report, run_cases, text_report


def model_of(op: str, kind: int, domain: str = "") -> ModelProto:
    ports = [helper.make_tensor_value_info(name, kind, [2]) for name in ("x", "y")]
    node = helper.make_node(op, ["x"], ["y"], domain=domain)
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]), opset_imports=opsets)


def case_of(name: str, expected: np.ndarray) -> Case:
    model = model_of("Identity", TensorProto.FLOAT)
    model.graph.name = name
    return Case(name, "Identity", None, 1e-3, 1e-7, lambda: (model, [([np.ones(2, np.float32)], [expected])]))


def engine(model: ModelProto) -> Callable[[Arrays], Arrays]:
    """Returns its input, but dies or sleeps if the model's name says so."""

    def run(arrays: Arrays) -> Arrays:
        if model.graph.name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if model.graph.name == "sleeps":
            time.sleep(30)
        return arrays

    return run


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(conformance.ENGINES, "fake", engine)
    return "fake"


@pytest.mark.parametrize(
    ("op", "kind", "domain", "reason"),
    [
        ("Relu", TensorProto.FLOAT, "", None),
        ("Identity", TensorProto.STRING, "", "string tensors"),
        ("Identity", TensorProto.FLOAT8E4M3FN, "", "fp8 tensors"),
        ("Identity", TensorProto.INT4, "", "2- or 4-bit tensors"),
        ("Bernoulli", TensorProto.FLOAT, "", "random generator"),
        ("Scaler", TensorProto.FLOAT, "ai.onnx.ml", "ai.onnx.ml domain"),
        ("FlexAttention", TensorProto.FLOAT, "ai.onnx.preview", "ai.onnx.preview domain"),
    ],
)
def test_what_counts(op: str, kind: int, domain: str, reason: str | None) -> None:
    assert exclusion(model_of(op, kind, domain)) == reason


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (np.ones(3, np.float32), "shape"),
        (np.ones(2, np.float64), "dtype"),
        (np.array([1, 2], np.float32), "1 of 2 elements differ"),
    ],
)
def test_a_wrong_result_is_named(expected: np.ndarray, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(case_of("plain", expected), engine)


def test_a_crash_and_a_hang_are_failures_and_not_the_end(fake_engine: str) -> None:
    good = np.ones(2, np.float32)
    cases = [case_of(name, good) for name in ("a", "dies", "sleeps", "b")]
    results = {r.case.name: r for r in run_cases(cases, fake_engine, jobs=1, time_limit=2)}
    assert results["a"].error is None
    assert results["b"].error is None
    assert results["dies"].error == "the process died of SIGKILL"
    assert results["sleeps"].error == "no result after 2 seconds"
    assert "2 of 4 (50.0%) passed" in text_report(list(results.values()))
    page = markdown_report(list(results.values()), [], "optc")
    assert "| dies | the process died of SIGKILL |" in page
