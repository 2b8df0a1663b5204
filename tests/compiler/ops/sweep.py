"""The oracle for type inference: onnx's own node tests, whose arrays say what every output's type must be.

Run as a script, it sweeps all of them and prints what disagrees.
"""

from __future__ import annotations

import functools
import itertools
import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from optc.compiler.errors import UnsupportedError
from optc.compiler.ir import Graph
from optc.compiler.onnx.importer import import_model
from optc.compiler.types import Dim, DType, TensorType, free_symbols, is_data_symbol, same_dim, substitute, symbol

MODES = ("static", "constant", "symbolic")


@dataclass(frozen=True)
class Case:
    """One node test: a model of a few nodes, and arrays for its inputs and outputs (of the first data set)."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]


@functools.cache
def cases() -> dict[str, Case]:
    """The node tests whose inputs and outputs are plain tensors of types optc has, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own: making the data overflows on purpose
        collected = collect_testcases(None)
    return {
        c.name: Case(c.name, c.model, *(tuple(np.asarray(x) for x in xs) for xs in c.data_sets[0]))
        for c in collected
        if c.model is not None and c.data_sets and all(_is_plain(x) for xs in c.data_sets[0] for x in xs)
        if all(v.type.HasField("tensor_type") for v in (*c.model.graph.input, *c.model.graph.output))
    }


def _is_plain(array: Any) -> bool:
    if not isinstance(array, (np.ndarray, np.generic)):
        return False
    try:
        return DType.from_numpy(np.asarray(array).dtype) is not DType.STRING
    except KeyError:
        return False


def build(case: Case, mode: str) -> tuple[Graph, dict[Any, Dim]]:
    """The inferred graph and what its symbols stand for.

    `mode` says what inference is told of the inputs: their shapes ("static"), the elements of the small ones that may
    carry shapes too ("constant"), or those elements and a symbol for each dim over 1 of all others ("symbolic").
    """
    model, binding, count = onnx.ModelProto(), dict[Any, Dim](), itertools.count()
    model.CopyFrom(case.model)
    del model.graph.input[:]
    for info, array in zip(case.model.graph.input, case.inputs, strict=True):
        if mode != "static" and array.size <= 16 and (array.dtype.kind in "iu" or array.ndim < 2):
            model.graph.initializer.append(numpy_helper.from_array(array, info.name))
            continue
        model.graph.input.append(info)
        dims = model.graph.input[-1].type.tensor_type.shape.dim
        for dim, size in zip(dims, array.shape, strict=True):
            if mode == "symbolic" and size > 1:
                dim.dim_param = f"s{next(count)}"
                binding[symbol(dim.dim_param)] = size
            else:
                dim.dim_value = size
    return import_model(model), binding


def disagreement(case: Case, graph: Graph, binding: dict[Any, Dim]) -> str | None:
    """What is wrong with the inferred types of the outputs; None if nothing is. Data symbols may stand for any dim."""
    for value, array in zip(graph.outputs, case.outputs, strict=True):
        wanted = TensorType(DType.from_numpy(array.dtype), tuple(array.shape))
        if value.type.dtype is not wanted.dtype:
            return f"{value!r}, should be {wanted}"
        if value.type.shape is None:
            continue
        bound = substitute(value.type.shape, binding)
        if len(bound) != array.ndim or not all(itertools.starmap(_may_be, zip(bound, array.shape, strict=True))):
            return f"{value!r}, which is {list(bound)}, should be {wanted}"
    return None


def _may_be(dim: Dim, size: int) -> bool:
    return same_dim(dim, size) or any(is_data_symbol(s) for s in free_symbols([dim]))


def is_exact(graph: Graph, binding: dict[Any, Dim]) -> bool:
    """True if every output's shape is known up to the symbols of the inputs."""
    return all(v.type.shape is not None and free_symbols(v.type.shape) <= set(binding) for v in graph.outputs)


@functools.cache
def results(mode: str) -> dict[str, str]:
    """For each case "exact", "loose", "unsupported: ..." or what is wrong."""
    return {name: _result(case, mode) for name, case in cases().items()}


def _result(case: Case, mode: str) -> str:
    try:
        graph, binding = build(case, mode)
    except UnsupportedError as error:
        return f"unsupported: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return disagreement(case, graph, binding) or ("exact" if is_exact(graph, binding) else "loose")


def main() -> None:
    logging.disable(logging.WARNING)
    for mode in MODES:
        lists: dict[str, list[str]] = {"exact": [], "loose": [], "unsupported": [], "wrong": []}
        for name, found in results(mode).items():
            kind = found.split(":")[0] if found.split(":")[0] in lists else "wrong"
            lists[kind].append(name)
            if kind in ("wrong", "unsupported") and (kind == "wrong" or mode == "static"):
                print(f"{mode} {name}: {found}")
        print(f"{mode}:", ", ".join(f"{len(names)} {kind}" for kind, names in lists.items()))
        print("   loose:", " ".join(lists["loose"]))


if __name__ == "__main__":
    main()
