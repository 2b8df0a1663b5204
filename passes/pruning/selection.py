"""Which channels go: units and groups out of labels, their scores, and the schedules.

The score of a unit is its magnitude (Li et al. 2017, "Pruning Filters for Efficient ConvNets"): for every constant
that makes its channels, the norm (L1 or L2) of the unit's slices over the mean of that among all units of the constant;
averaged over the constants. So scores are around 1 in every group, whatever the scale of its weights, and groups can
be compared.

Schedules, for a ratio r over groups of n units that may go:

    uniform    every group loses r n units, its least
    balanced   of all units of all groups the least go, in the order of their scores, until r of all channels are
               gone; but no group loses more than the share (1 + r) / 2 of its own
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ...compiler.ir import Node
from .channels import Channels, Cut, Kept
from .spec import CutChannels


@dataclass
class Group:
    """Units whose labels lie in the same sources. `makers` are the nodes of these, `units` the roots of the units that
    may go, `scores` theirs; `total` counts all its units, `width` the channels of a unit in its widest source."""

    makers: list[Node]
    units: np.ndarray
    scores: np.ndarray
    total: int
    width: int
    reasons: list[str]
    cut: int = 0

    def most(self, share: float, align: int) -> int:
        """How many units go if this share of them is to go, the rest rounded up to whole vectors of channels."""
        return self.aligned(math.floor(len(self.units) * share + 1e-9), align)

    def aligned(self, going: int, align: int) -> int:
        """The number of units, at most `going`, that leaves a whole number of vectors, and one channel at least."""
        going = min(going, self.total - 1)
        if align == 1 or going <= 0:
            return max(going, 0)
        kept = (self.total - going) * self.width
        step = math.lcm(2 * align if kept >= 8 * align else align, self.width)
        return max(0, self.total - math.ceil(kept / step) * step // self.width)


def find_groups(channels: Channels, roots: np.ndarray, criterion: str) -> list[Group]:
    """The groups of a graph, in its order, those included that cannot lose a unit."""
    reasons = _reasons(channels, roots)
    scores = _scores(channels, roots, criterion)
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for root, where in _sources_of(channels, roots).items():
        members[tuple(sorted(where))].append(root)
    groups = []
    for sources, units in members.items():
        free = np.array([u for u in units if u not in reasons], np.int64)
        widths = [len(s) // max(1, len(np.unique(s))) for s in (_span(channels, roots, i, units) for i in sources)]
        makers = list(dict.fromkeys(channels.sources[i].node for i in sources))
        why = list(dict.fromkeys(reasons[u] for u in units if u in reasons))
        groups.append(Group(makers, free, scores[free], len(units), max(widths), why))
    return groups


def _span(channels: Channels, roots: np.ndarray, source: int, units: list[int]) -> np.ndarray:
    """The roots of those labels of a source that belong to the units."""
    _, start, size = channels.sources[source]
    inside = roots[start : start + size]
    found: np.ndarray = inside[np.isin(inside, units)]
    return found


def _sources_of(channels: Channels, roots: np.ndarray) -> dict[int, set[int]]:
    """For each unit the sources its labels lie in."""
    found: dict[int, set[int]] = defaultdict(set)
    for index, (_, start, size) in enumerate(channels.sources):
        for root in np.unique(roots[start : start + size]).tolist():
            found[root].add(index)
    return found


def _reasons(channels: Channels, roots: np.ndarray) -> dict[int, str]:
    """Why a unit must stay, for all that must: the first pin on one of its labels."""
    found: dict[int, str] = {}
    for labels, reason in channels.pins:
        for root in np.unique(roots[labels]).tolist():
            found.setdefault(root, reason)
    return found


def _scores(channels: Channels, roots: np.ndarray, criterion: str) -> np.ndarray:
    """A score for each root (elsewhere meaningless)."""
    total, constants = np.zeros(channels.size), np.zeros(channels.size)
    for cut in channels.cuts:
        if cut.role != "makes":
            continue
        units, inverse = np.unique(roots[cut.labels], return_inverse=True)
        sums = np.zeros(len(units))
        np.add.at(sums, inverse, _magnitudes(cut, criterion))
        norms = np.sqrt(sums) if criterion == "l2" else sums
        total[units] += norms / (norms.mean() or 1.0)
        constants[units] += 1
    scores: np.ndarray = total / np.maximum(constants, 1)
    return scores


def _magnitudes(cut: Cut, criterion: str) -> np.ndarray:
    """For each slice of a cut constant the sum of its |w| or w^2."""
    data = np.asarray(cut.node.operand(cut.slot).data)
    rows = np.moveaxis(data, cut.axis, 0).reshape(len(cut.labels), -1).astype(np.float64)
    sums: np.ndarray = (rows**2 if criterion == "l2" else np.abs(rows)).sum(axis=1)
    return sums


def select(channels: Channels, spec: CutChannels) -> tuple[Kept, list[Group]]:
    """What is kept under a spec, and the groups with `cut` set to the number of units each loses."""
    roots = channels.roots()
    groups = find_groups(channels, roots, spec.criterion)
    balanced = _balanced(groups, spec.ratio) if spec.schedule == "balanced" else None
    gone = np.zeros(channels.size, bool)
    for index, group in enumerate(groups):
        wanted = group.most(spec.ratio, spec.align) if balanced is None else group.aligned(balanced[index], spec.align)
        group.cut = min(wanted, len(group.units))
        gone[group.units[np.argsort(group.scores, kind="stable")[: group.cut]]] = True
    _keep_one(channels, roots, gone, groups)
    return Kept(~gone[roots]), groups


def _balanced(groups: list[Group], ratio: float) -> list[int]:
    """How many units each group loses under the balanced schedule, before rounding."""
    order = sorted((score, i) for i, group in enumerate(groups) for score in np.sort(group.scores).tolist())
    budget = ratio * sum(len(group.units) * group.width for group in groups)
    bounds = [math.floor(len(group.units) * (1 + ratio) / 2) for group in groups]
    losing = [0] * len(groups)
    for _, i in order:
        if budget < groups[i].width:
            break
        if losing[i] < bounds[i]:
            losing[i] += 1
            budget -= groups[i].width
    return losing


def _keep_one(channels: Channels, roots: np.ndarray, gone: np.ndarray, groups: list[Group]) -> None:
    """No axis may end up empty (a part of a Split may lie in one group with others): its best unit stays."""
    home = {int(root): group for group in groups for root in group.units}
    worth = {int(root): score for group in groups for root, score in zip(group.units, group.scores, strict=True)}
    for axes in channels.axes.values():
        for labels in axes:
            if labels is not None and gone[roots[labels]].all():
                best = max(np.unique(roots[labels]).tolist(), key=lambda root: worth[root])
                gone[best] = False
                home[best].cut -= 1
