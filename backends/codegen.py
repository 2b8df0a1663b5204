"""From TIR functions to one object file with a plain C interface that needs nothing of TVM when it runs.

A kernel is a PrimFunc whose parameters are buffers; the int64 variables in their shapes are its dims. It is exported as
`int32_t NAME(T0* buffer0, ..., int64_t dim0, ...)` and returns 0. Parallel loops call through the weak data symbol
`__TVMBackendParallelLaunch` (`int (*)(int (*task)(int id, {void*; int32_t num_task}*, void*), void*, int num_task)`),
which the runtime must fill before the first call. Allocations of more than STACK_BYTES call TVM's workspace hooks,
which no runtime of ours provides: templates take a workspace parameter instead.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType

from .isa.bf16 import lower_rounding, with_products
from .kernels.bindings import to_locals
from .kernels.builder import FEATURES, WORKSPACE, itemsize
from .target import Target

# Ctrl-C while TVM calls back into Python would else come out as a RuntimeError.
tvm_ffi.register_error("KeyboardInterrupt", KeyboardInterrupt)

STACK_BYTES = 16 << 10
"""Local arrays up to this size live on the stack."""


@dataclass(frozen=True)
class Signature:
    """The parameters of a kernel in the order of its C function: buffers, then dims.

    `workspace` is the last buffer if that is scratch memory, else None; its shape, an expression of the dims, says how
    many elements the caller provides.
    """

    buffers: tuple[Any, ...]
    dims: tuple[Any, ...]
    workspace: Any | None


def signature(func: Any) -> Signature:
    """The buffers of a kernel and its dims: declared ones first, then those met in the buffers' shapes."""
    buffers = tuple(p for p in func.params if _is_buffer(p))
    dims = {p: None for p in func.params if not _is_buffer(p)}
    for param in buffers:
        for extent in param.shape:
            dims.update(dict.fromkeys(_variables(extent)))
    scratch = buffers[-1] if buffers and buffers[-1].name == WORKSPACE else None
    return Signature(buffers, tuple(dims), scratch)


def own_features(func: Any) -> tuple[str, ...]:
    """CPU features that this kernel needs and code of its target in general does not: tile registers."""
    return tuple(func.attrs[FEATURES].split()) if func.attrs and FEATURES in func.attrs else ()


def compile_kernels(kernels: Mapping[str, Any], target: Target) -> bytes:
    """One ELF object with each kernel as the C function that its key names."""
    module = tvm.IRModule({name: _c_function(name, func) for name, func in kernels.items()})
    host = target.tvm()
    module = tirx.transform.BindTarget(host.with_host(host))(module)
    library = tvm.get_global_func("target.build.llvm")(_lower(module, target), host)
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        path = Path(folder, "kernels.o")
        library.write_to_file(str(path))
        return path.read_bytes()


def _is_buffer(param: Any) -> bool:
    return isinstance(param.ty, tirx.BufferType)


def _variables(expr: Any) -> list[Any]:
    """The variables of an expression in the order they occur."""
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, (tirx.Var, found.append))
    return found


def _c_function(name: str, func: Any) -> Any:
    """The kernel with its dims as explicit parameters and every buffer aligned to its element only."""
    known = signature(func)
    loose = [(b, _realigned(b)) for b in known.buffers if b.ty.data_alignment != itemsize(str(b.dtype))]

    def replaced(var: Any) -> Any:
        return next((new for old, new in loose if old.same_as(var)), var)

    body = tvm_ffi.structural_map(func.body, (tirx.Var, replaced)) if loose else func.body
    params = [replaced(b) for b in known.buffers]
    return tirx.PrimFunc([*params, *known.dims], body, None, func.attrs).with_attr("global_symbol", name)


def _realigned(param: Any) -> Any:
    dtype = str(param.dtype)
    return tirx.decl_buffer(param.shape, dtype, name=param.name, data_alignment=itemsize(dtype))


def _lower(module: Any, target: Target) -> Any:
    """Lowers to what LLVM code generation takes. Functions made of schedulable blocks first lose those."""
    blocks = [gv for gv, f in module.functions_items() if _has_blocks(f)]
    passes = [*(_block_passes() if blocks else []), *_loop_passes(target)]
    with tvm.transform.PassContext(opt_level=3):
        return tvm.ir.transform.Sequential(passes)(module)


