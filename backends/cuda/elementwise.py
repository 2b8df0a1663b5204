"""Pointwise groups on a GPU: one thread computes one element of each output of a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from ...compiler.types import Shape
from ..kernels.builder import i64, product
from ..kernels.nest import Nest
from ..kernels.pointwise import Group


class ThreadGroup(Group):
    def emit_shape(self, shape: Shape, numbers: Sequence[int], parallel: bool) -> None:
        """A grid over the elements of one shape. Conditions on the position stay where they are: threads are cheap,
        launches are not."""
        extents = self.dims.shape(shape)
        nest, _ = self.compose(shape, numbers, [(i64(0), e) for e in extents])
        with self.kb.loop(product([a.extent for a in nest.axes]), "element", parallel=True) as element:
            nest.emit_element(self.kb, self._positions(nest, element))

    def _positions(self, nest: Nest, element: tirx.Var) -> list[tirx.Var]:
        """The position along each axis of the element with this number."""
        places: list[Any] = []
        for axis in reversed(nest.axes[1:]):
            places.insert(0, self.kb.let(tirx.truncmod(element, i64(axis.extent)), "at"))
            element = self.kb.let(tirx.truncdiv(element, i64(axis.extent)), "rest")
        found = [element, *places] if nest.axes else []
        return [nest.position(self.kb, n, place) for n, place in enumerate(found)]
