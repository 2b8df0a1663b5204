"""Which nodes have a hot template, and how a region around one becomes a kernel call.

ADD A TEMPLATE: a function `(Anchor) -> Kernel | None` under `@template(op)`; None where this node's form has no
template (the general ways serve it then).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiler.ir import Node, Value
from ..compiler.ops.base import attr_float, attr_int, attr_ints, attr_str
from ..compiler.types import DType
from .codegen import signature
from .kernels import conv, depthwise, matmul
from .kernels.dims import DimVars, dim_of
from .kernels.epilogue import NodeEpilogue
from .regions import Region
from .steps import Kernel, Param, Scratch
from .target import Target


@dataclass
class Anchor:
    """A region with an anchor about to be built."""

    region: Region
    node: Node
    target: Target
    dims: DimVars

    @property
    def output(self) -> Value:
        """What the kernel stores: the region's result."""
        return self.region.last.outputs[0]

    def shape(self, value: Value) -> list[Any]:
        return [_plain(d) for d in self.dims.shape(value.type.dims)]

    def epilogue(self, bias: Value | None = None, scale: float = 1.0) -> Any:
        """A scale, a bias along the last axis, and the rest of the region as the template's epilogue; None if empty."""
        if bias is None and scale == 1.0 and len(self.region.nodes) == 1:
            return None
        return NodeEpilogue(self.region.nodes[1:], self.node.outputs[0], bias, self.dims, scale)

    def kernel(self, func: Any, params: Sequence[Param], epilogue: Any, provenance: str) -> Kernel:
        """The call: `params`, what the epilogue reads, the output, and scratch if the template asks for it."""
        known = signature(func)
        names = dict(zip(self.dims.vars, self.dims.symbols, strict=True))
        full: list[Param] = [*params, *(epilogue.values if epilogue else ()), self.output]
        if known.workspace is not None:
            nbytes: Any = 4
            for extent in known.workspace.shape:
                nbytes = nbytes * dim_of(extent, names)
            full.append(Scratch(nbytes))
        symbols = [next(s for v, s in names.items() if v.same_as(dim)) for dim in known.dims]
        return Kernel(self.region.name, func, full, [self.output], symbols, provenance)


Template = Callable[[Anchor], "Kernel | None"]
TEMPLATES: dict[str, Template] = {}


def template(*ops: str) -> Callable[[Template], Template]:
    def add(function: Template) -> Template:
        TEMPLATES.update(dict.fromkeys(ops, function))
        return function

    return add


def has_template(node: Node) -> bool:
    """True if this node's form has a template with an epilogue, so that a region may form behind it."""
    check = _FORMS.get(node.op)
    return check is not None and check(node)


def _plain(dim: Any) -> Any:
    """Ints as Python ints: templates fold arithmetic over them."""
    return int(dim) if hasattr(dim, "value") and isinstance(dim.value, int) else dim


# --- convolution -------------------------------------------------------------------------------------------------


def _conv_spec(anchor: Anchor) -> conv.ConvSpec:
    node = anchor.node
    x, w = node.operand(0), node.operand(1)
    rank = x.type.rank - 2
    shape = anchor.shape(x)
    kernel = tuple(int(d) for d in w.type.static_shape[2:])
    return conv.ConvSpec(
        batch=shape[0],
        spatial=tuple(shape[1:-1]),
        c_in=int(shape[-1]),
        c_out=w.type.static_shape[0],
        kernel=kernel,
        strides=attr_ints(node, "strides") or (1,) * rank,
        pads=conv_pads(node, kernel),
        dilations=attr_ints(node, "dilations") or (1,) * rank,
        group=attr_int(node, "group", 1),
    )