def _has_blocks(func: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(func.body, (s_tir.SBlock, found.append))
    return bool(found)


def _block_passes() -> list[Any]:
    s = s_tir.transform
    return [
        s.CanonicalizeLoop(),
        s.LowerInitBlock(),
        s.PlanAndUpdateBufferAllocationLocation(),
        s.ConvertBlocksToOpaque(),
        s.CompactBufferAllocation(),
        s.LowerMatchBuffer(),
        s.LowerOpaqueBlock(),
    ]


def _loop_passes(target: Target) -> list[Any]:
    """No StmtSimplify and no RemoveNoOp: they rewrite floats as if they were reals (a + b - b to a)."""
    t = tirx.transform
    return [
        t.FlattenBuffer(),
        t.VectorizeLoop(True),
        t.UnrollLoop(),
        each_function("BFloat16", lambda func: with_products(lower_rounding(func, target))),
        each_function("VectorIndices", _vector_indices),
        s_tir.transform.RewriteUnsafeSelect(),
        each_function("StackAllocation", _on_stack),
        each_function("CInterface", _raw_pointers),
        t.LowerTVMBuiltin(),
        t.LowerIntrin(),
        each_function("BindingsToLocals", to_locals),
        each_function("StackAllocation", _on_stack),
    ]


def each_function(name: str, rewrite: Any) -> Any:
    """A TVM pass that rewrites every function of a module."""

    def run(module: Any, _context: Any) -> Any:
        for gv, func in module.functions_items():
            module[gv] = rewrite(func)
        return module

    return tvm.transform.module_pass(run, opt_level=0, name=name)


def _vector_indices(func: Any) -> Any:
    """Brings vector indices to the form base + (0, 1, 2...), which alone becomes a vector access."""
    analyzer = tvm.sym.Analyzer()

    def plain(indices: Any) -> list[Any]:
        return [i if isinstance(i, (tirx.Ramp, tirx.IntImm, tirx.Var)) else analyzer.simplify(i) for i in indices]

    def scattered(access: Any) -> bool:
        return any(i.ty.dtype.lanes > 1 and not isinstance(i, tirx.Ramp) for i in access.indices)

    def load(access: Any) -> Any:
        return tirx.BufferLoad(access.source, plain(access.indices)) if scattered(access) else access

    def store(access: Any) -> Any:
        return tirx.BufferStore(access.buffer, access.value, plain(access.indices)) if scattered(access) else access

    return func.with_body(tvm_ffi.structural_map(func.body, [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store)]))


def _on_stack(func: Any) -> Any:
    """Keeps small local arrays on the stack; TVM would allocate all beyond 1 KiB from the heap."""

    def visit(statement: Any) -> Any:
        array = statement.buffer
        known = all(isinstance(e, tirx.IntImm) for e in array.shape)
        if not known or math.prod(map(int, array.shape)) * itemsize(str(array.dtype)) > STACK_BYTES:
            return statement
        return tirx.AllocBuffer(array, {"disable_lower_builtin": tirx.IntImm("int32", 1)})

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.AllocBuffer, visit)))


def pointer_params(func: Any) -> tuple[list[Any], list[Any]]:
    """The parameters of a function with plain pointers for its buffers, and what declares those as buffers inside."""
    params, declarations = [], []
    for param in func.params:
        if _is_buffer(param):
            pointer = tirx.Var(param.name + "_ptr", PointerType(PrimType(str(param.dtype)), "global"))
            declarations.append(tirx.DeclBuffer(param, data=pointer))
            params.append(pointer)
        else:
            params.append(param)
    return params, declarations


def _raw_pointers(func: Any) -> Any:
    """Buffer parameters become plain pointers; the function returns int32 0."""
    params, declarations = pointer_params(func)
    body = func.body
    for key, value in (("device_type", 1), ("device_id", 0)):
        body = tirx.AttrStmt("default", key, tirx.IntImm("int32", value), body)
    body = tirx.SeqStmt([*declarations, body, tirx.Return(tirx.IntImm("int32", 0))])
    without_host = dict(func.attrs["target"].export())
    without_host.pop("host", None)
    raw = tirx.PrimFunc(params, body, PrimType("int32"), func.attrs)
    return raw.with_attr("target", tvm.target.Target(without_host))
