"""Transposes sink towards the outputs, where they meet others and cancel, or reach smaller tensors.

    f(T x)         -> T f(x)           f pointwise with one tensor operand
    f(T x, T y)    -> T f(x, y)        same permutation
    f(T x, c)      -> T f(x, T^-1 c)   c constant
    reduce(T x, A) -> T reduce(x, p[A])
    concat(T x, ...), split(T x), slice(T x), pad(T x), gather of one element: likewise, on axis p[a]

T has no other reader, so no transpose is ever added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ...compiler.ir import Value
from ..facts import axes_of, known_ints, perm_of
from ..pattern import Const, Op
from ..rewrite import Match, Rule, register_rule

_UNARY = (
    "Abs", "Cast", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Sqrt", "Swish", "Tanh",
)  # fmt: skip
_BINARY = (
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And",
    "Or",
)  # fmt: skip
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
_TRANSPOSE = Op("Transpose", "x", name="t")


def _inverse(perm: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(perm))


class _Sink(Rule):
    """f(T x) -> T f(x); a subclass says what f becomes before the transpose."""

    def check(self, m: Match) -> str | None:
        return None if perm_of(m.node("t")) else "the rank is unknown"

    def perm(self, m: Match) -> tuple[int, ...]:
        perm = perm_of(m.node("t"))
        assert perm is not None
        return perm

    def transposed(self, m: Match, value: Value, perm: Sequence[int]) -> Value:
        return value if list(perm) == sorted(perm) else m.emit("Transpose", [value], {"perm": tuple(perm)})


@register_rule
class SinkThroughUnary(_Sink):
    """f(T x) -> T f(x)."""

    name: ClassVar[str] = "sink-transpose-unary"
    patterns: ClassVar[tuple[Op, ...]] = (Op(_UNARY, _TRANSPOSE, rest=True),)

    def check(self, m: Match) -> str | None:
        if any(v is not None and v.type.shape != () for v in m.root.inputs[1:]):
            return "an operand has dims"
        return super().check(m)

    def rewrite(self, m: Match) -> Value:
        y = m.emit(m.root.op, [m["x"], *m.root.inputs[1:]], m.root.attrs)
        return self.transposed(m, y, self.perm(m))


@register_rule
class SinkThroughBinary(_Sink):
    """f(T x, T y) -> T f(x, y), and f(T x, c) -> T f(x, T^-1 c)."""

    name: ClassVar[str] = "sink-transpose-binary"
    patterns: ClassVar[tuple[Op, ...]] = tuple(
        Op(op, *operands) for op in _BINARY for operands in (
            (_TRANSPOSE, Op("Transpose", "y", name="u")), (_TRANSPOSE, Const("c")), (Const("c"), _TRANSPOSE),
        )
    )  # fmt: skip

    def check(self, m: Match) -> str | None:
        if "u" in m and perm_of(m.node("u")) != perm_of(m.node("t")):
            return "the permutations differ"
        if "c" in m and (perm := perm_of(m.node("t"))) and m["c"].type.rank > len(perm):
            return "the constant has more dims than the tensor"
        return super().check(m)

    def rewrite(self, m: Match) -> Value:
        perm = self.perm(m)
        if "u" in m:
            operands = [m["x"], m["y"]]
        else:
            c = m.array("c")
            if c.size > 1:
                c = c.reshape((1,) * (len(perm) - c.ndim) + c.shape).transpose(_inverse(perm))
            constant = m.constant(np.ascontiguousarray(c), like=m["c"]) if c.size > 1 else m["c"]
            operands = [m["x"], constant] if m.root.operand(1) is m["c"] else [constant, m["x"]]
        return self.transposed(m, m.emit(m.root.op, operands, m.root.attrs), perm)


@register_rule
class SinkThroughReduction(_Sink):
    """reduce(T x, A) -> T reduce(x, p[A]); without keepdims the permutation loses the reduced axes."""

    name: ClassVar[str] = "sink-transpose-reduction"
    patterns: ClassVar[tuple[Op, ...]] = (Op(_REDUCTIONS, _TRANSPOSE, rest=True),)

    def check(self, m: Match) -> str | None:
        return super().check(m) if axes_of(m.root) else "the axes are unknown, or all"

    def rewrite(self, m: Match) -> Value:
        perm, axes = self.perm(m), axes_of(m.root)
        assert axes is not None
        reduced = sorted(perm[a] for a in axes)
        keep = m.root.attrs.get("keepdims", 1)
        if "axes" in m.root.attrs:
            y = m.emit(m.root.op, [m["x"]], {**m.root.attrs, "axes": tuple(reduced)})
        else:
            y = m.emit(m.root.op, [m["x"], m.constant(np.array(reduced, np.int64))], m.root.attrs)
        if not keep:
            kept = [p for p in perm if p not in reduced]
            perm = tuple(sorted(kept).index(p) for p in kept)
        return self.transposed(m, y, perm)


@register_rule
class SinkThroughSoftmax(_Sink):
    """Softmax(T x, a) -> T Softmax(x, p[a])."""

    name: ClassVar[str] = "sink-transpose-softmax"
    patterns: ClassVar[tuple[Op, ...]] = (Op(("Softmax", "LogSoftmax"), _TRANSPOSE),)

    def rewrite(self, m: Match) -> Value:
        perm = self.perm(m)
        axis = m.root.attrs.get("axis", -1)
        assert isinstance(axis, int)
        return self.transposed(m, m.emit(m.root.op, [m["x"]], {**m.root.attrs, "axis": perm[axis]}), perm)


@register_rule
class SinkThroughConcat(_Sink):
    """concat(T x, T y, ...; a) -> T concat(x, y, ...; p[a])."""

    name: ClassVar[str] = "sink-transpose-concat"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Concat", _TRANSPOSE, rest=True),)

    def check(self, m: Match) -> str | None:
        for value in m.root.inputs:
            node = value.producer if value is not None else None
            if node is None or node.op != "Transpose" or perm_of(node) != perm_of(m.node("t")):
                return "an operand is not transposed likewise"
            if node.output.single_user is None:
                return f"%{node.output.name} is read elsewhere too"
        return super().check(m)

    def rewrite(self, m: Match) -> Value:
        perm, axis = self.perm(m), m.root.attrs["axis"]
        assert isinstance(axis, int)
        sources = [v.producer.operand(0) for v in m.root.inputs if v is not None and v.producer is not None]
        return self.transposed(m, m.emit("Concat", sources, {"axis": perm[axis]}), perm)


@register_rule
class SinkThroughSplit(_Sink):
    """split(T x; a) -> T split(x; p[a]) for each part."""

    name: ClassVar[str] = "sink-transpose-split"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Split", _TRANSPOSE, rest=True),)

    def rewrite(self, m: Match) -> list[Value]:
        perm, axis = self.perm(m), m.root.attrs.get("axis", 0)
        assert isinstance(axis, int)
        attrs = {**m.root.attrs, "axis": perm[axis]}
        first = m.emit("Split", [m["x"], *m.root.inputs[1:]], attrs, num_outputs=len(m.root.outputs))
        assert first.producer is not None
        return [self.transposed(m, part, perm) for part in first.producer.outputs]


@register_rule
class SinkThroughSlice(_Sink):
    """slice(T x; axes A) -> T slice(x; p[A])."""

    name: ClassVar[str] = "sink-transpose-slice"
    patterns: ClassVar[tuple[Op, ...]] = (Op("Slice", _TRANSPOSE, "starts", "ends", Const("axes"), rest=True),)

    def rewrite(self, m: Match) -> Value:
        perm = self.perm(m)
        axes = m.constant(np.array([perm[a] for a in known_ints(m["axes"]) or []], np.int64))
        y = m.emit("Slice", [m["x"], m["starts"], m["ends"], axes, *m.root.inputs[4:]])
        return self.transposed(m, y, perm)


@register_rule
class SinkThroughIndexing(_Sink):
    """Gather(T x, i; a) -> T' Gather(x, i; p[a]) for one index i of rank 0. T may have other readers of this kind."""

    name: ClassVar[str] = "sink-transpose-gather"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op("Gather", Op("Transpose", "x", name="t", shared=True), Const("i")),
    )  # fmt: skip

    def check(self, m: Match) -> str | None:
        if m["i"].type.shape != ():
            return "the index is no single number"
        for user in m.node("t").output.users:
            if user.op != "Gather" or user.operand(0) is not m.node("t").output or not user.operand(1).is_constant:
                return f"%{m.node('t').output.name} is also read by {user.op}"
        return super().check(m) if not m.node("t").output.is_output else "the transposed tensor is an output"

    def rewrite(self, m: Match) -> Value:
        perm, axis = self.perm(m), m.root.attrs.get("axis", 0)
        assert isinstance(axis, int)
        taken = perm[axis]
        y = m.emit("Gather", [m["x"], m["i"]], {"axis": taken})
        kept = [p for p in perm if p != taken]
        return self.transposed(m, y, [sorted(kept).index(p) for p in kept])


SINK_RULES = (
    "transpose-of-transpose", "sink-transpose-unary", "sink-transpose-binary", "sink-transpose-reduction",
    "sink-transpose-softmax", "sink-transpose-concat", "sink-transpose-split", "sink-transpose-slice",
    "sink-transpose-gather",
)  # fmt: skip
