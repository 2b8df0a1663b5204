"""How near kernels, or shapes, are to each other: by the numbers in their texts.

A plan and a spec print as Python expressions, `ConvPlan(tile=RegisterTile(rows=6, ...), height=1)`; each number in
there is a coordinate, compared by ratio.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache

UNKNOWN = 128
"""Stands for a size known only at run time."""
MISSING, OTHER_KIND = 2.0, 8.0
"""Distance between a number and none, and between different kinds of things; one doubling of a number is 1."""

Features = Mapping[str, float]


@lru_cache(maxsize=1 << 16)
def features(text: str) -> Features:
    """The numbers in a candidate's or a spec's text by their place; "kind" places name the classes and families.

    >>> features("conv ConvPlan(rows=6, clip=False)")
    {'kind:conv': 1.0, 'kind:ConvPlan': 1.0, 'rows': 6.0, 'clip': 0.0}
    """
    head, bracket, rest = text.partition("(")
    *family, name = head.split()
    found = {f"kind:{' '.join(family)}": 1.0} if family else {}
    try:
        tree = ast.parse(name + bracket + rest, mode="eval").body
    except SyntaxError:
        return found | {f"kind:{name}": 1.0}
    return found | dict(_numbers(tree, ""))


def _numbers(node: ast.expr, place: str) -> Iterator[tuple[str, float]]:
    if isinstance(node, ast.Call):
        yield f"kind:{place}{ast.unparse(node.func)}", 1.0
        for keyword in node.keywords:
            yield from _numbers(keyword.value, f"{place}.{keyword.arg}" if place else str(keyword.arg))
    elif isinstance(node, (ast.Tuple, ast.List)):
        for i, element in enumerate(node.elts):
            yield from _numbers(element, f"{place}.{i}")
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield f"kind:{place}={node.value}", 1.0
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield place, float(node.value)
    elif not isinstance(node, ast.Constant):
        yield place, float(UNKNOWN)


def distance(a: str, b: str) -> float:
    """How far two candidates or specs are apart: doublings of their numbers, summed."""
    return _distance(features(a), features(b))


def _distance(a: Features, b: Features) -> float:
    total = 0.0
    for place in a.keys() | b.keys():
        if place.startswith("kind:"):
            total += OTHER_KIND * (place not in a or place not in b)
        elif place not in a or place not in b:
            total += MISSING
        else:
            total += abs(math.log2((1 + abs(a[place])) / (1 + abs(b[place]))))
    return total
