"""Every kernel that a search may choose computes the same: float ones as float64 says, integer ones bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optc.backends.jit import jit
from optc.backends.kernels import depthwise, matmul, winograd
from optc.backends.kernels.amx import matmul as amx_matmul
from optc.backends.packing import Packed
from optc.backends.steps import Kernel, Scratch
from optc.backends.target import Target
from optc.backends.tuning.planner import Only
from optc.backends.tuning.session import tasks_of
from optc.compiler.ir import Node, Value
from optc.compiler.ops.base import attr_int, attr_ints
from optc.compiler.text import parse_graph, random_array

THREADS = 2
F32_TOLERANCE = 1e-5
"""Of the largest value; Winograd's transforms cost a little more than direct sums."""

REGIONS = {
    "3x3": """graph g(%x: f32[1,9,5,8], %r: f32[1,9,5,20]) {
      %w: f32[20,8,3,3] = const random(1)  %b: f32[20] = const random(2)
      %c = optc.Conv(%x, %w, %b) {pads=[1,1,1,1]}  %s = Add(%c, %r)  %y = Relu(%s)  return %y }""",
    "Winograd": """graph g(%x: f32[1,8,8,32]) {
      %w: f32[70,32,3,3] = const random(1)  %y = optc.Conv(%x, %w) {pads=[1,1,1,1]}  return %y }""",
    "7x7 of 3 channels": """graph g(%x: f32[2,9,9,3]) {
      %w: f32[18,3,7,7] = const random(1)
      %y = optc.Conv(%x, %w) {pads=[3,3,3,3], strides=[2,2]}  return %y }""",
    "depthwise": """graph g(%x: f32[1,9,7,40]) {
      %w: f32[40,1,3,3] = const random(1)  %y = optc.Conv(%x, %w) {group=40, pads=[1,1,1,1]}  return %y }""",
    "product": """graph g(%x: f32[19,30]) {
      %w: f32[30,40] = const random(1)  %y = MatMul(%x, %w)  return %y }""",
    "product of two": """graph g(%x: f32[3,7,18], %w: f32[3,18,34]) { %y = MatMul(%x, %w)  return %y }""",
    "integer 3x3": """graph g(%x: u8[1,9,3,16]) {
      %w: i8[20,16,3,3] = const random(1)  %b: i32[20] = const random(2)  %z: u8[] = const 7
      %y = optc.ConvInteger(%x, %w, %b, %z) {pads=[1,1,1,1]}  return %y }""",
    "integer depthwise": """graph g(%x: u8[1,9,7,40]) {
      %w: i8[40,1,3,3] = const random(1)  %b: i32[40] = const random(2)  %z: u8[] = const 7
      %y = optc.ConvInteger(%x, %w, %b, %z) {group=40, pads=[1,1,1,1]}  return %y }""",
    "integer product": """graph g(%x: u8[19,66]) {
      %w: i8[66,40] = const random(1)  %b: i32[40] = const random(2)
      %y = optc.MatMulInteger(%x, %w, %b)  return %y }""",
    "bf16 product": """graph g(%x: bf16[19,34]) {
      %w: bf16[34,40] = const random(1)  %y = optc.MatMulBF16(%x, %w)  return %y }""",
}
ONLY = {"Winograd": "Winograd"}
"""Regions of which only some kernels are tested: all others are those of a smaller region."""


