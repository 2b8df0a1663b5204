"""c/planner.c: memory plans of random lifetimes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optc.backends.runtime.toolchain import RUNTIME_FOLDER, find_compiler

ALIGNMENT = 64
BUFFERS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 5000)), max_size=40)


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("planner") / "planner.so"
    find_compiler().run("-std=c11", "-shared", "-fPIC", RUNTIME_FOLDER / "planner.c", "-o", out)
    library = ctypes.CDLL(str(out))
    library.optc_plan.restype = ctypes.c_int64
    return library


def plan(planner: ctypes.CDLL, first: list[int], last: list[int], sizes: list[int]) -> tuple[int, list[int]]:
    lifetimes = np.array([first, last], np.int32).T.copy()
    bytes_, offsets = np.array(sizes, np.int64), np.full(len(sizes), -1, np.int64)
    total = planner.optc_plan(*(ctypes.c_void_p(a.ctypes.data) for a in (lifetimes, bytes_)), len(sizes),
                              ctypes.c_void_p(offsets.ctypes.data))  # fmt: skip
    return total, offsets.tolist()


@settings(max_examples=200, deadline=None)
@given(buffers=BUFFERS)
def test_living_buffers_never_overlap(planner: ctypes.CDLL, buffers: list[tuple[int, int, int]]) -> None:
    first, sizes = [b[0] for b in buffers], [b[2] for b in buffers]
    last = [b[0] + b[1] for b in buffers]
    total, offsets = plan(planner, first, last, sizes)
    for i in range(len(buffers)):
        assert offsets[i] >= 0
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + sizes[i] <= total
        for j in range(i):
            if first[i] <= last[j] and first[j] <= last[i]:
                assert offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
    rounded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    alive = [sum(r for f, x, r in zip(first, last, rounded, strict=True) if f <= step <= x) for step in range(27)]
    assert max(alive) <= total <= sum(rounded)


def test_a_chain_needs_two_buffers(planner: ctypes.CDLL) -> None:
    count = 50
    total, _ = plan(planner, list(range(count)), [i + 1 for i in range(count)], [640] * count)
    assert total == 2 * 640


def test_the_smallest_gap_is_taken(planner: ctypes.CDLL) -> None:
    # In step 1 the buffers of 1024 and 512 bytes are gone; the last one fits both gaps and takes the smaller.
    _, offsets = plan(planner, [0, 0, 0, 0, 1], [0, 1, 0, 1, 1], [1024, 960, 512, 448, 384])
    assert offsets == [0, 1024, 1984, 2496, 1984]


def test_negative_sizes_have_no_plan(planner: ctypes.CDLL) -> None:
    assert plan(planner, [0], [1], [-1])[0] == -1
    assert plan(planner, [], [], [])[0] == 0
