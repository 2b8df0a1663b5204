"""How long one thread takes for a step, by rough rates: what decides while running whether threads pay, and when
compiling whether integers do.

The rates are those of small layers on Sapphire Rapids, per core, scaled by the width of the target's vectors. A factor
of two does not matter: below the runtime's limit (runtime/c/pool.c) neither way costs much.
"""

from __future__ import annotations

from ..compiler.ir import Node
from ..compiler.ops.base import attr_str
from ..compiler.types import Dim
from ..passes.quantization.integers import Layer
from ..passes.regions import Region
from .costs import cost, nodes_of
from .isa.dot import arithmetic
from .kernels import winograd
from .kernels.dims import DimVars
from .kernels.tile import F32
from .steps import Kernel
from .target import Target
from .templates.base import Anchor
from .templates.conv import conv_spec

PRODUCTS: dict[str, tuple[int, dict[str, int]]] = {
    "f32": (70, {}),
    "bf16": (70, {"amx": 250, "avx512bf16": 120}),
    "int8": (60, {"amx": 400, "vnni": 200}),
}
"""Multiply-adds a nanosecond, in 512 bits: without and with a feature whose name contains the word."""
PRODUCTS_ALONE = 50
"""Those of depthwise convolutions."""
WINOGRAD = 1.3
"""How much faster it is than a direct convolution in float32, as measured on layers of 14 x 14 and 7 x 7."""
BYTES = 40
"""A nanosecond, to and from the caches."""
STEEP = frozenset(("Attention", "Erf", "Exp", "Gelu", "Pow", "Sigmoid", "Softmax", "Swish", "Tanh"))
"""Ops that take about a third of a nanosecond an element."""


def nanoseconds(step: Kernel, target: Target) -> Dim:
    """The estimate, an expression if dims are symbolic."""
    known = cost(step)
    time: Dim = _ratio(known.nbytes, BYTES)
    if known.macs != 0:
        rate = PRODUCTS_ALONE if known.op == "Depthwise" else _products(known.kind, target)
        time = time + _ratio(known.macs, max(1, rate * target.lanes // 16))
    steep = (_elements(node) for node in nodes_of(step) if node.op.removeprefix("optc.") in STEEP)
    return time + _ratio(sum(steep, start=0), 3)


def _products(kind: str, target: Target) -> int:
    plain, special = PRODUCTS[kind]
    return next((rate for word, rate in special.items() if any(word in f for f in target.features)), plain)


def _elements(node: Node) -> Dim:
    return node.outputs[0].type.numel if node.outputs[0].type.shape is not None else 0


def _ratio(amount: Dim, rate: int) -> Dim:
    return amount // rate if isinstance(amount, int) else amount / rate


def integers_pay(layer: Layer, target: Target) -> bool:
    """Whether a target computes a quantized product faster in integers.

    Byte products take a quarter of float32's instructions or fewer. Where a target has none, pairs of int16 take as
    many or two thirds, which Winograd's algorithm beats, in float32 only; what it saves, an eighth of the direct
    convolution at least, is more than the conversion of its input costs.
    """
    node = layer.node
    if target.multiplies_bytes or node.op != "optc.Conv":
        return True
    kind, fused = arithmetic(target), target.has("fma") or target.has("neon")
    float_cost = F32.cost if fused else 2 * F32.cost
    if kind.depth * float_cost / kind.cost > WINOGRAD:
        return True
    if attr_str(node, "auto_pad", "NOTSET").startswith("SAME"):
        return True
    spec = conv_spec(Anchor(Region((node,), node), node, target, DimVars()))
    return min(spec.pads) < 0 or next(winograd.plans(spec, target), None) is None
