"""Pruning specs as text: `channels=50%,criterion=l1;weights<1e-3`.

SPEC   := PART (";" PART)*                  parts are applied in the order written
PART   := "weights<" NUMBER                 weights of a smaller magnitude become zero
        | "channels=" RATIO ("," OPTION)*   whole channels are cut
RATIO  := NUMBER "%" | NUMBER               the share to cut, 0 < share < 1 (50% or 0.5)
OPTION := "criterion=" ("l1" | "l2") | "schedule=" ("uniform" | "balanced") | "align=" COUNT
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...compiler.errors import UsageError

_HINT = "Examples: channels=50%,criterion=l1 or weights<1e-3; parts are joined by ';'."


@dataclass(frozen=True)
class ZeroWeights:
    """Weights whose magnitude is below `threshold` become zero."""

    threshold: float


@dataclass(frozen=True)
class CutChannels:
    """Cuts the share `ratio` of the channels, the least by `criterion` (the norm of their weights) first.

    Under `schedule` "uniform" every group of channels loses the same share, under "balanced" groups lose more the
    less they matter (see selection.py). What is kept of a group is rounded up to a multiple of `align` channels, of
    twice that where 8 times `align` or more are kept, so that kernels fill their vectors; 1 turns that off.
    """

    ratio: float
    criterion: str = "l2"
    schedule: str = "uniform"
    align: int = 8


Part = ZeroWeights | CutChannels

_CHOICES = {"criterion": ("l1", "l2"), "schedule": ("uniform", "balanced")}


def parse_spec(text: str) -> tuple[Part, ...]:
    """Reads a spec. Raises UsageError saying what was expected and what was found."""
    parts = [part.strip() for part in text.split(";")]
    return tuple(_part(part) for part in parts)


def _part(text: str) -> Part:
    if text.startswith("weights"):
        name, sign, value = text.partition("<")
        if name.strip() != "weights" or not sign:
            raise UsageError("not a pruning spec", expected="weights<NUMBER", found=text, hint=_HINT)
        threshold = _number(value, "a threshold above 0")
        if not 0 < threshold < math.inf:
            raise UsageError("pruning threshold", expected="a number above 0", found=value.strip(), hint=_HINT)
        return ZeroWeights(threshold)
    head, *options = [item.strip() for item in text.split(",")]
    name, sign, value = head.partition("=")
    if name.strip() != "channels" or not sign:
        raise UsageError("not a pruning spec", expected="channels=RATIO or weights<NUMBER", found=text, hint=_HINT)
    return _with_options(_ratio(value.strip()), options)


def _with_options(ratio: float, options: list[str]) -> CutChannels:
    found: dict[str, str] = {}
    align = 8
    for option in options:
        key, _, value = (piece.strip() for piece in option.partition("="))
        if key in found or key not in (*_CHOICES, "align"):
            known = "criterion, schedule or align, each at most once"
            raise UsageError("pruning option", expected=known, found=option, hint=_HINT)
        if key == "align":
            if not value.isdigit() or int(value) < 1:
                raise UsageError("pruning option align", expected="a count of at least 1", found=value, hint=_HINT)
            align = int(value)
        elif value not in _CHOICES[key]:
            expected = " or ".join(_CHOICES[key])
            raise UsageError(f"pruning option {key}", expected=expected, found=value, hint=_HINT)
        found[key] = value
    return CutChannels(ratio, found.get("criterion", "l2"), found.get("schedule", "uniform"), align)


def _ratio(text: str) -> float:
    expected = "a share between 0 and 1, as 50% or 0.5"
    share = _number(text.removesuffix("%"), expected) / (100 if text.endswith("%") else 1)
    if not 0 < share < 1:
        raise UsageError("pruning ratio", expected=expected, found=text, hint=_HINT)
    return share


def _number(text: str, expected: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError("not a number in a pruning spec", expected=expected, found=text.strip(), hint=_HINT) from None
