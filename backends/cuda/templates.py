"""Hot regions on a GPU. The forms they take and the epilogues behind them are those of the CPU's templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx

from ...compiler.ir import Node
from ...compiler.ops.base import attr_float, attr_int
from ...compiler.types import DType
from ..kernels.builder import Dim, buffer, i64, product
from ..kernels.convspec import ConvSpec
from ..kernels.dot.bias import Biased
from ..packing import Packed
from ..steps import Kernel, Param
from ..templates.base import Anchor, Template
from ..templates.conv import conv_spec, is_plain_conv
from ..templates.matmul import is_row
from . import gemm

TEMPLATES: dict[str, Template] = {}
_FORMS: dict[str, Callable[[Node], bool]] = {}


def _template(*ops: str, form: Callable[[Node], bool]) -> Callable[[Template], Template]:
    def add(function: Template) -> Template:
        TEMPLATES.update(dict.fromkeys(ops, function))
        _FORMS.update(dict.fromkeys(ops, form))
        return function

    return add


def has_template(node: Node) -> bool:
    """Whether a region may form around this node."""
    return node.op in _FORMS and _FORMS[node.op](node)


def _is_conv(node: Node) -> bool:
    return is_plain_conv(node) and node.operand(0).type.rank <= 4


def _floats(anchor: Anchor) -> gemm.Arithmetic:
    """The arithmetic of float32 products: exact, unless the target says that less will do."""
    return gemm.TF32 if anchor.target.has("tf32") else gemm.F32


@_template("optc.Conv", form=_is_conv)
def _conv(anchor: Anchor) -> Kernel | None:
    node, conv = anchor.node, conv_spec(anchor)
    if not gemm.applies(conv):
        return None
    spec = gemm.GemmSpec(conv, _floats(anchor), (conv.batch, *conv.out_spatial, conv.c_out))
    return _product(anchor, spec, np.asarray(node.operand(1).data), anchor.epilogue(node.input(2)))


@_template("optc.ConvInteger", form=_is_conv)
def _conv_integer(anchor: Anchor) -> Kernel | None:
    node, conv = anchor.node, conv_spec(anchor)
    if not gemm.applies(conv):
        return None
    spec = gemm.GemmSpec(conv, gemm.U8S8, (conv.batch, *conv.out_spatial, conv.c_out))
    border = node.input(3) if conv.padded else None
    return _integers(anchor, spec, np.asarray(node.operand(1).data), border)


def _is_matmul(node: Node) -> bool:
    a, b = node.operand(0), node.operand(1)
    if a.type.shape is None or a.type.rank < 2 or b.data is None or b.type.rank != 2 or attr_int(node, "transA", 0):
        return False
    if node.op == "optc.MatMulInteger":
        return True
    bias = node.input(2) if node.op == "Gemm" else None
    return a.type.dtype is DType.F32 and (bias is None or (attr_float(node, "beta", 1.0) == 1.0 and is_row(bias)))


@_template("MatMul", "Gemm", "optc.MatMul", form=_is_matmul)
def _matmul(anchor: Anchor) -> Kernel | None:
    node = anchor.node
    if not _is_matmul(node):
        return None
    weights = np.asarray(node.operand(1).data)
    columns = weights if attr_int(node, "transB", 0) else weights.T
    spec = _matrix(anchor, columns.shape, _floats(anchor))
    bias = node.input(2) if node.op == "Gemm" else None
    return _product(anchor, spec, columns, anchor.epilogue(bias, attr_float(node, "alpha", 1.0)))


@_template("optc.MatMulInteger", form=_is_matmul)
def _matmul_integer(anchor: Anchor) -> Kernel | None:
    columns = np.asarray(anchor.node.operand(1).data).T
    return _integers(anchor, _matrix(anchor, columns.shape, gemm.U8S8), columns, None)


def _matrix(anchor: Anchor, weights: Sequence[int], arithmetic: gemm.Arithmetic) -> gemm.GemmSpec:
    """The product of operand 0 and weights [n, k]^T: a 1x1 convolution over a line of pixels."""
    shape: list[Dim] = anchor.shape(anchor.node.operand(0))
    n, k = weights
    conv = ConvSpec(1, (product(shape[:-1]),), k, n, (1,), (1,), (0, 0), (1,))
    return gemm.GemmSpec(conv, arithmetic, (*shape[:-1], n))


def _product(anchor: Anchor, spec: gemm.GemmSpec, weights: Any, epilogue: Any) -> Kernel:
    plan = anchor.plan(gemm, spec)
    packed = gemm.pack_weights(weights, spec, plan)
    func = gemm.build(spec, plan, epilogue)
    return anchor.kernel(func, [anchor.node.operand(0), packed], epilogue, f"gemm {plan}")


def _integers(anchor: Anchor, spec: gemm.GemmSpec, weights: Any, border: Any) -> Kernel:
    """The kernel of integer products: x, weights, bias, the border where there is one, what the epilogue reads."""
    bias = anchor.node.input(2)
    rest: list[Param] = [bias if bias is not None else np.zeros(spec.conv.c_out, np.int32)]
    between, pad = [], None
    if border is not None:
        rest.append(border)
        between = [buffer("pad", (1,), "uint8")]
        pad = tirx.BufferLoad(between[0], [i64(0)])
    epilogue = anchor.epilogue()
    plan = anchor.plan(gemm, spec)
    packed = Packed(weights, lambda array: gemm.pack_weights(array, spec, plan))
    func = gemm.build(spec, plan, Biased(spec.conv.c_out, epilogue, between), pad)
    return anchor.kernel(func, [anchor.node.operand(0), packed, *rest], epilogue, f"gemm {plan}")
