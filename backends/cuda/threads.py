"""Threads of a grid as TIR says them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from ..kernels.builder import Dim, Expr, KernelBuilder, i64, known, static

THREAD_EXTENT = "thread_extent"
_TAGS = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")


def bound(body: Any, grid: Sequence[Any], block: Sequence[int], variables: Sequence[Any] | None = None) -> Any:
    """`body` run by every thread of a grid; `variables` are the int64 indices it uses: of blocks, then of threads."""
    tags = [*_TAGS[: len(grid)], *_TAGS[3 : 3 + len(block)]]
    names = list(variables) if variables is not None else [tirx.Var(tag, "int64") for tag in tags]
    for tag, name, extent in reversed(list(zip(tags, names, [*grid, *block], strict=True))):
        axis = tirx.IterVar(None, name, tirx.IterVar.ThreadIndex, tag)
        body = tirx.AttrStmt(axis, THREAD_EXTENT, i64(extent), body)
    return body


def extents(statement: Any) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Blocks and threads a block of a statement made by `bound`."""
    found: dict[str, Any] = {}
    while isinstance(statement, tirx.AttrStmt) and statement.attr_key == THREAD_EXTENT:
        known = static(statement.value)
        found[statement.node.thread_tag] = statement.value if known is None else known
        statement = statement.body
    return tuple(found.get(tag, 1) for tag in _TAGS[:3]), tuple(int(found.get(tag, 1)) for tag in _TAGS[3:])


class GridBuilder(KernelBuilder):
    """Builds kernels that say themselves which thread of which block does what."""

    @contextmanager
    def grid(self, blocks: Sequence[Dim], threads: int) -> Iterator[list[Expr]]:
        """Statements of every thread; yields the block's indices along x, y, z, then the thread's."""
        tags = [*_TAGS[: len(blocks)], _TAGS[3]]
        variables = [tirx.Var(tag, "int64") for tag in tags]
        self._frames.append([])
        yield variables
        self.emit_block(lambda body: bound(body, blocks, (threads,), variables))

    @contextmanager
    def unrolled(self, extent: int, name: str = "i") -> Iterator[Expr]:
        """A loop that nvcc unrolls, so that an array it indexes lies in registers."""
        var = tirx.Var(name, "int64")
        self._frames.append([])
        yield var
        self.emit_block(lambda body: tirx.For(var, i64(0), i64(extent), tirx.ForKind.UNROLLED, body))

    def call(self, function: str, *args: Any) -> None:
        """A call of a function of device.cuh."""
        self.emit(tirx.Evaluate(tirx.call_extern("void", function, *args)))


def number(value: Dim) -> Expr:
    """A dim as the int that functions of device.cuh take."""
    value = known(value)
    return tirx.IntImm("int32", value) if isinstance(value, int) else tirx.Cast("int32", value)
