"""Quantized models of every make, brought to one form before any other pass sees them.

After it, an activation is uint8 between QuantizeLinear and DequantizeLinear, weights are int8 without zero point behind
a DequantizeLinear, and products of integers known as such are optc.MatMulInteger and optc.ConvInteger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ....compiler.ir import Graph
from ...base import PassContext, register_pass
from ...rewrite import Rule, apply_rules, explain
from ...simplify.fold import FoldConstants
from .dynamic import DynamicQuantizeLstm, DynamicQuantizeMatMul, MatMulIntegerToFloat
from .integer_ops import AsymmetricProduct, ConvInteger, MatMulInteger
from .microsoft import MicrosoftQdq, NhwcMaxPool, QGemm, QLinear
from .parameters import ExplicitZeroPoint, MovedWeights, ScalarParameters, SignedWeights
from .qoperator import QLinearConv, QLinearMatMul
from .signed import make_unsigned

FORMS: tuple[Rule, ...] = (
    MicrosoftQdq(), QLinearConv(), QLinearMatMul(), QLinear(), QGemm(), NhwcMaxPool(),
    MatMulIntegerToFloat(), DynamicQuantizeMatMul(), DynamicQuantizeLstm(),
)  # fmt: skip
"""Ops no other pass should see."""

PARAMETERS: tuple[Rule, ...] = (ScalarParameters(), ExplicitZeroPoint(), MovedWeights(), SignedWeights())
INTEGERS: tuple[Rule, ...] = (MatMulInteger(), ConvInteger())
_QDQ = ("QuantizeLinear", "DequantizeLinear")


@register_pass
@dataclass(frozen=True)
class NormalizeQuantized:
    """Rewrites QOperator, integer, dynamic and com.microsoft forms; a float model is left as it is.

    A node in a form that no rule takes stays and is noted: it is compiled as plain loops, or refused when lowered.
    """

    name: ClassVar[str] = "normalize-quantized"
    rules: ClassVar[tuple[Rule, ...]] = (*FORMS, *PARAMETERS, *INTEGERS, AsymmetricProduct())

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        known = set(_QDQ).union(*map(_roots, (*FORMS, *INTEGERS)))
        if not any(n.op in known for n in graph.all_nodes()):
            return False
        changed = FoldConstants().run(graph, ctx)  # weights that are quantized, or transposed, in the model
        changed |= apply_rules(graph, (*FORMS, *PARAMETERS), ctx)
        signed = make_unsigned(graph)
        ctx.count("unsigned-activations", signed)
        changed |= apply_rules(graph, (*INTEGERS, AsymmetricProduct()), ctx)
        ctx.notes += _left(graph)
        return changed or signed > 0


def _roots(rule: Rule) -> set[str]:
    return {op for pattern in rule.patterns for op in pattern.ops}


def _left(graph: Graph) -> Iterator[str]:
    """A note for each rule that did not take every node it is about."""
    present = {n.op for n in graph.all_nodes()}
    for rule in (*FORMS, *INTEGERS):
        if _roots(rule) & present:
            found = explain(rule, graph)
            yield f"{found.node} keeps its quantized form: {found.reason}"
