"""The CUDA backend: the CPU's lowering with a GPU's templates.

Whatever has no template of its own here runs the CPU's kernel of one lane, a thread for each iteration of its parallel
loops (grid.py). C ops run on the host, in memory that both sides see.
"""

from __future__ import annotations

from ...compiler.errors import UnsupportedError
from ...compiler.ir import Graph, Value
from ...passes.regions import Region
from ..cpu import Lowering, load_registries
from ..fallback import Fallback
from ..planning import FirstGuess, Planner
from ..steps import Kernel, Lowered
from .target import CudaTarget
from .templates import TEMPLATES, has_template


def lower(
    graph: Graph, target: CudaTarget, fallback: Fallback | None = None, planner: Planner | None = None
) -> Lowered:
    """Steps for a whole graph. Raises UnsupportedError as the CPU's `lower` does."""
    load_registries()
    return _CudaLowering(target, graph, fallback, planner or FirstGuess()).lowered(graph)


class _CudaLowering(Lowering):
    templates = TEMPLATES
    has_template = staticmethod(has_template)
    in_place = False

    def group(self, region: Region) -> Kernel | None:
        """The region with a thread an element."""
        from .elementwise import ThreadGroup

        if not self.is_group(region):
            return None
        try:
            built = ThreadGroup(region.nodes, region.inputs, region.outputs, self.target)
            func = built.build(parallel=True)
        except UnsupportedError:
            return None
        params: list[Value] = [*built.inputs, *built.outputs]
        return Kernel(region.name, func, params, list(built.outputs), built.dims.symbols, "threads")