def conv_pads(node: Node, kernel: Sequence[int]) -> tuple[int, ...]:
    """Explicit pads [begins..., ends...] of an optc.Conv or pool; SAME needs static spatial dims."""
    rank = len(kernel)
    auto = attr_str(node, "auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return attr_ints(node, "pads") or (0,) * (2 * rank)
    if auto == "VALID":
        return (0,) * (2 * rank)
    strides = attr_ints(node, "strides") or (1,) * rank
    dilations = attr_ints(node, "dilations") or (1,) * rank
    begins, ends = [], []
    for size, taps, stride, dilation in zip(node.operand(0).type.dims[1:-1], kernel, strides, dilations, strict=True):
        total = max(0, (-(-int(size) // stride) - 1) * stride + (taps - 1) * dilation + 1 - int(size))
        small = total // 2
        begins.append(total - small if auto == "SAME_LOWER" else small)
        ends.append(small if auto == "SAME_LOWER" else total - small)
    return (*begins, *ends)


def _is_plain_conv(node: Node) -> bool:
    x, w = node.operand(0), node.operand(1)
    static = all(isinstance(d, int) for d in x.type.dims[1:-1])
    same = attr_str(node, "auto_pad", "NOTSET").startswith("SAME")
    return w.data is not None and isinstance(x.type.dims[-1], int) and (static or not same)


@template("optc.Conv")
def _conv(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    weights = node.operand(1).data
    if weights is None:
        return None
    spec = _conv_spec(anchor)
    epilogue = anchor.epilogue(node.input(2))
    module: Any = depthwise if spec.depthwise else conv
    plan = next(module.plans(spec, anchor.target))
    packed = module.pack_weights(np.asarray(weights), spec, plan)
    func = module.build(spec, plan, epilogue)
    return anchor.kernel(func, [node.operand(0), packed], epilogue, f"{module.__name__.rsplit('.', 1)[-1]} {plan}")


# --- matmul ------------------------------------------------------------------------------------------------------


def _is_plain_matmul(node: Node) -> bool:
    a, b = node.operand(0), node.operand(1)
    if a.type.dtype is not DType.F32 or a.type.rank < 2 or b.type.rank < 2:
        return False
    if node.op == "Gemm":
        bias = node.input(2)
        return bias is None or (attr_float(node, "beta", 1.0) == 1.0 and _is_row(bias))
    return b.data is None or b.type.rank == 2


def _is_row(value: Value | None) -> bool:
    """A bias along the last axis."""
    return (
        value is not None
        and value.type.is_static
        and value.type.rank >= 1
        and all(d == 1 for d in value.type.static_shape[:-1])
    )


@template("MatMul", "Gemm", "optc.MatMul")
def _matmul(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not _is_plain_matmul(node):
        return None
    a, b = node.operand(0), node.operand(1)
    trans_a, trans_b = bool(attr_int(node, "transA", 0)), bool(attr_int(node, "transB", 0))
    shape_a, shape_b = anchor.shape(a), anchor.shape(b)
    m, k = (shape_a[-1], shape_a[-2]) if trans_a else (shape_a[-2], shape_a[-1])
    n = shape_b[-2] if trans_b else shape_b[-1]
    constant = b.data is not None
    spec = matmul.MatmulSpec(
        m=m, n=n, k=shape_b[-1] if trans_b and constant else (shape_b[-2] if constant else k),
        batch_a=tuple(shape_a[:-2]), batch_b=tuple(shape_b[:-2]),
        trans_a=trans_a, trans_b=trans_b, constant_b=constant,
    )  # fmt: skip
    bias = node.input(2) if node.op == "Gemm" else None
    epilogue = anchor.epilogue(bias, attr_float(node, "alpha", 1.0))
    plan = next(matmul.plans(spec, anchor.target))
    second: Param = b if b.data is None else matmul.pack_weights(np.asarray(b.data), spec, plan)
    return anchor.kernel(matmul.build(spec, plan, epilogue), [a, second], epilogue, f"matmul {plan}")


_FORMS: dict[str, Callable[[Node], bool]] = {
    "optc.Conv": _is_plain_conv,
    "MatMul": _is_plain_matmul,
    "Gemm": _is_plain_matmul,
    "optc.MatMul": _is_plain_matmul,
}