@pytest.fixture(autouse=True)
def _small_work_is_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the small shapes here have the plans of large ones."""
    for module in (matmul, depthwise, winograd, amx_matmul):
        monkeypatch.setattr(module, "PARALLEL_MACS", 1)


@pytest.mark.parametrize("region", REGIONS)
def test_every_candidate_computes_the_same(region: str) -> None:
    graph = parse_graph(REGIONS[region])
    target = replace(Target.host(), num_cores=THREADS)
    inputs = {v: random_array(v.type, seed) for seed, v in enumerate(graph.inputs)}
    exact = evaluate(graph.outputs[0], dict(inputs))
    (task,) = tasks_of(graph, target)
    candidates = [c for c in task.candidates if ONLY.get(region, "") in c]
    assert len(candidates) > 1
    steps = [kernel_of(graph, target, candidate) for candidate in candidates]
    functions = jit({f"f{i}": step.func for i, step in enumerate(steps)}, target, THREADS)
    for candidate, step, function in zip(candidates, steps, functions.values(), strict=True):
        y = np.full(exact.shape, 77).astype(graph.outputs[0].type.dtype.numpy)
        function(*[argument(p, inputs, y) for p in step.params if not isinstance(p, Scratch)])
        if y.dtype == np.float32:
            error = np.abs(y - exact).max() / np.abs(exact).max()
            assert error <= F32_TOLERANCE, candidate
        else:
            np.testing.assert_array_equal(y, exact, err_msg=candidate)


def kernel_of(graph: Any, target: Target, candidate: str) -> Kernel:
    (step,) = target.lower(graph, None, Only(candidate)).steps
    assert isinstance(step, Kernel)
    return step


def argument(param: Any, inputs: dict[Value, np.ndarray], output: np.ndarray) -> np.ndarray:
    if isinstance(param, Value):
        found = inputs.get(param, param.data)
        return output if found is None else as_stored(found)
    return param.array if isinstance(param, Packed) else np.asarray(param)


def as_stored(array: np.ndarray) -> np.ndarray:
    """As kernels take it: bfloat16 as its bits."""
    array = np.atleast_1d(np.ascontiguousarray(array))
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def evaluate(value: Value, known: dict[Value, np.ndarray]) -> np.ndarray:
    """A value in float64, or int64 wrapped to int32."""
    if value.data is not None:
        return np.asarray(value.data)
    if value not in known:
        node = value.producer
        assert node is not None
        args = [None if v is None else evaluate(v, known) for v in node.inputs]
        known[value] = REFERENCES[node.op](node, *args)
    return known[value]


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)


def _conv(node: Node, x: np.ndarray, w: np.ndarray, bias: Any = None, border: Any = 0) -> np.ndarray:
    """Tap by tap, channels last."""
    group, (sy, sx) = attr_int(node, "group", 1), attr_ints(node, "strides") or (1, 1)
    top, left, bottom, right = attr_ints(node, "pads") or (0, 0, 0, 0)
    x = np.pad(_wide(x), [(0, 0), (top, bottom), (left, right), (0, 0)], constant_values=int(border))
    height, width = (x.shape[1] - w.shape[2]) // sy + 1, (x.shape[2] - w.shape[3]) // sx + 1
    total: Any = 0
    for ky, kx in np.ndindex(*w.shape[2:]):
        part = x[:, ky : ky + (height - 1) * sy + 1 : sy, kx : kx + (width - 1) * sx + 1 : sx]
        split = part.reshape(*part.shape[:-1], group, -1)
        taps = _wide(w[:, :, ky, kx]).reshape(group, -1, w.shape[1])
        total = total + np.einsum("...gi,goi->...go", split, taps).reshape(*part.shape[:-1], -1)
    return _narrow(total + (0 if bias is None else bias))


def _matmul(node: Node, a: np.ndarray, b: np.ndarray, bias: Any = None) -> np.ndarray:
    return _narrow(_wide(a) @ _wide(b) + (0 if bias is None else bias))


def _narrow(sums: np.ndarray) -> np.ndarray:
    return sums.astype(np.int32) if sums.dtype.kind == "i" else sums


REFERENCES: dict[str, Callable[..., np.ndarray]] = {
    "optc.Conv": _conv,
    "optc.ConvInteger": _conv,
    "MatMul": _matmul,
    "optc.MatMulInteger": _matmul,
    "optc.MatMulBF16": _matmul,
    "Add": lambda node, a, b: _wide(a) + b,
    "Relu": lambda node, x: np.maximum(x, 0),
}
