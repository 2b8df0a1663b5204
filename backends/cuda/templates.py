"""Hot regions on a GPU. The forms they take and the epilogues behind them are those of the CPU's templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx

from ...compiler.ir import Node
from ...compiler.ops.base import attr_float, attr_int
from ...compiler.ops.fused import is_regular_attention
from ...compiler.types import DType
from ..kernels.builder import Dim, buffer, i64, product
from ..kernels.convspec import ConvSpec
from ..kernels.dot.bias import Biased
from ..kernels.softmax import SoftmaxSpec
from ..packing import Packed
from ..steps import Kernel, Param
from ..templates.attention import attention_spec
from ..templates.base import Anchor, Template
from ..templates.conv import conv_spec, is_plain_conv
from ..templates.matmul import is_row
from ..templates.norm import norm_over_last, norm_spec, softmax_over_last
from . import depthwise, gemm, rows
from .target import CudaTarget

TEMPLATES: dict[str, Template] = {}
_FORMS: dict[str, Callable[[Node], bool]] = {}


def _template(*ops: str, form: Callable[[Node], bool] | None = None) -> Callable[[Template], Template]:
    """Registers a template; `form` says that it takes an epilogue, and for which nodes."""

    def add(function: Template) -> Template:
        TEMPLATES.update(dict.fromkeys(ops, function))
        if form is not None:
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
    asked = anchor.target.asked if isinstance(anchor.target, CudaTarget) else ()
    return gemm.TF32 if "tf32" in asked else gemm.F32


@_template("optc.Conv", form=_is_conv)
def _conv(anchor: Anchor) -> Kernel | None:
    node, conv = anchor.node, conv_spec(anchor)
    if not gemm.applies(conv):
        return None
    exact = gemm.F32 if conv.depthwise else _floats(anchor)
    spec = gemm.GemmSpec(conv, exact, (conv.batch, *conv.out_spatial, conv.c_out))
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
    chosen = anchor.choose(spec, _family(spec))
    packed = chosen.family.pack_weights(weights, spec, chosen.plan)
    func = chosen.family.build(spec, chosen.plan, epilogue)
    return anchor.kernel(func, [anchor.node.operand(0), packed], epilogue, str(chosen))


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
    chosen = anchor.choose(spec, _family(spec))
    packed = Packed(weights, lambda array: chosen.family.pack_weights(array, spec, chosen.plan))
    func = chosen.family.build(spec, chosen.plan, Biased(spec.conv.c_out, epilogue, between), pad)
    return anchor.kernel(func, [anchor.node.operand(0), packed, *rest], epilogue, str(chosen))


def _family(spec: gemm.GemmSpec) -> Any:
    return depthwise if spec.conv.depthwise else gemm


_HELD = frozenset((DType.F32, DType.BOOL))
"""Types of what attention reads."""


def _is_attention(node: Node) -> bool:
    return is_regular_attention(node) and all(v is None or v.type.dtype in _HELD for v in node.inputs)


@_template("optc.Attention", form=_is_attention)
def _attention(anchor: Anchor) -> Kernel | None:
    epilogue = anchor.epilogue()
    if not _is_attention(anchor.node) or (epilogue is not None and epilogue.values):
        return None
    spec, params = attention_spec(anchor)
    if spec.value_size > rows.MOST_VALUES:
        return None
    return anchor.kernel(rows.build_attention(spec, epilogue), params, epilogue, "warp attention")


@_template("LayerNormalization", "RMSNormalization", form=norm_over_last)
def _norm(anchor: Anchor) -> Kernel | None:
    found = norm_spec(anchor)
    epilogue = anchor.epilogue()
    if found is None or found[0].dtype != "float32" or (epilogue is not None and not epilogue.flat):
        return None
    spec, params = found
    return anchor.kernel(rows.build_norm(spec, epilogue), params, epilogue, "warp norm")


@_template("Softmax", "LogSoftmax")
def _softmax(anchor: Anchor) -> Kernel | None:
    x = anchor.node.operand(0)
    if not softmax_over_last(anchor.node):
        return None
    shape = anchor.shape(x)
    spec = SoftmaxSpec(product(shape[:-1]), shape[-1], anchor.node.op == "LogSoftmax")
    return anchor.kernel(rows.build_softmax(spec), [x], None, "warp softmax")
