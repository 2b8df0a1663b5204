"""Pruning: weights to zero, and channels cut out for real.

spec.py reads what the user wants, channels.py says what a channel is, rules.py and the rooms it names carry channels
through ops (ADD A PRUNING RULE there), selection.py chooses which go, shrink.py cuts them, report.py tells.
"""

from __future__ import annotations

from ...compiler.ir import Graph
from ..base import PassContext, run_passes
from ..simplify.dead_code import DeadCode
from ..simplify.fold import FoldConstants
from .report import GroupReport, PruneReport, costs
from .rules import find_channels
from .selection import Group, select
from .shrink import shrink, zero_weights
from .spec import CutChannels, ZeroWeights, parse_spec

__all__ = ["CutChannels", "GroupReport", "PruneReport", "ZeroWeights", "parse_spec", "prune"]


def prune(graph: Graph, spec: str) -> PruneReport:
    """Prunes an imported graph, in place, as a spec says (spec.py has the grammar).

    Cutting channels folds constants first, so that sizes which are known are plain numbers. The outputs keep their
    shapes. Raises UsageError for a spec that cannot be read.
    """
    parts = parse_spec(spec)
    if any(isinstance(part, CutChannels) for part in parts):
        run_passes(graph, (DeadCode(), FoldConstants(), DeadCode()), PassContext())
    macs, parameters = costs(graph)
    report = PruneReport(spec, (macs, macs), (parameters, parameters))
    for part in parts:
        if isinstance(part, ZeroWeights):
            report.zeros = zero_weights(graph, part)
        else:
            _cut(graph, part, report)
    after = costs(graph)
    report.macs, report.parameters = (macs, after[0]), (parameters, after[1])
    return report


def _cut(graph: Graph, spec: CutChannels, report: PruneReport) -> None:
    channels = find_channels(graph)
    kept, groups = select(channels, spec)
    report.groups += [_report(group) for group in groups]
    report.left += [(node.name, reason) for node, reason in channels.left.items()]
    if not kept.mask.all():
        shrink(channels, kept)


def _report(group: Group) -> GroupReport:
    names = tuple(dict.fromkeys(node.name for node in group.makers))
    before = group.total * group.width
    return GroupReport(names, before, before - group.cut * group.width, tuple(group.reasons))
