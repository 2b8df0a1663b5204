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

PRODUCTS = {"f32": 40, "bf16": 150, "int8": 200}
"""Multiply-adds a nanosecond, in 512 bits; bf16 and int8 with the instructions for them."""
PRODUCTS_ALONE = {"f32": 10, "bf16": 10, "int8": 60}
"""Those of depthwise convolutions."""
BYTES = 8
"""A nanosecond, to and from the caches."""
STEEP = frozenset(("Attention", "Erf", "Exp", "Gelu", "Pow", "Sigmoid", "Softmax", "Swish", "Tanh"))
"""Ops that take about a nanosecond an element."""


def nanoseconds(step: Kernel, target: Target) -> Dim:
    """The estimate, an expression if dims are symbolic."""
    known = cost(step)
    rates = PRODUCTS_ALONE if known.op == "Depthwise" else PRODUCTS
    time: Dim = _ratio(known.nbytes, BYTES)
    if known.macs != 0:
        time = time + _ratio(known.macs, max(1, rates[known.kind] * target.lanes // 16))
    return sum((_elements(node) for node in nodes_of(step) if node.op.removeprefix("optc.") in STEEP), start=time)


def _elements(node: Node) -> Dim:
    return node.outputs[0].type.numel if node.outputs[0].type.shape is not None else 0


def _ratio(amount: Dim, rate: int) -> Dim:
    return amount // rate if isinstance(amount, int) else amount / rate
