"""What quantization did, for the summary and for diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...compiler.ir import Node

if TYPE_CHECKING:
    from .budget import Walk
    from .diagnose import Diagnosis
    from .placement import Placement


class Kept(NamedTuple):
    """What a step did to a layer: its signal-to-noise ratio in dB without and with it, and whether it was kept."""

    before: float
    after: float
    kept: bool


@dataclass
class QuantizeReport:
    """What was done, for the summary."""

    layers: list[str]
    values: int
    samples: int
    synthetic: bool = False
    float_layers: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    steps: dict[str, dict[str, Kept]] = field(default_factory=dict)
    """What each algorithm did, by layer and by the algorithm's name."""
    walk: Walk | None = None
    diagnosis: Diagnosis | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    """How each output is compared with the float model's (see agreement.py)."""

    def record(self, algorithm: str, steps: Mapping[Node, Kept]) -> None:
        """Notes what an algorithm did to layers. Gains are told as what they are: of those kept because they gained."""
        for node, step in steps.items():
            self.steps.setdefault(node.name, {})[algorithm] = step
        gains = [s.after - s.before for s in steps.values() if s.kept]
        if gains:
            text = f"{algorithm}: kept in {len(gains)} of {len(steps)} layers"
            self.notes.append(f"{text}, {np.mean(gains):+.1f} dB in the mean (on the samples that decided it)")

    def took(self, walk: Walk, placement: Placement) -> None:
        """Notes what the accuracy budget left float."""
        self.walk, self.float_layers = walk, self.float_layers | set(walk.best.float_layers)
        self.layers, self.values = [n.name for n in placement.layers], len(placement.values)
        self.notes += walk.lines()

    def explained(self, diagnosis: Diagnosis, outputs: Mapping[str, str]) -> None:
        """Notes what the diagnosis found."""
        self.diagnosis, self.outputs = diagnosis, dict(outputs)
        self.notes += diagnosis.lines()

    @property
    def interrupted(self) -> bool:
        """Whether the search for layers to leave float was ended before its time."""
        return self.walk is not None and self.walk.interrupted

    def as_dict(self) -> dict[str, Any]:
        """For an artifact's manifest: the rows of the diagnosis are under `layers`."""
        explained = self.diagnosis.as_dict() if self.diagnosis else {"layers": [], "outputs_db": {}}
        walked = self.walk.as_dict() if self.walk else None
        facts = {"samples": self.samples, "synthetic": self.synthetic, "float_layers": sorted(self.float_layers)}
        return facts | explained | {"outputs": self.outputs, "budget": walked}

    def lines(self) -> list[str]:
        """For people."""
        data = "synthetic samples: ACCURACY IS UNCHECKED, pass real ones" if self.synthetic else "samples"
        return [
            f"int8: {len(self.layers)} layers, {self.values} values, calibrated on {self.samples} {data}",
            *self.notes,
        ]
