"""How long one thread takes for a step, by rough rates: what decides while running whether threads pay.

The rates are those of small layers on Sapphire Rapids, per core, scaled by the width of the target's vectors. A factor
of two does not matter: below the runtime's limit (runtime/c/pool.c) neither way costs much.
"""

from __future__ import annotations

from ..compiler.ir import Node
from ..compiler.types import Dim
from .costs import cost, nodes_of
from .steps import Kernel
from .target import Target

PRODUCTS: dict[str, tuple[int, dict[str, int]]] = {
    "f32": (70, {}),
    "bf16": (70, {"amx": 250, "avx512bf16": 120}),
    "int8": (60, {"amx": 400, "vnni": 200}),
}
"""Multiply-adds a nanosecond, in 512 bits: without and with a feature whose name contains the word."""
PRODUCTS_ALONE = 50
"""Those of depthwise convolutions."""
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
