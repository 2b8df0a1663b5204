"""What this machine can do at best, measured: multiply-adds in float32, bfloat16 and int8, bytes from L2 and memory.

Bursts of a few milliseconds (c/ceilings.c), to be taken between the runs they are held against: on a shared machine a
ceiling measured a minute ago says little.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..backends.runtime.toolchain import cache_folder, find_compiler
from ..backends.target import Target

SOURCE = Path(__file__).parent / "c" / "ceilings.c"
BURST_SECONDS, BURSTS = 0.001, 3
"""The best of a few short bursts: another process then hardly spoils all of them."""
UNITS = ("f32", "bf16", "int8")
"""Kinds of products, as a step's cost names them."""
LEVELS = ("L2", "L3", "memory")
L3_TIMES_L2 = 4
"""Size of the array that stands for the last cache, which several programs share; twice that may lie there."""
MOST_BYTES = 256 << 20
"""Of the array that stands for memory: more than most caches hold."""

Work = Callable[[int], int]
"""Does so many turns; returns operations or bytes done, below 0 where it cannot be done here."""


class Ceilings:
    """Bursts of each kind of work on `threads` cores at once, with the instructions that `target` has.

    `memory_bytes` is how much data the level "memory" reads over and over: that of the model, so that what a large last
    cache holds of it counts as it does in a run. Raises TargetError without a C compiler.
    """

    def __init__(self, target: Target, threads: int, memory_bytes: int) -> None:
        library = _library(target)
        self.threads, self.l2 = threads, target.l2
        l3 = L3_TIMES_L2 * target.l2
        sizes = {"L2": target.l2 // 2, "L3": l3, "memory": min(max(memory_bytes, 4 * l3), MOST_BYTES)}
        works: dict[str, list[Work]] = {unit: [getattr(library, f"ceiling_{unit}")] * threads for unit in UNITS}
        works |= {level: [_reader(library, size) for _ in range(threads)] for level, size in sizes.items()}
        self._works = {name: work for name, work in works.items() if work[0](1) > 0}
        self._turns = {name: _turns(work[0]) for name, work in self._works.items()}

    def measure(self) -> dict[str, float]:
        """Operations (two for a multiply-add) or bytes a second, all threads together."""
        found = {}
        for name, works in self._works.items():
            if name in LEVELS:
                self._burst(works, 1)  # brings the array as near as it gets
            found[name] = max(self._burst(works, self._turns[name]) for _ in range(BURSTS))
        return found

    def level(self, nbytes: int) -> str:
        """The nearest level that holds so many bytes."""
        return "L2" if nbytes <= self.l2 else "L3" if nbytes <= 2 * L3_TIMES_L2 * self.l2 else "memory"

    def _burst(self, works: list[Work], turns: int) -> float:
        rates, barrier = [0.0] * len(works), threading.Barrier(len(works))

        def run(index: int) -> None:
            barrier.wait()
            start = time.perf_counter()
            rates[index] = works[index](turns) / (time.perf_counter() - start)

        others = [threading.Thread(target=run, args=(index,)) for index in range(1, len(works))]
        for thread in others:
            thread.start()
        run(0)
        for thread in others:
            thread.join()
        return sum(rates)


def medians(bursts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each ceiling."""
    return {name: float(np.median([burst[name] for burst in bursts])) for name in bursts[0]}


def _reader(library: ctypes.CDLL, size: int) -> Work:
    """Reads an array of its own: of `size` bytes, rounded to whole blocks of the loop."""
    raw = np.ones(size // 512 * 512 + 64, np.uint8)
    data = raw[-raw.ctypes.data % 64 :][: size // 512 * 512]
    return lambda turns: int(library.ceiling_read(data.ctypes.data, data.nbytes, turns))


def _turns(work: Work) -> int:
    """How many turns make a burst."""
    turns = 1
    while True:
        start = time.perf_counter()
        work(turns)
        if (spent := time.perf_counter() - start) > BURST_SECONDS / 4:
            return max(1, round(turns * BURST_SECONDS / spent))
        turns *= 4


@functools.cache
def _library(target: Target) -> ctypes.CDLL:
    """The compiled bursts, kept in the cache under a hash of all that makes them."""
    compiler = find_compiler()
    flags = ("-std=gnu11", "-O2", "-ffp-contract=fast", "-fPIC", "-shared", "-fvisibility=hidden", *target.cflags)
    key = hashlib.sha256(repr((compiler.command, compiler.version, flags)).encode() + SOURCE.read_bytes()).hexdigest()
    path = cache_folder() / "runtime" / f"ceilings-{key[:24]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / "ceilings.so"
            compiler.run(*flags, SOURCE, "-o", fresh)
            os.replace(fresh, path)
    library = ctypes.CDLL(str(path))
    for unit in UNITS:
        function = getattr(library, f"ceiling_{unit}")
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64]
    library.ceiling_read.restype = ctypes.c_int64
    library.ceiling_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    return library
