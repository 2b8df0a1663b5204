"""Builds the kernel of a task and times it, in turns with another one.

Weights of a large model are cold when a kernel starts, since all others have been read since; its input is what the
kernel before has just written. So each call finds another copy of the weights, of which there are more than L2 holds,
but the same inputs and output. Weights of a model that L2 holds (tasks.weights_stay) have one copy.

Two kernels take turns call by call: then a busy machine disturbs both alike, and the median of the ratios of
neighbouring calls, of those that were disturbed least, repeats within a percent even there. Longer samples do not.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...compiler.errors import OptcError
from ...compiler.ir import Value
from ...compiler.text import parse_graph, random_array
from ...compiler.types import DType, TensorType, substitute
from ..jit import jit
from ..packing import Packed
from ..steps import Kernel, Scratch
from ..target import Target
from .planner import Only
from .tasks import RESIDENT, sizes

COLD_FACTOR = 2
"""Copies of the weights take so many times L2, all cores' together..."""
MOST_BYTES = 64 << 20
"""...but no more than this, unless there is only one."""
SAMPLE_SECONDS = 2e-5
"""A sample takes at least so long, so that clocks and calls do not count."""
FEWEST_ROUNDS = 7
TOLERANCE = 0.02
"""Floats of two kernels may differ by this share of the largest: a check against blunders, no test of accuracy."""


@dataclass(frozen=True)
class Built:
    """A kernel ready to run: `calls` do the same work with different copies of the weights."""

    calls: Sequence[Callable[[], None]]
    output: np.ndarray
    dtype: DType


@dataclass(frozen=True)
class Timing:
    """Seconds a call of each took at best, and the median ratio of second to first over quiet rounds."""

    first: float
    second: float
    ratio: float


def build(text: str, candidate: str, target: Target, threads: int) -> Built:
    """The kernel that `candidate` names for the region `text`.

    Raises UnsupportedError if the region has no such candidate.
    """
    graph = parse_graph(text)
    steps = target.lower(graph, None, Only(candidate)).steps
    kernels = [step for step in steps if isinstance(step, Kernel)]
    if len(kernels) != 1:
        raise OptcError("a region by itself does not become one kernel", expected=1, found=len(kernels))
    (kernel,) = kernels
    function = jit({"kernel": kernel.func}, target, threads)["kernel"]
    values = [p for p in kernel.params if isinstance(p, Value)]
    known = sizes([v.type for v in graph.inputs])
    arrays = {v: _aligned(_elements(v, known)) for v in values}
    params = [p for p in kernel.params if not isinstance(p, Scratch)]
    packed = [i for i, p in enumerate(params) if not isinstance(p, Value)]
    fixed = [arrays[p] if isinstance(p, Value) else _constant(p) for p in params]
    output = arrays[kernel.outputs[0]]
    copies = 1 if text.startswith(RESIDENT) else _copies(sum(fixed[i].nbytes for i in packed), target)
    calls = [function.bind(*fixed)]
    for _ in range(copies - 1):
        calls.append(function.bind(*(_aligned(a) if i in packed else a for i, a in enumerate(fixed))))
    return Built(calls, output, kernel.outputs[0].type.dtype)


def _copies(weights: int, target: Target) -> int:
    wanted = COLD_FACTOR * target.l2 * target.num_cores
    return max(1, min(-(-wanted // weights), MOST_BYTES // weights, 64)) if weights else 1


def _constant(param: Any) -> np.ndarray:
    return _aligned(_plain(param.array if isinstance(param, Packed) else np.asarray(param)))


def _elements(value: Value, known: dict[Any, int]) -> np.ndarray:
    if value.data is not None:
        return _plain(np.asarray(value.data))
    shape = tuple(int(d) for d in substitute(value.type.dims, known))
    return _plain(random_array(TensorType(value.type.dtype, shape), 0))


def _plain(array: np.ndarray) -> np.ndarray:
    """As kernels take it: bfloat16 as its bits."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts at a cache line, as tensors of an artifact do."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def same_results(first: Built, second: Built) -> bool:
    """Whether both compute the same: integers bit for bit, floats within TOLERANCE of the largest."""
    results = []
    for built in (first, second):
        built.calls[0]()
        results.append(built.output.copy())
    a, b = results
    if first.dtype.is_int or first.dtype is DType.BOOL:
        return bool(np.array_equal(a, b))
    a, b = (r.view(first.dtype.numpy).astype(np.float32) for r in results)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return False
    largest = float(np.abs(a[finite]).max(initial=0.0))
    return bool(np.abs(a[finite] - b[finite]).max(initial=0.0) <= TOLERANCE * largest)


def compare(first: Built, second: Built, seconds: float) -> Timing:
    """Times two kernels in turns for about so many seconds, at least FEWEST_ROUNDS rounds."""
    loops = [itertools.cycle(built.calls) for built in (first, second)]
    warm = [_sample(loop, len(built.calls)) for loop, built in zip(loops, (first, second), strict=True)]
    repeats = [max(1, math.ceil(SAMPLE_SECONDS / max(w, 1e-9))) for w in warm]
    rounds: list[tuple[float, float]] = []
    deadline = time.perf_counter() + seconds
    while len(rounds) < FEWEST_ROUNDS or time.perf_counter() < deadline:
        order = (0, 1) if len(rounds) % 2 else (1, 0)
        took = {which: _sample(loops[which], repeats[which]) for which in order}
        rounds.append((took[0], took[1]))
    best = (min(a for a, _ in rounds), min(b for _, b in rounds))
    # Other processes only ever add time: rounds that both kernels went through fast were disturbed least.
    rounds.sort(key=lambda pair: pair[0] / best[0] + pair[1] / best[1])
    quiet = rounds[: max(FEWEST_ROUNDS // 2, len(rounds) // 4)]
    return Timing(*best, statistics.median(b / a for a, b in quiet))


def _sample(calls: Iterator[Callable[[], None]], repeat: int) -> float:
    """Seconds a call takes, over `repeat` of them."""
    chosen = list(itertools.islice(calls, repeat))
    start = time.perf_counter()
    for call in chosen:
        call()
    return (time.perf_counter() - start) / repeat
