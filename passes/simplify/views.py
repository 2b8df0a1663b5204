"""Views and casts in a row become one; a Reshape to computed dims becomes one to constants.

    view(view(x)) -> Reshape(x)        Reshape(x, computed) -> Reshape(x, [0, 0, 12, -1])
    cast(cast(x)) -> cast(x)           where the inner cast loses nothing
    Unsqueeze(Gather(Shape(x), i))  -> Shape(x, start=i, end=i+1)

Dynamic dims stay dynamic: 0 copies one and -1 infers one.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...compiler.ir import Node, Value
from ...compiler.types import DType
from ..facts import VIEWS, axes_of, known_ints, perm_of, reshape_vector, same_shape
from ..pattern import Op, Scalar
from ..rewrite import Match, Rule, register_rule

_VIEWS = tuple(sorted(VIEWS))
_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")


@register_rule
class ViewOfView(Rule):
    name: ClassVar[str] = "view-of-view"
    patterns: ClassVar[tuple[Op, ...]] = (Op(_VIEWS, Op(_VIEWS, "x", rest=True, shared=True), rest=True),)

    def check(self, m: Match) -> str | None:
        if reshape_vector(m["x"].type, m.root.output.type) is None:
            return f"more than one dim of %{m.root.output.name} can be told only at run time"
        return None

    def rewrite(self, m: Match) -> Value:
        vector = reshape_vector(m["x"].type, m.root.output.type)
        assert vector is not None
        return m.emit("Reshape", [m["x"], m.constant(vector)])


@register_rule
class StaticReshape(Rule):
    """Reshape(x, computed) -> Reshape(x, constant), which frees the nodes that computed the shape."""

    name: ClassVar[str] = "static-reshape"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Reshape", "x", "shape"),)

    def check(self, m: Match) -> str | None:
        if m["shape"].is_constant:
            return "the shape is constant"
        if reshape_vector(m["x"].type, m.root.output.type) is None:
            return f"more than one dim of %{m.root.output.name} can be told only at run time"
        return None

    def rewrite(self, m: Match) -> Value:
        vector = reshape_vector(m["x"].type, m.root.output.type)
        assert vector is not None
        return m.emit("Reshape", [m["x"], m.constant(vector)])


@register_rule
class TransposeOfTranspose(Rule):
    """Transpose(Transpose(x, p), q) -> Transpose(x, p[q])."""

    name: ClassVar[str] = "transpose-of-transpose"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Transpose", Op("Transpose", "x", name="inner", shared=True)),)

    def check(self, m: Match) -> str | None:
        return None if perm_of(m.node("inner")) and perm_of(m.root) else "the rank is unknown"

    def rewrite(self, m: Match) -> Value:
        inner, outer = perm_of(m.node("inner")), perm_of(m.root)
        assert inner is not None
        assert outer is not None
        return m.emit("Transpose", [m["x"]], {"perm": tuple(inner[p] for p in outer)})


@register_rule
class TransposeAsReshape(Rule):
    """Transpose(x) -> Reshape(x) where only dims of size 1 move: the bytes stay where they are."""

    name: ClassVar[str] = "transpose-as-reshape"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Transpose", "x"),)

    def check(self, m: Match) -> str | None:
        perm, shape = perm_of(m.root), m["x"].type.shape
        if perm is None or shape is None:
            return "the rank is unknown"
        moved = [p for p in perm if not (isinstance(shape[p], int) and shape[p] == 1)]
        if moved != sorted(moved):
            return "dims larger than 1 move"
        return None if reshape_vector(m["x"].type, m.root.output.type) is not None else "two dims are unknown"

    def rewrite(self, m: Match) -> Value:
        vector = reshape_vector(m["x"].type, m.root.output.type)
        assert vector is not None
        return m.emit("Reshape", [m["x"], m.constant(vector)])


def _lossless(source: DType, target: DType) -> bool:
    """True if every element of `source` survives a cast to `target` and back."""
    if source is target or source is DType.BOOL:
        return True
    if source.is_int and target.is_int:
        grows = target.itemsize > source.itemsize
        return grows and (target.is_signed_int or source.is_unsigned_int)
    if source.is_int and target.is_float:
        digits = {DType.F16: 11, DType.BF16: 8, DType.F32: 24, DType.F64: 53}[target]
        return source.itemsize * 8 <= digits
    if source.is_float and target.is_float:
        wider = {DType.F16: (DType.F32, DType.F64), DType.BF16: (DType.F32, DType.F64), DType.F32: (DType.F64,)}
        return target in wider.get(source, ())
    return False


@register_rule
class CastOfCast(Rule):
    """Cast(Cast(x, a), b) -> Cast(x, b) where a holds every element of x."""

    name: ClassVar[str] = "cast-of-cast"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Cast", Op("Cast", "x", name="inner", shared=True)),)

    def check(self, m: Match) -> str | None:
        source, middle = m["x"].type.dtype, m.node("inner").output.type.dtype
        if m.root.output.type.dtype is DType.BOOL and middle.is_float and source.is_float:
            return None if _lossless(source, middle) else f"{middle.text} may round {source.text} to zero"
        return None if _lossless(source, middle) else f"{middle.text} does not hold all of {source.text}"

    def rewrite(self, m: Match) -> Value:
        return m.emit("Cast", [m["x"]], m.root.attrs)


@register_rule
class SliceOfSlice(Rule):
    """Slice(Slice(x; axes A); axes B) -> Slice(x; axes A and B) for known bounds and A, B without a common axis."""

    name: ClassVar[str] = "slice-of-slice"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Slice", Op("Slice", "x", rest=True, name="inner"), rest=True),)

    def check(self, m: Match) -> str | None:
        inner, outer = self._bounds(m.node("inner")), self._bounds(m.root)
        if inner is None or outer is None:
            return "a bound is not constant, or the axes are not given"
        return "both cut the same axis" if set(inner[2]) & set(outer[2]) else None

    def rewrite(self, m: Match) -> Value:
        inner, outer = self._bounds(m.node("inner")), self._bounds(m.root)
        assert inner is not None
        assert outer is not None
        merged = [m.constant(np.array(a + b, np.int64)) for a, b in zip(inner, outer, strict=True)]
        return m.emit("Slice", [m["x"], *merged])

    @staticmethod
    def _bounds(node: Node) -> list[list[int]] | None:
        """Starts, ends, axes and steps, if all are known."""
        shape = node.operand(0).type.shape
        starts, ends, axes = (known_ints(node.input(i)) for i in (1, 2, 3))
        if shape is None or starts is None or ends is None or axes is None:
            return None
        steps = known_ints(node.input(4)) if node.input(4) is not None else [1] * len(axes)
        return None if steps is None else [starts, ends, [a % len(shape) for a in axes], steps]


@register_rule
class ReduceKeepingDims(Rule):
    """Reshape(Reduce(x; A, dims dropped)) -> Reduce(x; A, dims kept) where the Reshape brings them back as 1."""

    name: ClassVar[str] = "reduce-keeping-dims"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(("Reshape", "Unsqueeze"), Op(_REDUCTIONS, "x", rest=True, name="reduce", attrs={"keepdims": 0}), "form"),
    )

    def check(self, m: Match) -> str | None:
        axes, shape = axes_of(m.node("reduce")), m["x"].type.shape
        if not axes or shape is None:
            return "the axes are unknown, or all"
        reduced = {a % len(shape) for a in axes}
        kept = m["x"].type.with_shape(1 if i in reduced else d for i, d in enumerate(shape))
        return None if same_shape(kept, m.root.output.type) else "the dims do not come back as 1"

    def rewrite(self, m: Match) -> Value:
        node = m.node("reduce")
        return m.emit(node.op, node.inputs, {**node.attrs, "keepdims": 1})


@register_rule
class ShapeElement(Rule):
    """Unsqueeze(Gather(Shape(x), i), 0) -> Shape(x, start=i, end=i+1)."""

    name: ClassVar[str] = "shape-element"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(
            ("Unsqueeze", "Reshape"),
            Op("Gather", Op("Shape", "x", name="shape", shared=True), Scalar(name="i"), name="gather"),
            "form",
        ),
    )

    def check(self, m: Match) -> str | None:
        if "start" in m.node("shape").attrs or "end" in m.node("shape").attrs:
            return "the Shape gives only some dims"
        if m["x"].type.shape is None:
            return "the rank is unknown"
        if m["i"].type.shape != () or m.root.output.type.shape != (1,):
            return "the result is no vector of one element"
        return None

    def rewrite(self, m: Match) -> Value:
        index = int(m.number("i")) % len(m["x"].type.dims)
        return m.emit("Shape", [m["x"]], {"start": index, "end": index + 1})


@register_rule
class ShapeOfInput(Rule):
    """Shape(x, i) -> Shape(input, j) where that dim of x is one of a graph input: no activation is waited for."""

    name: ClassVar[str] = "shape-of-input"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Shape", "x"),)

    def check(self, m: Match) -> str | None:
        return None if self._origin(m) else "no graph input has this one dim, or x is the first that has it"

    def rewrite(self, m: Match) -> Value:
        origin = self._origin(m)
        assert origin is not None
        source, axis = origin
        return m.emit("Shape", [source], {"start": axis, "end": axis + 1})

    def _origin(self, m: Match) -> tuple[Value, int] | None:
        content = m.root.output.content
        if content is None or content.shape != (1,) or isinstance(content[0], int):
            return None
        for source in m.graph.root.inputs:
            for axis, dim in enumerate(source.type.shape or ()):
                if dim == content[0]:
                    return None if source is m["x"] else (source, axis)
        return None


@register_rule
class GatherAsSlice(Rule):
    """Gather(Shape(x), [i, i+1, ..., j]) -> Shape(x, start=i, end=j+1)."""

    name: ClassVar[str] = "gather-of-shape"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Gather", Op("Shape", "x", name="shape", shared=True), "i"),
        Op("Slice", Op("Shape", "x", name="shape", shared=True), "starts", rest=True),
    )

    def check(self, m: Match) -> str | None:
        if "start" in m.node("shape").attrs or "end" in m.node("shape").attrs:
            return "the Shape gives only some dims"
        if m["x"].type.shape is None or len(m.root.output.type.shape or ()) != 1:
            return "the rank is unknown or the result is no vector"
        return None if self._range(m) else "the elements taken are not known to stand in a row"

    def rewrite(self, m: Match) -> Value:
        found = self._range(m)
        assert found is not None
        return m.emit("Shape", [m["x"]], {"start": found[0], "end": found[1]})

    def _range(self, m: Match) -> tuple[int, int] | None:
        rank = len(m["x"].type.dims)
        if m.root.op == "Gather":
            taken = known_ints(m["i"])
            indices = [i % rank for i in taken] if taken else []
        else:
            bounds = [known_ints(m.root.input(i)) for i in (1, 2)]
            steps = known_ints(m.root.input(4)) if m.root.input(4) is not None else [1]
            if not all(bounds) or steps is None:
                return None
            (start,), (end,) = (np.asarray(b) for b in bounds)
            indices = list(range(rank))[int(start) : int(end) : steps[0]]
        if not indices or indices != list(range(indices[0], indices[0] + len(indices))):
            return None
        return indices[0], indices[-1] + 1
