"""What a kernel builder is given besides its node."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..target import Target
from .dims import DimVars


@dataclass
class BuildContext:
    """The target, and the dim variables of the kernel being built."""

    target: Target
    dims: DimVars = field(default_factory=DimVars)
