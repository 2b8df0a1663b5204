"""Made-up samples for a model without data: enough to compile and to time int8, never to judge its accuracy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...compiler.errors import CalibrationError, OptcError
from ...compiler.ir import Graph, Node, Value
from ...compiler.types import DType, free_symbols, substitute
from .execute import Runner
from .samples import Sample

_SIZES = {"spatial": (224, 64, 48, 32, 128, 320, 16), "sequence": (64, 32, 16, 128, 512), "batch": (1,)}
"""What a free dim may be, most likely first."""
_ROLES = {
    "batch": re.compile(r"batch|^n$|^b$|^_", re.I),
    "spatial": re.compile(r"height|width|^h$|^w$", re.I),
}
_PLAIN = frozenset(
    {"Cast", "Clip", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Ops that hand on ids as they are."""
_CLIP = 3.0


class Synthetic:
    """Made-up samples of a graph's inputs; the same each time. `synthetic` tells callers to say so, loudly.

    Floats are normal, clipped at 3; ids lie within the tables they look up; masks are ones. Free dims are guessed
    such that ONNX Runtime can run the model. Raises CalibrationError if no guess runs.
    """

    synthetic = True

    def __init__(self, graph: Graph, count: int = 8, seed: int = 0) -> None:
        self._inputs, self._count, self._seed = list(graph.inputs), count, seed
        self._limits = {v: _id_limit(v) for v in graph.inputs}
        self._dims = self._guess(graph)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        return (self._sample(i, self._dims) for i in range(self._count))

    def _guess(self, graph: Graph) -> Mapping[Any, int]:
        """Sizes of the free dims with which the model runs."""
        roles = _roles(graph)
        if not roles:
            return {}
        runner, failure = Runner(graph), None
        for dims in _guesses(roles):
            try:
                runner.run(self._sample(0, dims))
                return dims
            except OptcError as error:
                failure = failure or error
        raise CalibrationError(
            "no sizes found for the free dims with which the model runs",
            found=", ".join(sorted(map(str, roles))),
            hint="Pass calibration data, or fix the shapes of the inputs.",
        ) from failure

    def _sample(self, index: int, dims: Mapping[Any, int]) -> Sample:
        rng = np.random.default_rng((self._seed, index))
        return {v.name: self._array(rng, v, dims) for v in self._inputs}

    def _array(self, rng: np.random.Generator, value: Value, dims: Mapping[Any, int]) -> np.ndarray:
        dtype, numpy = value.type.dtype, value.type.dtype.numpy
        if value.type.shape is None:
            raise CalibrationError("the input's rank is not known", node=value.name, hint="Pass calibration data.")
        shape = tuple(int(d) for d in substitute(value.type.shape, dict(dims)))
        if "mask" in value.name.lower() or dtype is DType.BOOL:
            return np.ones(shape, numpy)
        if dtype.is_float:
            return rng.standard_normal(shape, np.float32).clip(-_CLIP, _CLIP).astype(numpy)
        if dtype in (DType.U8, DType.I8):
            return rng.integers(0, 256, shape).astype(np.uint8).astype(numpy)
        if dtype.is_int:
            return rng.integers(0, self._limits[value] or (2 if not shape else 16), shape).astype(numpy)
        raise CalibrationError("no values can be made up", node=value.name, expected="numbers", found=dtype.text)


def _roles(graph: Graph) -> dict[Any, str]:
    """What each free dim of the inputs seems to be: batch, spatial or sequence."""
    roles: dict[Any, str] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(value.type.shape or ()):
            for symbol in free_symbols([dim]):
                roles.setdefault(symbol, _role(symbol.name, axis, value.type.rank))
    return roles


def _role(name: str, axis: int, rank: int) -> str:
    for role, pattern in _ROLES.items():
        if pattern.search(name) and (axis == 0) == (role == "batch"):
            return role
    if axis == 0 and rank > 1:
        return "batch"
    return "spatial" if rank >= 4 else "sequence"


def _guesses(roles: Mapping[Any, str]) -> Iterator[Mapping[Any, int]]:
    """Sizes to try: likely ones for all dims, then for one of them while the others are 1, at last 1 for all."""
    ones = dict.fromkeys(roles, 1)
    longest = max(len(_SIZES[role]) for role in roles.values())
    for attempt in range(longest):
        yield {symbol: _SIZES[role][min(attempt, len(_SIZES[role]) - 1)] for symbol, role in roles.items()}
    for symbol, role in roles.items():
        yield from (ones | {symbol: size} for size in _SIZES[role])
    yield ones


def _id_limit(value: Value) -> int | None:
    """How many rows the smallest table has that this input looks up, itself or through ops that only hand it on."""
    limits, todo = [], [value]
    while todo:
        ids = todo.pop()
        for use in ids.uses:
            node = use.user
            if not isinstance(node, Node):
                continue
            if node.op == "Gather" and use.slot == 1 and node.operand(0).type.shape is not None:
                rows = node.operand(0).type.dims[int(node.attrs.get("axis", 0))]  # type: ignore[arg-type]
                if isinstance(rows, int):
                    limits.append(rows)
            elif node.op in _PLAIN and use.slot == 0:
                todo += node.outputs
    return min(limits, default=None)
