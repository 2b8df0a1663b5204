"""What a pruning did, for people and machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...compiler.ir import Graph
from ...compiler.macs import total_macs
from ...compiler.types import Dim, DType, dim_text, free_symbols, substitute


@dataclass(frozen=True)
class GroupReport:
    """A group of channels that are made together by `makers` (node names): `before` and `after` are its channels in
    the widest of them; `reasons` say why some, or all, had to stay."""

    makers: tuple[str, ...]
    before: int
    after: int
    reasons: tuple[str, ...] = ()


@dataclass
class PruneReport:
    """Costs are (before, after). MACs are multiply-adds of convolutions and products, expressions where dims are
    symbolic; `zeros` is the number of weights that are zero and the number of all, where weights were zeroed."""

    spec: str
    macs: tuple[Dim, Dim]
    parameters: tuple[int, int]
    groups: list[GroupReport] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    """Nodes with weights that were left alone, and why."""
    zeros: tuple[int, int] | None = None

    @property
    def macs_share(self) -> float:
        """MACs after over before, every symbolic dim taken as 1024."""
        before, after = (_number(m) for m in self.macs)
        return after / before if before else 1.0

    def lines(self) -> list[str]:
        """The report as sentences, one a line."""
        (m0, m1), (p0, p1) = self.macs, self.parameters
        share = f"{100 * p1 / p0:.1f}%" if p0 else "100%"
        macs = f"{100 * self.macs_share:.1f}%"
        if len(_text(m0)) <= 40:
            macs = f"{_text(m0)} -> {_text(m1)} ({macs})"
        lines = [f"pruned by {self.spec}: MACs {macs}, parameters {p0:,} -> {p1:,} ({share})"]
        if self.zeros is not None:
            zeros, weights = self.zeros
            lines.append(f"{zeros:,} of {weights:,} weights are zero ({100 * zeros / max(weights, 1):.1f}%)")
        for group in self.groups:
            names = _names(group.makers)
            why = f": {'; '.join(group.reasons)}" if group.reasons else ""
            if group.after < group.before:
                lines.append(f"{names}: {group.before} channels -> {group.after}")
            elif group.reasons:
                lines.append(f"{names}: all {group.before} channels stay{why}")
            else:
                lines.append(f"{names}: all {group.before} channels stay: fewer would not fill whole vectors")
        lines += [f"{node}: left alone: {reason}" for node, reason in self.left]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "spec": self.spec,
            "macs": [m if isinstance(m, int) else dim_text(m) for m in self.macs],
            "macs_share": self.macs_share,
            "parameters": list(self.parameters),
            "groups": [asdict(group) for group in self.groups],
            "left": [{"node": node, "reason": reason} for node, reason in self.left],
            "zeros": None if self.zeros is None else list(self.zeros),
        }


def costs(graph: Graph) -> tuple[Dim, int]:
    """MACs and parameters (elements of constants, shapes and the like left out) of a graph."""
    sizes = (
        v.data.size for v in graph.constants() if v.data is not None and v.type.dtype not in (DType.I32, DType.I64)
    )
    return total_macs(graph), sum(sizes)


def _number(dim: Dim) -> float:
    (number,) = substitute((dim,), {s: 1024 for s in free_symbols((dim,))})
    return float(number)


def _text(dim: Dim) -> str:
    return f"{dim:,}" if isinstance(dim, int) else dim_text(dim)


def _names(makers: tuple[str, ...]) -> str:
    few = ", ".join(makers[:4])
    return few if len(makers) <= 4 else f"{few} and {len(makers) - 4} more"
