"""A Pad goes into the convolution or pool behind it.

Conv(Pad(x, 0), pads=p)                -> Conv(x, pads=p+q)
MaxPool(Pad(x, -inf))                  -> MaxPool(x, pads=p+q)
AveragePool(Pad(x, 0), pads=0)         -> AveragePool(x, pads=q, count_include_pad=1)
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ...compiler.ir import Attr, Value
from ..facts import known_ints
from ..pattern import Op, scalar_of
from ..rewrite import Match, Rule, register_rule


@register_rule
class PadIntoWindow(Rule):
    name: ClassVar[str] = "pad-into-window"
    patterns: ClassVar[tuple[Op, ...]] = (
        Op(
            ("Conv", "MaxPool", "AveragePool"),
            Op("Pad", "x", "pads", name="pad", rest=True, attrs={"mode": lambda mode: mode in (None, "constant")}),
            rest=True,
        ),
    )

    def check(self, m: Match) -> str | None:
        if m.root.attrs.get("auto_pad", "NOTSET") != "NOTSET":
            return "the window pads automatically"
        if len(m.root.outputs) != 1 or m["x"].type.shape is None:
            return "indices are returned, or the rank is unknown"
        if m.node("pad").input(3) is not None:
            return "the Pad names its axes"
        pads = known_ints(m["pads"])
        rank = m["x"].type.rank
        if pads is None or any(p < 0 for p in pads) or any(pads[:2]) or any(pads[rank : rank + 2]):
            return "the pads are unknown, negative, or not of spatial dims"
        return self._value_misfit(m)

    def _value_misfit(self, m: Match) -> str | None:
        given = m.node("pad").input(2)
        value = 0.0 if given is None else scalar_of(given)
        if value is None:
            return "the value padded with is unknown"
        if m.root.op == "MaxPool":
            return None if value <= np.finfo(np.float32).min else "a MaxPool pads with minus infinity"
        if value != 0:
            return "the value padded with is not zero"
        if m.root.op == "AveragePool" and (any(self._own_pads(m)) or m.root.attrs.get("ceil_mode", 0)):
            return "the pool pads too, or rounds up"
        return None

    def rewrite(self, m: Match) -> Value:
        pads, rank = known_ints(m["pads"]) or [], m["x"].type.rank
        spatial = pads[2:rank] + pads[rank + 2 :]
        total = tuple(a + b for a, b in zip(self._own_pads(m), spatial, strict=True))
        attrs: dict[str, Attr] = {**m.root.attrs, "pads": total}
        if m.root.op == "AveragePool":
            attrs["count_include_pad"] = 1
        return m.emit(m.root.op, [m["x"], *m.root.inputs[1:]], attrs)

    def _own_pads(self, m: Match) -> tuple[int, ...]:
        pads = m.root.attrs.get("pads")
        return pads if isinstance(pads, tuple) else (0,) * (2 * (m["x"].type.rank - 2))
