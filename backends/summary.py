"""What a compile tells its user: what was fused, what it became, what it costs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..compiler.macs import total_macs
from ..compiler.types import dim_text
from .steps import CCallStep, CopyRows, HostCall, Kernel, Lowered, View, Within
from .storage import all_steps
from .target import Target


def summarize(nodes_before: int, lowered: Lowered, context: Any, target: Target) -> dict[str, Any]:
    """Facts about a compilation, ready for JSON; `render` says them in lines."""
    graph = lowered.graph
    steps = list(all_steps(lowered.steps))
    kinds = Counter(_kind(step) for step in steps)
    macs = total_macs(graph)
    return {
        "model": graph.name,
        "target": target.name,
        "nodes_before": nodes_before,
        "nodes_after": len(graph),
        "steps": dict(sorted(kinds.items())),
        "rewrites": dict(context.applied.most_common()),
        "macs": macs if isinstance(macs, int) else dim_text(macs),
        "parameters": sum(int(v.data.size) for v in graph.constants() if v.data is not None),
        "fallback": [node for s in steps if isinstance(s, HostCall) for node in s.nodes],
        "notes": [*graph.metadata.get("warnings", "").splitlines(), *context.notes, *lowered.notes],
    }


_KERNEL_KINDS = {"group": "loop nest", "builder": "plain kernel"}


def _kind(step: object) -> str:
    if isinstance(step, Kernel):
        kind = step.provenance.split(" ")[0]
        return _KERNEL_KINDS.get(kind, kind)
    if isinstance(step, CCallStep):
        return "C op"
    if isinstance(step, View):
        return "view"
    if isinstance(step, Within):
        return "slice"
    if isinstance(step, CopyRows):
        return "copy"
    return type(step).__name__


def render(summary: dict[str, Any]) -> str:
    """The summary as a user reads it."""
    fused = ", ".join(f"{name} {count}" for name, count in list(summary["rewrites"].items())[:8])
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["steps"].items())
    macs = summary["macs"]
    lines = [
        f"{summary['model']} for {summary['target']}",
        f"  graph       {summary['nodes_before']} nodes -> {summary['nodes_after']}",
        f"  code        {kinds}",
        f"  parameters  {summary['parameters']:,}",
        f"  MACs        {macs if isinstance(macs, str) else format(macs, ',')}",
    ]
    if fused:
        lines.insert(2, f"  rewrites    {fused}")
    for name in summary["fallback"]:
        lines.append(f"  fallback    {name} runs on ONNX Runtime")
    lines += [f"  note        {note}" for note in summary["notes"]]
    return "\n".join(lines)
