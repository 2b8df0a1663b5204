"""The orders in which passes run, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..compiler.errors import UsageError
from ..compiler.ir import Graph
from .base import Pass, PassContext, run_passes
from .fusion import activation, affine, attention, embedding, gelu, matmul, norm, padding, qdq, softmax, spatial
from .fusion.expand import ExpandFused
from .fusion.siblings import MergeSiblings
from .rewrite import RULES, Explanation, Rewrite, explain
from .simplify import arithmetic, identities, transposes, views
from .simplify.constants import ShareConstants
from .simplify.control import InlineControl
from .simplify.cse import CommonSubexpressions
from .simplify.dead_code import DeadCode
from .simplify.fold import FoldConstants

_RULE_FILES = (
    activation, affine, arithmetic, attention, embedding, gelu, identities, matmul, norm, padding, qdq, softmax,
    spatial, transposes, views,
)  # fmt: skip
"""Imported so that their rules are registered."""

_CLEAN = (
    "no-op", "concat-empty", "split-concat", "double-inverse", "view-of-view", "static-reshape",
    "transpose-of-transpose", "cast-of-cast", "slice-of-slice", "shape-element", "gather-of-shape",
    "shape-of-input", "reduce-keeping-dims",
)  # fmt: skip
_ARITHMETIC = ("constant-chain", "divide-exactly", "max-as-relu", "merge-clips")
_FOLDED_INTO_WEIGHTS = (
    "linear-batch-norm", "linear-affine", "scaled-input", "shifted-input", "pad-into-window",
    "one-hot-product", "pointwise-of-table",
)  # fmt: skip
_GEMM = ("matmul-bias", "gemm-sum", "gemm-transpose")
_FROM_PIECES = (
    "gelu-erf", "gelu-tanh", "layer-norm", "norm-scale", "norm-bias", "softmax", "hard-sigmoid", "hard-swish-split",
    "leaky-relu", "global-pool", "depth-to-space",
)  # fmt: skip
ON_BYTES = ("double-qdq", "sink-dequantize", "concat-dequantize", "hoist-quantize", "clip-into-quantize")
"""Rules that keep quantized tensors in bytes between integer layers."""
_FOR_BACKEND = (
    "divide-by-constant", "gemm-of-rows", "rms-norm", "hard-swish", "swish", "mish", "transpose-as-reshape",
    "batch-norm-affine", "pointwise-of-table", *ON_BYTES,
)  # fmt: skip
_ATTENTION = ("attention", "attention-scale", "attention-layout", "attention-output-layout", "grouped-query")


def _round(*rules: str) -> tuple[Pass, ...]:
    """Rules, then what they make possible."""
    return Rewrite(rules), FoldConstants(), ShareConstants(), CommonSubexpressions(), DeadCode()


SIMPLIFY: tuple[Pass, ...] = (
    DeadCode(),
    FoldConstants(),
    InlineControl(),
    *_round(*_CLEAN),
    InlineControl(),
    *_round(*_CLEAN, *_ARITHMETIC, *_FROM_PIECES),
    *_round(*_CLEAN, *_FOLDED_INTO_WEIGHTS),
    *_round(*_CLEAN, *_GEMM, "pointwise-of-table", *transposes.SINK_RULES),
)
"""For export: ONNX ops only, and none that ONNX Runtime runs slower than what it replaces."""

OPTIMIZE: tuple[Pass, ...] = (
    *SIMPLIFY[:-5],
    Rewrite((*_CLEAN, *_ATTENTION)),
    *_round(*_CLEAN, *_GEMM, *_FOR_BACKEND, *_ATTENTION, *transposes.SINK_RULES),
    MergeSiblings(),
    *_round(*_CLEAN, "matmul-transpose", "matmul-scale"),
)
"""For our backend, which fuses pointwise neighbours itself and has kernels for optc's fused ops."""


@dataclass(frozen=True)
class SimplifyReport:
    """What simplification did: nodes by op before and after (subgraphs included), rewrites by rule, notes."""

    before: Counter[str]
    after: Counter[str]
    applied: Counter[str]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[int, int]:
        """Number of nodes before and after."""
        return self.before.total(), self.after.total()

    def __str__(self) -> str:
        before, after = self.nodes
        return f"{before} nodes to {after} in {self.seconds:.2f} s"


def simplify(graph: Graph, passes: Sequence[Pass] = SIMPLIFY, ctx: PassContext | None = None) -> SimplifyReport:
    """Runs a pipeline in place. Outputs, their names and dynamic dims stay. Raises OptcError if a pass fails."""
    ctx = ctx or PassContext()
    before = Counter(n.op for n in graph.all_nodes())
    run_passes(graph, passes, ctx)
    after = Counter(n.op for n in graph.all_nodes())
    return SimplifyReport(before, after, ctx.applied, sum(ctx.seconds.values()), tuple(ctx.notes))


def explain_rule(name: str, graph: Graph) -> Explanation:
    """Why the rule `name` does, or does not, apply to a graph. Raises UsageError for an unknown rule."""
    if name not in RULES:
        raise UsageError(f"there is no rule {name!r}", hint=f"Known are {', '.join(sorted(RULES))}.")
    return explain(RULES[name], graph)


__all__ = ["ON_BYTES", "OPTIMIZE", "SIMPLIFY", "ExpandFused", "SimplifyReport", "explain_rule", "simplify"]
