"""From kernels as the templates write them to functions of a GPU's grid.

A kernel body is a row of statements. Each parallel loop among them becomes one launch with a thread an iteration; what
stores to memory between such loops is a launch of one thread; what only names values is repeated in every launch behind
it. Launches of one kernel run in order, so no barrier over the grid is needed. A statement that is itself a grid (the
tensor-core templates bind `blockIdx` and `threadIdx` by themselves) is one launch as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from ..codegen import signature
from ..kernels.builder import ceildiv, i64, static
from ..kernels.nest import sequence
from .threads import THREAD_EXTENT, bound, extents

BLOCK = 128
"""Threads of a block where nothing speaks for another number."""


@dataclass(frozen=True)
class Launch:
    """One device function and its grid: blocks and threads a block along x, y, z, as TIR expressions of the dims.
    `shared_bytes` is the dynamic shared memory of a block."""

    func: Any  # tvm.tirx.PrimFunc, the parameters of the kernel it belongs to
    grid: tuple[Any, ...]
    block: tuple[int, ...]
    shared_bytes: int = 0


def launches(name: str, func: Any) -> list[Launch]:
    """The launches of a kernel, in order; their functions are called NAME_0, NAME_1, ..."""
    known = signature(func)
    params = [*known.buffers, *known.dims]
    setup: list[Any] = []
    out: list[Launch] = []
    serial: list[Any] = []

    def add(body: Any, grid: Sequence[Any], block: Sequence[int]) -> None:
        whole = tirx.PrimFunc(params, sequence([*setup, body]), None, func.attrs)
        symbol = f"{name}_{len(out)}"
        out.append(Launch(whole.with_attr("global_symbol", symbol), (*grid, 1, 1)[:3], (*block, 1, 1)[:3]))

    def flush() -> None:
        if serial:
            add(bound(sequence(serial), (1,), (1,)), (1,), (1,))
            serial.clear()

    for statement in _flatten(func.body):
        if _is_grid(statement):
            flush()
            add(statement, *extents(statement))
        elif (threads := _parallel(statement, setup)) is not None:
            flush()
            add(*threads)
        elif _stores(statement):
            serial.append(statement)
        elif serial:  # what it names may read what was stored just before
            serial.append(statement)
            setup.append(statement)
        else:
            setup.append(statement)
    flush()
    return out


def _flatten(statement: Any) -> list[Any]:
    if isinstance(statement, tirx.SeqStmt):
        return [inner for part in statement.seq for inner in _flatten(part)]
    return [statement]


def _is_grid(statement: Any) -> bool:
    return isinstance(statement, tirx.AttrStmt) and statement.attr_key == THREAD_EXTENT


def _parallel(statement: Any, setup: Sequence[Any]) -> tuple[Any, tuple[Any], tuple[int]] | None:
    """The body, grid and block of a parallel loop whose length the host can compute, else None."""
    if not isinstance(statement, tirx.For) or statement.kind != tirx.ForKind.PARALLEL:
        return None
    extent = _by_dims(statement.extent, setup)
    if extent is None:
        return None
    threads = min(BLOCK, static(extent) or BLOCK)
    blocks = ceildiv(static(extent) or extent, threads)
    block, thread = tirx.Var("blockIdx.x", "int64"), tirx.Var("threadIdx.x", "int64")
    index = block * threads + thread
    body = tirx.SeqStmt([tirx.Bind(statement.loop_var, index), _serial(statement.body)])
    whole = tirx.IfThenElse(index < i64(extent), body, None)
    return bound(whole, (blocks,), (threads,), [block, thread]), (blocks,), (threads,)


def _serial(statement: Any) -> Any:
    """Parallel loops inside a thread are that thread's own."""

    def visit(loop: Any) -> Any:
        if loop.kind != tirx.ForKind.PARALLEL:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    return tvm_ffi.structural_map(statement, (tirx.For, visit))


def _by_dims(extent: Any, setup: Sequence[Any]) -> Any | None:
    """The extent in terms of the kernel's dims alone: names resolved; None if it depends on data."""
    names = {s.var: s.value for s in setup if isinstance(s, tirx.Bind)}
    for _ in range(len(names) + 1):
        extent = tvm_ffi.structural_map(
            extent, (tirx.Var, lambda v: next((e for n, e in names.items() if n.same_as(v)), v))
        )
    loads: list[Any] = []
    tvm_ffi.structural_walk(extent, (tvm.ir.TensorLoad, loads.append))
    return None if loads else tvm.sym.Analyzer().simplify(extent)


def _stores(statement: Any) -> bool:
    """Whether a statement writes memory that outlives it: anything but names and local arrays."""
    if isinstance(statement, (tirx.Bind, tirx.DeclBuffer, tirx.AllocBuffer)):
        return False
    stores: list[Any] = []
    calls: list[Any] = []
    tvm_ffi.structural_walk(statement, (tirx.BufferStore, stores.append))
    tvm_ffi.structural_walk(statement, (tirx.Evaluate, calls.append))
    return bool(calls) or any(s.buffer.scope() != "local" for s in stores)
