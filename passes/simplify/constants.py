"""Constant sharing: equal constants become one value, so that equal nodes over them become equal too."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.ir import Graph, Value
from ..base import PassContext, register_pass

_SAMPLES = 64  # elements compared before all are, so that weights are rarely read


@register_pass
@dataclass(frozen=True)
class ShareConstants:
    """Makes constants of equal dtype, shape and bytes one."""

    name: ClassVar[str] = "share-constants"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        groups: dict[object, list[Value]] = defaultdict(list)
        shared = 0
        for value in graph.constants():
            data = value.data
            if data is None or data.dtype == object:
                continue
            group = groups[value.type, _sample(data)]
            twin = next((v for v in group if v.data is not None and _equal(v.data, data)), None)
            if twin is None:
                group.append(value)
            else:
                graph.replace_uses(value, twin)
                shared += 1
        ctx.count(self.name, shared)
        return False  # the graph is the same by value


def _sample(data: np.ndarray) -> bytes:
    flat = data.reshape(-1) if data.flags.c_contiguous else data.ravel()
    return bytes(flat[:: max(1, flat.size // _SAMPLES)].tobytes())


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Bytes compared, so that -0.0 is not 0.0 and a NaN is itself."""
    if a is b:
        return True
    return (
        bool(np.array_equal(np.ascontiguousarray(a).view(np.uint8), np.ascontiguousarray(b).view(np.uint8)))
        if (a.ndim)
        else a.tobytes() == b.tobytes()
    )
