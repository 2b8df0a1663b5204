"""How a node becomes code: three registries that the program builder (program.py) asks in this order.

1. Templates (kernels/matmul.py, conv.py, ...): hot regions with an anchor and a fused epilogue. TIR.
2. Index definitions (`@defines`): an op whose output element is an expression of input elements at computed indices
   (pointwise ops, Transpose, Slice, Concat, Gather, Resize, ...). They compose: a whole region becomes one loop nest.
   Reductions and other loops that are plain but no pure index expression register a kernel with `@builds`. TIR.
3. C ops (`@c_op`): irregular or sequential ops, and forms whose parameters are known only when running (a Reshape to
   a computed shape, NonZero, TopK, Loop state, ...). C over tensor descriptors, shapes found at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..compiler.ir import Node

Expr = Any  # a TIR expression; TVM is imported only when code is generated
Index = Sequence[Expr]  # one int64 expression a dim of the output, logical row-major order
Element = Callable[[Index], Expr]  # the element of a tensor at an index


@dataclass(frozen=True)
class CCall:
    """One call of a C op: `int32_t FUNCTION(optc_context*, const optc_tensor* in, int32_t num_in, optc_tensor* out,
    int32_t num_out, const int64_t* ints, const double* floats)` defined in `source` (a file of kernels/c/).

    An omitted input has data NULL and rank -1. On entry each output has its dtype; where the compiler knows the shape,
    its shape and data too, else data is NULL: then the op sets shape and allocates data with optc_alloc. A failing op
    returns optc_fail(...). `ints` and `floats` hold the attributes in the order the C function documents.
    """

    function: str
    source: str
    ints: tuple[int, ...] = ()
    floats: tuple[float, ...] = ()


IndexDefinition = Callable[[Node, Sequence[Any]], Sequence[Element]]
KernelBuilder = Callable[..., Any]
CSelector = Callable[[Node], "CCall | None"]

INDEX_DEFINITIONS: dict[str, IndexDefinition] = {}
KERNEL_BUILDERS: dict[str, KernelBuilder] = {}
C_OPS: dict[str, CSelector] = {}

_F = TypeVar("_F", bound=Callable[..., Any])


def defines(*ops: str) -> Callable[[_F], _F]:
    """Registers an index definition: `f(node, inputs) -> [Element, ...]`, one Element an output.

    `inputs[i]` is None where omitted, else an object with `.type` (TensorType), `.shape` (dims as TIR int64
    expressions) and `__call__(index) -> Expr`. The definition returns None if this node's form (for example a
    runtime axis) has no index expression; the C op is asked then.
    """
    return _into(INDEX_DEFINITIONS, ops)


def builds(*ops: str) -> Callable[[_F], _F]:
    """Registers a kernel builder: `f(node, context) -> PrimFunc | None`, params: present inputs, then outputs."""
    return _into(KERNEL_BUILDERS, ops)


def c_op(*ops: str) -> Callable[[_F], _F]:
    """Registers a C op: `f(node) -> CCall | None`."""
    return _into(C_OPS, ops)


def _into(registry: dict[str, Any], ops: Sequence[str]) -> Callable[[_F], _F]:
    def add(function: _F) -> _F:
        for op in ops:
            if op in registry:
                raise ValueError(f"{op} is registered twice")
            registry[op] = function
        return function

    return add
