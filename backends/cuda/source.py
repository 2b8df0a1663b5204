"""Device functions as CUDA C, printed by TVM's code generator, and the C stubs that launch them.

The C symbol of a kernel is the same as on a CPU, `int32_t NAME(void* buffer0, ..., int64_t dim0, ...)`; here it
enqueues the kernel's launches on the context's stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call

from ...compiler.errors import UnsupportedError
from ..cexpr import c_dim, c_symbol
from ..codegen import each_function, pointer_params, signature
from ..kernels.bindings import to_locals
from ..kernels.dims import dim_of
from ..kernels.exprs import dtype_of
from .grid import Launch, launches
from .target import CudaTarget

HEADER = Path(__file__).with_name("device.cuh")
DEVICE_CALL = 2
"""TVM's number for functions that are launched on a device (CallingConv::kDeviceKernelLaunch)."""


@dataclass(frozen=True)
class DeviceCode:
    """`source`: CUDA C of all device functions; `functions`: their names, by number; `stubs`: C that launches them;
    `hot`: the functions that call device.cuh, where the time goes."""

    source: str
    functions: tuple[str, ...]
    stubs: str
    hot: frozenset[str]


def device_code(kernels: Mapping[str, Any], target: CudaTarget) -> DeviceCode:
    """The code of all kernels."""
    functions: dict[str, Any] = {}
    stubs = []
    for name, func in kernels.items():
        parts = launches(name, func)
        stubs.append(_stub(name, func, parts, len(functions)))
        functions |= {f"{name}_{number}": part.func for number, part in enumerate(parts)}
    names = ", ".join(f'"{name}"' for name in functions)
    tables = [
        '#include "cuda.h"',
        f"const char* const optc_cuda_functions[] = {{{names or '0'}}};",
        f"const int32_t optc_cuda_num_functions = {len(functions)};",
    ]
    source = HEADER.read_text("utf-8") + _print(functions, target)
    hot = frozenset(name for name, func in functions.items() if _is_hot(func))
    return DeviceCode(source, tuple(functions), "\n".join([*tables, *stubs, ""]), hot)


def _is_hot(func: Any) -> bool:
    calls: list[Any] = []
    tvm_ffi.structural_walk(func.body, (Call, calls.append))
    names = (str(c.args[0].value) for c in calls if getattr(c.op, "name", "") == "tirx.call_extern")
    return any(name.startswith("optc::") for name in names)


def _stub(name: str, func: Any, parts: Sequence[Launch], first: int) -> str:
    known = signature(func)
    symbols, names = _symbols(known.dims)
    pointers = [f"b{i}" for i in range(len(known.buffers))]
    params = [f"void* {p}" for p in pointers] + [f"int64_t {s}" for s in symbols]
    arguments = ", ".join(f"&{p}" for p in [*pointers, *symbols])
    lines = [f"int32_t {name}({', '.join(params)}) {{", f"  void* arguments[] = {{{arguments}}};"]
    for number, part in enumerate(parts):
        grid = ", ".join(f"(int64_t){c_dim(dim_of(g, names))}" for g in part.grid)
        block = ", ".join(map(str, part.block))
        lines += [
            f"  const int64_t grid{number}[] = {{{grid}}};",
            f"  const int32_t block{number}[] = {{{block}}};",
            f"  OPTC_LAUNCH({first + number}, grid{number}, block{number}, {part.shared_bytes}, arguments);",
        ]
    return "\n".join([*lines, "  return OPTC_OK;", "}"])


def _symbols(dims: Sequence[Any]) -> tuple[list[str], dict[Any, Any]]:
    """C names of a kernel's dims, and the sympy symbols that print as those."""
    import sympy

    symbols = [sympy.Symbol(f"n{i}", integer=True) for i in range(len(dims))]
    return [c_symbol(s) for s in symbols], dict(zip(dims, symbols, strict=True))


def _print(functions: Mapping[str, Any], target: CudaTarget) -> str:
    module = tvm.IRModule({name: _raw(name, func, target) for name, func in functions.items()})
    passes = [
        tirx.transform.FlattenBuffer(),
        tirx.transform.BF16ComputeLegalize(),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RewriteUnsafeSelect(),
        s_tir.transform.ThreadSync("shared"),
        tirx.transform.BF16StorageLegalize(),
        each_function("DeviceIntrinsics", _device_intrinsics),
        tirx.transform.LowerIntrin(),
        each_function("BindingsToLocals", to_locals),
    ]
    # Loops that must be unrolled keep a pragma: nvcc does it faster.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.UnrollLoop": {"explicit_unroll": False}}):
        module = tvm.ir.transform.Sequential(passes)(module)
    built = tvm.get_global_func("target.build.cuda")(module, target.tvm())
    return str(built.inspect_source())


def _raw(name: str, func: Any, target: CudaTarget) -> Any:
    """The function with pointers instead of buffers, marked as one that a device runs."""
    params, declarations = pointer_params(func)
    raw = tirx.PrimFunc(params, tirx.SeqStmt([*declarations, func.body]), None, func.attrs)
    return raw.with_attr({"global_symbol": name, "calling_conv": DEVICE_CALL, "target": target.tvm()})


def _device_intrinsics(func: Any) -> Any:
    """LLVM's intrinsics in the words of CUDA. Fences go: nvcc is told to fuse no products with sums (--fmad=false)."""

    def visit(call: Any) -> Any:
        if getattr(call.op, "name", "") == "tirx.reinterpret":
            return _same_bits(call)
        if getattr(call.op, "name", "") != "tirx.call_llvm_pure_intrin":
            return call
        number, *args = call.args
        intrinsic = tvm.get_global_func("target.llvm_get_intrinsic_name")(int(number))
        if intrinsic == "llvm.arithmetic.fence":
            return args[0]
        if intrinsic == "llvm.lrint":
            return tirx.call_pure_extern("int32", "__float2int_rn", args[0])
        raise UnsupportedError(f"the instruction {intrinsic} does not exist on a GPU")

    return func.with_body(tvm_ffi.structural_map(func.body, (Call, visit)))


_BITS = {
    ("int32", "float32"): "__int_as_float",
    ("uint32", "float32"): "__uint_as_float",
    ("float32", "int32"): "__float_as_int",
    ("float32", "uint32"): "__float_as_uint",
    ("int64", "float64"): "__longlong_as_double",
    ("float64", "int64"): "__double_as_longlong",
}


def _same_bits(call: Any) -> Any:
    """A reinterpretation as a call: the printer takes the address of its operand, which a number has none of."""
    (value,) = call.args
    before, after = dtype_of(value), dtype_of(call)
    if (before, after) in _BITS:
        return tirx.call_pure_extern(after, _BITS[before, after], value)
    return tirx.Cast(after, value) if "float" not in before + after else call
