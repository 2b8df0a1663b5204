"""Element by element: arithmetic, activations, comparisons, logic, bits, casts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ..ir import Node
from ..types import DType, TensorType
from . import content as c
from . import dims
from .base import (
    Op,
    attr_dtype,
    attr_int,
    broadcast_shapes,
    check_same_dtype,
    dtype_of,
    fail,
    family,
    register,
    shape_of,
    type_of,
)  # fmt: skip


class Unary(Op):
    """One operand, same type out. `function` gives an element's content."""

    pointwise = True
    function: ClassVar[Callable[..., Any] | None] = None

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [type_of(node, 0)]

    def content(self, node: Node) -> np.ndarray | None:
        function = type(self).function
        arrays = c.inputs_of(node, 1) if function is not None else None
        return None if arrays is None or function is None else c.elementwise(function, *arrays)


class FloatUnary(Unary):
    """A unary op that ONNX defines for floats alone."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        dtype = dtype_of(node, 0)
        if not dtype.is_float:
            fail(node, "the operand must be a float tensor", found=dtype.text, hint="Insert a Cast")
        return [type_of(node, 0)]


family(Unary, "Relu", "Sign", "BitwiseNot")
family(FloatUnary, "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan", "Tanh")
family(FloatUnary, "Erf", "Exp", "Log", "Reciprocal", "Sqrt")
family(FloatUnary, "Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Selu", "Sigmoid")
family(FloatUnary, "Softplus", "Softsign", "Swish", "ThresholdedRelu")
family(Unary, "Shrink")  # integers too


@register
class Abs(Unary):
    function = staticmethod(lambda a: abs(a) if isinstance(a, int) else a if dims.is_nonnegative(a) else None)


@register
class Neg(Unary):
    function = staticmethod(lambda a: -a)


@register
class Floor(FloatUnary):
    function = staticmethod(dims.floor)


@register
class Ceil(FloatUnary):
    function = staticmethod(dims.ceil)


@register
class Round(FloatUnary):
    function = staticmethod(c.round_half_even)


class Predicate(Unary):
    """One operand, bool out."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [type_of(node, 0).with_dtype(DType.BOOL)]


family(Predicate, "IsInf", "IsNaN")


@register
class Not(Predicate):
    function = staticmethod(lambda a: not a)


class Broadcast(Op):
    """Operands of one dtype, broadcast together; `result` is the output's dtype if it is another."""

    pointwise = True
    result: ClassVar[DType | None] = None
    operand: ClassVar[DType | None] = None  # the only dtype allowed
    arity: ClassVar[int | None] = 2  # None: any

    def infer(self, node: Node) -> Sequence[TensorType]:
        if self.arity is not None and sum(v is not None for v in node.inputs) != self.arity:
            fail(node, "wrong number of operands", expected=self.arity, found=len(node.inputs))
        dtype = check_same_dtype(node)
        if self.operand is not None and dtype is not self.operand:
            fail(node, "operands have the wrong dtype", expected=self.operand.text, found=dtype.text)
        shapes = [v.type.shape for v in node.inputs if v is not None]
        known = [s for s in shapes if s is not None]
        shape = broadcast_shapes(node, known) if len(known) == len(shapes) else None
        return [TensorType(self.result or dtype, shape)]

    def function(self, dtype: DType) -> Callable[..., Any] | None:
        """How an output element's content follows from the operands' elements, if contents are followed at all."""
        return None

    def content(self, node: Node) -> np.ndarray | None:
        function = self.function(dtype_of(node, 0))
        arrays = c.inputs_of(node) if function is not None else None
        if function is None or arrays is None:
            return None
        result = arrays[0]
        for array in arrays[1:]:
            following = c.elementwise(function, result, array)
            if following is None:
                return None
            result = following
        return result


family(Broadcast, "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor")


@register
class Add(Broadcast):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return lambda a, b: a + b


@register
class Sub(Broadcast):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return lambda a, b: a - b


@register
class Mul(Broadcast):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return lambda a, b: a * b


@register
class Div(Broadcast):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return c.divide(dtype)


@register
class Mod(Broadcast):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return c.modulo

    def content(self, node: Node) -> np.ndarray | None:
        return None if attr_int(node, "fmod", 0) else super().content(node)


