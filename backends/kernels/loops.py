"""Kernels of single nodes as plain loops: parameters, elements by index, parallel loops over output elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from ...compiler.ir import Node, Value
from ..base import Expr, Index
from . import exprs
from .builder import Dim, KernelBuilder, buffer, i64, known, product, static
from .compose import linear
from .context import BuildContext

PARALLEL_STEPS = 1 << 15
"""Loops that do more elementary steps than this run on all threads; so do those of unknown size."""


class NodeKernel:
    """The parameters of one node's kernel, present inputs then outputs, and the loops around them."""

    def __init__(self, node: Node, context: BuildContext) -> None:
        self.node, self.dims, self.target = node, context.dims, context.target
        self.kb = KernelBuilder()
        self._params = {("in", n): self._param(f"in{n}", v) for n, v in enumerate(node.inputs) if v is not None}
        self._params |= {("out", n): self._param(f"out{n}", v) for n, v in enumerate(node.outputs)}

    def _param(self, name: str, value: Value) -> Any:
        return buffer(name, self.dims.shape(value.type.dims) or [1], exprs.tir_dtype(value.type.dtype))

    def shape(self, value: Value) -> list[Dim]:
        """The dims of a value, ints where known."""
        return [known(d) for d in self.dims.shape(value.type.dims)]

    def flat_input(self, number: int) -> Any:
        return self.kb.flat(self._params["in", number])

    def flat_output(self, number: int = 0) -> Any:
        return self.kb.flat(self._params["out", number])

    def load_flat(self, number: int, offset: Dim, lanes: int = 1) -> Expr:
        """Elements of input `number`, in the type they are computed in."""
        value = self.kb.load(self.flat_input(number), offset, lanes)
        return exprs.from_memory(value, self.node.operand(number).type.dtype)

    def load(self, number: int, index: Index) -> Expr:
        return self.load_flat(number, linear(list(index), self.dims.shape(self.node.operand(number).type.dims)))

    def store_flat(self, offset: Dim, value: Expr, number: int = 0, lanes: int = 1) -> None:
        memory = exprs.to_memory(value, self.node.outputs[number].type.dtype)
        self.kb.store(self.flat_output(number), offset, memory, lanes)

    def store(self, index: Index, value: Expr, number: int = 0) -> None:
        self.store_flat(linear(list(index), self.dims.shape(self.node.outputs[number].type.dims)), value, number)

    @contextmanager
    def each(self, shape: Sequence[Dim], work: Dim = 1) -> Iterator[list[Expr]]:
        """A loop over all index tuples of `shape`, parallel if it does many steps, `work` at each; yields the index."""
        total = product(shape)
        steps = static(product([total, work]))
        with self.kb.loop(total, "flat", parallel=steps is None or steps > PARALLEL_STEPS) as flat:
            index: list[Expr] = []
            rest: Expr = flat
            for extent in reversed([known(d) for d in shape[1:]]):
                if isinstance(extent, int) and extent == 1:
                    index.insert(0, i64(0))
                    continue
                index.insert(0, self.kb.let(tirx.truncmod(rest, i64(extent)), "at"))
                rest = self.kb.let(tirx.truncdiv(rest, i64(extent)), "rest")
            yield [rest, *index] if shape else []

    @contextmanager
    def nest(self, shape: Sequence[Dim]) -> Iterator[list[Expr]]:
        """Serial loops, one an axis; yields the index."""
        if not shape:
            yield []
            return
        with self.kb.loop(shape[0], "k") as position, self.nest(shape[1:]) as rest:
            yield [position, *rest]

    def cell(self, initial: Expr) -> Cell:
        """A local variable with a first value."""
        cell = Cell(self.kb, exprs.dtype_of(initial))
        cell.set(initial)
        return cell

    def accumulate(
        self, initial: Expr, shape: Sequence[Dim], step: Callable[[Expr, list[Expr]], Expr], *, when: Any = None
    ) -> Expr:
        """The value after `value = step(value, index)` for every index of `shape`, where `when(index)` holds."""
        cell = self.cell(initial)
        with self.nest(shape) as index, self.kb.when(True if when is None else when(index)):
            cell.set(step(cell.get(), index))
        return cell.get()

    def finish(self) -> Any:
        return self.kb.finish([*self._params.values(), *self.dims.vars])


class Cell:
    """A local variable."""

    def __init__(self, kb: KernelBuilder, dtype: str) -> None:
        self._kb, self._array = kb, kb.local(1, dtype, "cell")

    def set(self, value: Expr) -> None:
        self._kb.store(self._array, 0, value)

    def get(self) -> Expr:
        return self._kb.load(self._array, 0)
