"""LSTM, GRU and RNN: the C ops of kernels/c/recurrent.c and, packed, of recurrent_packed.c, and their options."""

from __future__ import annotations

from ...compiler.errors import ModelError
from ...compiler.ir import Attr, Node
from ...compiler.ops.base import attr_float, attr_int, attr_str
from ..base import CCall, c_op

_KINDS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}  # default activations
_DIRECTIONS = ("forward", "reverse", "bidirectional")
# Each activation's place in the enum of recurrent.c, and its default alpha and beta (ONNX, operator RNN).
_ACTIVATIONS = {
    "tanh": (0, 0.0, 0.0),
    "sigmoid": (1, 0.0, 0.0),
    "relu": (2, 0.0, 0.0),
    "affine": (3, 1.0, 0.0),
    "leakyrelu": (4, 0.01, 0.0),
    "thresholdedrelu": (5, 1.0, 0.0),
    "scaledtanh": (6, 1.0, 1.0),
    "hardsigmoid": (7, 0.2, 0.5),
    "elu": (8, 1.0, 0.0),
    "softsign": (9, 0.0, 0.0),
    "softplus": (10, 0.0, 0.0),
}
_WITH_ALPHA = frozenset({"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"})
_WITH_BETA = frozenset({"affine", "scaledtanh", "hardsigmoid"})


@c_op("RNN", "GRU", "LSTM")
def recurrent(node: Node) -> CCall:
    """The call of a recurrent layer. Raises ModelError for a direction or activation that does not exist."""
    direction = attr_str(node, "direction", "forward")
    if direction not in _DIRECTIONS:
        raise ModelError(f"{node.op}: bad direction", node=node.name, expected=", ".join(_DIRECTIONS), found=direction)
    codes, slopes = _activations(node, 2 if direction == "bidirectional" else 1)
    ints = (
        list(_KINDS).index(node.op),
        _DIRECTIONS.index(direction),
        attr_int(node, "layout", 0),
        attr_int(node, "linear_before_reset", 0),
        attr_int(node, "input_forget", 0),
        int("clip" in node.attrs),
        *codes,
    )
    return CCall("optc_op_recurrent", "recurrent.c", ints, (attr_float(node, "clip", 0.0), *slopes))


@c_op("optc.RNN", "optc.GRU", "optc.LSTM")
def packed_recurrent(node: Node) -> CCall | None:
    """The call of a packed recurrent layer, which passes/recurrent.py makes in float32 only."""
    ints = (
        list(_KINDS).index(node.op.removeprefix("optc.")),
        _DIRECTIONS.index(attr_str(node, "direction", "forward")),
        attr_int(node, "layout", 0),
        attr_int(node, "linear_before_reset", 0),
        int(attr_str(node, "activation", "Tanh") == "Relu"),
        attr_int(node, "hidden_size", 0),
    )
    return CCall("optc_op_packed_recurrent", "recurrent_packed.c", ints)


def _activations(node: Node, directions: int) -> tuple[list[int], list[float]]:
    """Codes of the activations, three a direction, and alpha and beta of each.

    The attributes activation_alpha and activation_beta hold a number for each activation that takes one, in order.
    """
    count = len(_KINDS[node.op])
    names = [str(n).lower() for n in _tuple(node.attrs.get("activations"))] or [
        n.lower() for n in _KINDS[node.op] * directions
    ]
    if len(names) != count * directions or any(n not in _ACTIVATIONS for n in names):
        known = f"{count * directions} of {', '.join(_ACTIVATIONS)}"
        raise ModelError(f"{node.op}: bad activations", node=node.name, expected=known, found=names)
    alphas = [float(v) for v in _tuple(node.attrs.get("activation_alpha"))]
    betas = [float(v) for v in _tuple(node.attrs.get("activation_beta"))]
    codes, slopes = [], []
    for index, name in enumerate(names):
        code, alpha, beta = _ACTIVATIONS[name]
        alpha = alphas.pop(0) if name in _WITH_ALPHA and alphas else alpha
        beta = betas.pop(0) if name in _WITH_BETA and betas else beta
        codes.append(code)
        slopes += [alpha, beta]
        if index % count == count - 1:
            codes += [0] * (3 - count)
            slopes += [0.0, 0.0] * (3 - count)
    return codes, slopes


def _tuple(value: Attr | None) -> tuple[str | int | float, ...]:
    return value if isinstance(value, tuple) else ()