@register
class Pow(Broadcast):
    """The exponent may have another dtype; the output has the base's."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        shapes = [shape_of(node, 0), shape_of(node, 1)]
        known = [s for s in shapes if s is not None]
        shape = broadcast_shapes(node, known) if len(known) == 2 else None
        return [TensorType(dtype_of(node, 0), shape)]

    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return lambda a, b: a**b if isinstance(b, int) and 0 <= b <= 4 else None


class Variadic(Broadcast):
    arity = None


family(Variadic, "Mean")


@register
class Sum(Variadic):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return lambda a, b: a + b


@register
class Max(Variadic):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return dims.larger


@register
class Min(Variadic):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return dims.smaller


class Compare(Broadcast):
    result = DType.BOOL


@register
class Equal(Compare):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return c.equal


@register
class Less(Compare):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return c.less if dtype.is_int else None


@register
class Greater(Compare):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return (lambda a, b: c.less(b, a)) if dtype.is_int else None


@register
class LessOrEqual(Compare):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return (lambda a, b: _not(c.less(b, a))) if dtype.is_int else None


@register
class GreaterOrEqual(Compare):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return (lambda a, b: _not(c.less(a, b))) if dtype.is_int else None


def _not(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


class Logic(Broadcast):
    result = operand = DType.BOOL


@register
class And(Logic):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return lambda a, b: a and b


@register
class Or(Logic):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return lambda a, b: a or b


@register
class Xor(Logic):
    def function(self, dtype: DType) -> Callable[..., Any] | None:
        return lambda a, b: a != b


@register
class Where(Op):
    pointwise = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        if dtype_of(node, 0) is not DType.BOOL:
            fail(node, "the condition must be bool", found=dtype_of(node, 0).text)
        dtype = check_same_dtype(node, 1, 2)
        known = [s for s in (shape_of(node, i) for i in range(3)) if s is not None]
        return [TensorType(dtype, broadcast_shapes(node, known) if len(known) == 3 else None)]

    def content(self, node: Node) -> np.ndarray | None:
        arrays = c.inputs_of(node)
        return None if arrays is None else c.elementwise(c.choose, *arrays)


@register
class Clip(Unary):
    """min and max are optional scalars."""

    def infer(self, node: Node) -> Sequence[TensorType]:
        check_same_dtype(node)
        return [type_of(node, 0)]

    def content(self, node: Node) -> np.ndarray | None:
        result = c.content_of(node.input(0))
        for index, function in ((1, dims.larger), (2, dims.smaller)):
            if result is not None and node.input(index) is not None:
                bound = c.content_of(node.input(index))
                result = None if bound is None else c.elementwise(function, result, bound)
        return result


@register
class PRelu(Op):
    """The slope broadcasts to X, never the other way round."""

    pointwise = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        check_same_dtype(node)
        x, slope = shape_of(node, 0), shape_of(node, 1)
        if x is not None and slope is not None:
            if len(slope) > len(x):
                fail(node, "the slope has more dims than X", found=f"{list(slope)} for {list(x)}")
            broadcast_shapes(node, [x, slope])
        return [type_of(node, 0)]


@register
class Cast(Op):
    pointwise = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [type_of(node, 0).with_dtype(attr_dtype(node, "to"))]

    def content(self, node: Node) -> np.ndarray | None:
        array = c.content_of(node.input(0))
        to = attr_dtype(node, "to")
        if array is None or dtype_of(node, 0) is DType.STRING:
            return None
        if to is DType.BOOL:
            return c.elementwise(lambda a: _not(c.equal(a, 0)), array)
        if to in (DType.I64, DType.I32):
            return c.elementwise(c.truncate, array)
        if to in (DType.F32, DType.F64):
            return c.elementwise(lambda a: int(a) if isinstance(a, bool) else a, array)
        return None


@register
class BitCast(Op):
    """The same bytes read as another dtype of the same size."""

    view = True

    def infer(self, node: Node) -> Sequence[TensorType]:
        source, to = dtype_of(node, 0), attr_dtype(node, "to")
        if source.itemsize != to.itemsize:
            fail(node, "dtypes differ in size", expected=f"{source.itemsize} bytes", found=f"{to.text}")
        return [type_of(node, 0).with_dtype(to)]


@register
class Dropout(Op):
    """The identity with a mask of ones unless training_mode is true."""

    deterministic = False

    def infer(self, node: Node) -> Sequence[TensorType]:
        return [type_of(node, 0), type_of(node, 0).with_dtype(DType.BOOL)]
