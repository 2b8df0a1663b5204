"""The pointwise nodes behind an anchor, applied to its vectors in registers on their way to memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tvm import tirx

from ...compiler.ir import Node, Value
from ...compiler.ops import quantize as quantization
from ...compiler.types import DType, same_dim
from . import exprs
from .builder import Expr, buffer, i64, splat
from .dims import DimVars
from .index.base import element_expr, stores_rounded

_IN_REGISTERS = frozenset((DType.F32, DType.BF16, DType.I32, DType.U8, DType.I8))


class NodeEpilogue:
    """`nodes` (topologically ordered) computed from `source` = scale * a template's result + an optional bias.

    Every value has its own type: int32 sums become float32 at a DequantizeLinear, and what a QuantizeLinear makes of
    them is stored as bytes (`dtype`), what a Cast makes as bfloat16. Operands in memory are loaded in their own type.
    Where quantization is among the nodes no product is fused with an addition, so that all processors give the same
    bits.

    `pitches` are the elements from row to row of those values, the result among them, whose rows do not follow each
    other. `buffers` are what it reads besides, `values` the IR values (or arrays) to pass for them, in the same order.
    If all of them are full-size, lie along the last axis or are single numbers, indices are `[row, channel]` (see
    builder.Epilogue).
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        source: Value,
        bias: Value | None,
        dims: DimVars,
        scale: float = 1.0,
        pitches: Mapping[Value, int] = MappingProxyType({}),
    ) -> None:
        self.scale = scale
        self.nodes, self.source, self.bias, self._dims = list(nodes), source, bias, dims
        self._result = self.nodes[-1].outputs[0] if self.nodes else source
        self.dtype = exprs.tir_dtype(self._result.type.dtype)
        self._pitches = pitches
        self.pitch = pitches.get(self._result)
        made = {source} | {n.outputs[0] for n in nodes}
        operands = [bias] if bias is not None else []
        operands += [v for n in nodes for v in n.inputs if v is not None and v not in made and not _is_number(v)]
        self.values: list[Value] = list(dict.fromkeys(operands))
        self.flat = all(self._is_row(v) or self._is_full(v) or _is_single(v) for v in self.values)
        self._buffers = {v: self._declare(v, f"e{i}") for i, v in enumerate(self.values)}

    @property
    def buffers(self) -> Sequence[Any]:
        return list(self._buffers.values())

    def _is_row(self, value: Value) -> bool:
        """One element a channel: all dims but the last are 1."""
        dims, last = value.type.dims, self.source.type.dims[-1]
        return len(dims) > 0 and all(d == 1 for d in dims[:-1]) and same_dim(dims[-1], last) and dims[-1] != 1

    def _is_full(self, value: Value) -> bool:
        dims, full = value.type.dims, self.source.type.dims
        return len(dims) == len(full) and all(same_dim(a, b) for a, b in zip(dims, full, strict=True))

    def _declare(self, value: Value, name: str) -> Any:
        shape = self._dims.memory(value.type.dims, self._pitches.get(value))
        dtype = exprs.tir_dtype(value.type.dtype)
        if _is_single(value):
            return buffer(name, [1], dtype)
        if self._is_row(value):
            return buffer(name, shape[-1:], dtype)
        if self.flat:
            rows: Any = i64(1)
            for extent in shape[:-1]:
                rows = rows * extent
            return buffer(name, (rows, shape[-1]), dtype)
        return buffer(name, shape, dtype)

    def _load(self, value: Value, indices: Sequence[Expr], lanes: int) -> Expr:
        """The elements of an operand that meet the vector at `indices`, in the type they are computed in."""
        if value.data is not None and _is_number(value):
            return exprs.const(value.data.reshape(-1)[0], exprs.load_type(value.type.dtype), lanes)
        return exprs.from_memory(self._stored(value, indices, lanes), value.type.dtype)

    def _stored(self, value: Value, indices: Sequence[Expr], lanes: int) -> Expr:
        last = indices[-1] if lanes == 1 else tirx.Ramp(i64(indices[-1]), i64(1), lanes)
        source = self._buffers[value]
        if _is_single(value):
            return splat(tirx.BufferLoad(source, [i64(0)]), lanes)
        if self._is_row(value):
            return tirx.BufferLoad(source, [last])
        if self.flat:
            return tirx.BufferLoad(source, [indices[0], last])
        dims = value.type.dims
        at = [i64(0) if d == 1 else i for d, i in zip(dims, list(indices)[len(indices) - len(dims) :], strict=True)]
        if dims[-1] == 1:
            return splat(tirx.BufferLoad(source, at), lanes)
        return tirx.BufferLoad(source, [*at[:-1], last])

    def __call__(self, value: Expr, indices: Sequence[Expr], lanes: int) -> Expr:
        named: list[tuple[Any, Expr]] = []

        def name(expr: Expr, hint: str) -> Expr:
            """A variable for what may be read more than once; names inside `expr` move out, for none may nest."""
            while isinstance(expr, tirx.Let):
                named.append((expr.var, expr.value))
                expr = expr.body
            var = tirx.Var(hint, expr.ty)
            named.append((var, expr))
            return var

        if self.scale != 1.0:
            value = value * splat(self.scale, lanes)
        if self.bias is not None:
            value = value + self._load(self.bias, indices, lanes)
        known = {self.source: name(value, "sum")}
        for node in self.nodes:
            args = []
            for operand in node.inputs:
                if operand is not None and operand not in known:
                    load = self._load(operand, indices, lanes)
                    known[operand] = load if _is_number(operand) else name(load, "operand")
                args.append(None if operand is None else known[operand])
            if node.outputs[0] is self._result and stores_rounded(node):
                known[self._result] = args[0]
            else:
                known[node.outputs[0]] = name(element_expr(node, args), "result")
        if any(n.op in quantization.OPS for n in self.nodes):
            named = [(var, exprs.products_rounded(expr)) for var, expr in named]
        result = exprs.to_memory(known[self._result], self._result.type.dtype)
        for var, expr in reversed(named):
            result = tirx.Let(var, expr, result)
        return result


def fits_registers(nodes: Sequence[Node]) -> bool:
    """Whether vector registers can hold everything these nodes compute and read."""
    return all(v is None or v.type.dtype in _IN_REGISTERS for n in nodes for v in (*n.inputs, *n.outputs))


def _is_number(value: Value) -> bool:
    """A constant that is written into the code."""
    return value.data is not None and value.data.size == 1


def _is_single(value: Value) -> bool:
    """A number known only at run time."""
    return all(isinstance(d, int) and d == 1 for d in value.type.dims)
