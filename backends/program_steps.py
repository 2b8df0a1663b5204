"""Steps as C statements: calls of kernels and C ops, views, checks, copies, and the dims that data decides.

A dim symbol is a C variable. Input symbols are set once; a data symbol is set where the value that introduces it is
made, each time that happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..compiler.ir import Graph, Value
from ..compiler.types import Dim, free_symbols, same_dim
from .cexpr import c_dim, c_format, c_name, c_string, c_symbol
from .packing import Packed
from .steps import CCallStep, Check, CopyRows, HostCall, Kernel, Lowered, Param, Step, Steps, Trap, View, Within
from .storage import Storage, Weights


class StepWriter:
    """Writes steps without control flow; program_control.py adds that."""

    def __init__(self, lowered: Lowered, device: str | None = None) -> None:
        self.device = device
        self.graph = lowered.graph
        self.steps = lowered.steps
        self.weights = Weights()
        self.storage = Storage(self.graph, self.steps, self.weights)
        self.symbols = _input_symbols(self.graph)
        self.lines: list[str] = []
        self.indent = 1
        self.kernels: dict[str, Any] = {}
        self.signatures: dict[str, str] = {}  # C parameter lists of the kernels
        self.provenance: dict[str, str] = {}
        self._kernel_names: dict[int, list[tuple[Any, str]]] = {}
        self._parallel: dict[str, bool] = {}
        self.c_sources: dict[str, None] = {}
        self.c_functions: dict[str, None] = {}
        self.numbered: list[Step] = []  # steps that compute, in the order of their numbers
        self.bound = set(self.symbols)
        self.locals: dict[str, None] = {}  # data symbols, declared at the top
        self.counter = 0
        self._collecting: dict[int, str] = {}  # id of a scan output -> the tensor variable that gathers it

    # --- statements ------------------------------------------------------------------------------------------------

    def emit(self, line: str) -> None:
        self.lines.append("  " * self.indent + line)

    def host_turn(self) -> None:
        """Before the host touches what kernels may still be at work on."""
        if self.device:
            self.emit("if (optc_wait(context)) return optc_failed(context);")

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def tensor(self, value: Value | None) -> str:
        """An optc_tensor expression for an operand."""
        if value is None:
            return "(optc_tensor){0, 0, -1, {0}}"
        dims = joined((c_dim(d) for d in value.type.dims), "0")
        return f"(optc_tensor){{{self.storage.place(value)}, {value.type.dtype.value}, {value.type.rank}, {{{dims}}}}}"

    def step_number(self, step: Step) -> int:
        self.numbered.append(step)
        return len(self.numbered) - 1

    def writers(self) -> dict[type, Callable[[Any], None]]:
        """Who writes which kind of step."""
        return {
            Kernel: self.write_kernel,
            CCallStep: self.write_c_call,
            View: self.write_view,
            Within: lambda step: None,  # storage.py has placed it
            CopyRows: self.write_copy_rows,
            Check: self.write_check,
            Trap: self.write_trap,
            HostCall: self.write_host_call,
        }

    def write_steps(self, steps: Steps) -> None:
        writers = self.writers()
        for step in steps:
            writers[type(step)](step)

    def write_view(self, step: View) -> None:
        there, here = step.output.type.numel, step.input.type.numel
        self.require(there, here, f"{c_format(step.name)}: %lld elements cannot be made of %lld")

    def write_copy_rows(self, step: CopyRows) -> None:
        to, source = self.storage.place(step.whole), self.storage.place(step.input)
        sizes = ", ".join(map(c_dim, (step.rows, step.nbytes, step.pitch, step.source_pitch)))
        number = self.step_number(step)
        self.emit(f"OPTC_STEP({number}, optc_copy_rows({to} + {c_dim(step.offset)}, {source}, {sizes}));")

    def write_check(self, step: Check) -> None:
        for one, other, message in step.equal:
            self.require(one, other, message)

    def require(self, one: Dim, other: Dim, message: str) -> None:
        """Fails at run time unless both dims are equal; nothing is written where that is certain. `message` has a
        %lld for each."""
        if not same_dim(one, other):
            a, b = f"(long long){c_dim(one)}", f"(long long){c_dim(other)}"
            self.emit(f"OPTC_REQUIRE({a} == {b}, {c_string(message)}, {a}, {b});")

    def write_trap(self, step: Trap) -> None:
        for value in step.node.outputs:
            if value.type.shape is not None:
                self.declare(self.unbound([value]))
        self.emit(f'return optc_fail(context, OPTC_RUNTIME, "%s", {c_string(step.message)});')

    def write_kernel(self, step: Kernel) -> None:
        for value in step.outputs:
            if self.storage.is_heap(value):
                self.allocate(value)
        name = self.kernel_symbol(step)
        places, own = self.scratch(step)
        scratch = iter(places)
        args = [self.argument(step, p, scratch) for p in step.params]
        args += [f"(int64_t){c_dim(s)}" for s in step.symbols]
        pointers = ["void*"] * (len(args) - len(step.symbols))
        self.signatures[name] = ", ".join(pointers + ["int64_t"] * len(step.symbols))
        number = self.step_number(step)
        if self.runs_parallel(name):
            self.expect(step.work)
        self.emit(f"OPTC_STEP({number}, {name}({', '.join(args)}));")
        for place in own:
            self.emit(f"optc_release(context, {place});")

    def runs_parallel(self, name: str) -> bool:
        """Whether a kernel has parallel loops."""
        import tvm_ffi
        from tvm import tirx

        if name not in self._parallel:
            loops: list[Any] = []
            tvm_ffi.structural_walk(self.kernels[name].body, (tirx.For, loops.append))
            self._parallel[name] = any(loop.kind == tirx.ForKind.PARALLEL for loop in loops)
        return self._parallel[name]

    def expect(self, work: Dim | None) -> None:
        """Tells the pool what the next step takes, so that it keeps short ones to one thread."""
        if not self.device:
            self.emit(f"optc_expect(context, {'INT64_MAX' if work is None else c_dim(work)});")

    def scratch(self, step: Kernel) -> tuple[list[str], list[str]]:
        """C expressions of a kernel's scratch memory, and which of them it allocates: those sized by data."""
        places, own = [], []
        for scratch, buffer in zip(step.scratch, self.storage.scratch[id(step)], strict=True):
            if buffer is not None:
                places.append(f"B[{buffer}]")
                continue
            place = self.fresh("s")
            self.emit(f"char* {place} = optc_alloc(context, {c_dim(scratch.nbytes)});")
            self.emit(f"if (!{place}) return OPTC_OUT_OF_MEMORY;")
            places.append(place)
            own.append(place)
        return places, own

    def argument(self, step: Kernel, param: Param, scratch: Iterator[str]) -> str:
        if isinstance(param, Value):
            return self.storage.place(param)
        if isinstance(param, (np.ndarray, Packed)):
            return self.weights.place(step.name, param)
        return next(scratch)

    def kernel_symbol(self, step: Kernel) -> str:
        """The symbol of this step's function; equal functions share one."""
        import tvm_ffi

        key = int(tvm_ffi.structural_hash(step.func))
        for func, name in self._kernel_names.get(key, []):
            if tvm_ffi.structural_equal(func, step.func):
                return name
        name = f"k{len(self.kernels)}_{c_name(step.name)}"
        self._kernel_names.setdefault(key, []).append((step.func, name))
        self.kernels[name] = step.func
        self.provenance[name] = step.provenance
        return name

    def allocate(self, value: Value) -> None:
        """Heap memory for a value whose dims are all bound by now."""
        target = self.heap(value)
        self.emit(f"if ({target}.data) optc_release(context, {target}.data);")
        for line in self.set_shape(target, value):
            self.emit(line)
        self.emit(f"{target}.data = optc_alloc(context, optc_bytes(&{target}));")
        self.emit(f"if (!{target}.data) return OPTC_OUT_OF_MEMORY;")

    def write_c_call(self, step: CCallStep) -> None:
        call = step.call
        self.c_sources[call.source] = None
        self.c_functions[call.function] = None
        number, var = self.step_number(step), self.fresh("x")
        ints, floats = joined(call.ints), joined(map(_c_double, call.floats))
        constants = [
            f"(const int64_t[]){{{ints}}}" if ints else "0",
            f"(const double[]){{{floats}}}" if floats else "0",
        ]
        self.write_call(
            step.node.inputs,
            step.node.outputs,
            number,
            lambda i, o: (
                f"{call.function}(context, {i}, {len(step.node.inputs)}, {o}, {len(step.node.outputs)}, "
                + ", ".join(constants)
                + ")"
            ),
            var,
        )

    def write_host_call(self, step: HostCall) -> None:
        number, var = self.step_number(step), self.fresh("x")
        self.write_call(
            step.inputs,
            step.outputs,
            number,
            lambda i, o: f"optc_call_host(context, {step.index}, {i}, {len(step.inputs)}, {o}, {len(step.outputs)})",
            var,
        )

    def write_call(self, inputs: Any, outputs: Any, number: int, call: Any, var: str) -> None:
        """A call over tensor descriptors; outputs without a planned place come back with shape and data set."""
        self.host_turn()
        self.expect(None)
        self.emit("{")
        self.indent += 1
        ins = joined((self.tensor(v) for v in inputs), "{0}")
        self.emit(f"const optc_tensor {var}_in[] = {{{ins}}};")
        rows = [tensor_zero(v) if self.storage.is_heap(v) else self.tensor(v) for v in outputs]
        self.emit(f"optc_tensor {var}_out[] = {{{joined(rows, '{0}')}}};")
        self.emit(f"OPTC_STEP({number}, {call(f'{var}_in', f'{var}_out')});")
        for index, value in enumerate(outputs):
            if self.storage.is_heap(value):
                target = self.heap(value)
                self.emit(f"if ({target}.data) optc_release(context, {target}.data);")
                self.emit(f"{target} = {var}_out[{index}];")
                self.bind_dims(value, self.heap_dims(value))
        self.indent -= 1
        self.emit("}")

    def unbound(self, values: Iterable[Value]) -> set[Any]:
        """The data symbols that are dims of these values and not known yet."""
        return {d for v in values for d in v.type.dims if not isinstance(d, int) and d.is_Symbol} - self.bound

    def declare(self, symbols: Iterable[Any]) -> None:
        """Makes C variables for data symbols, which count as known from here on."""
        for name in sorted(map(c_symbol, symbols)):
            self.locals[name] = None
        self.bound |= set(symbols)

    def bind_dims(self, value: Value, actual: Sequence[str], own: set[Any] | None = None) -> None:
        """Sets the data symbols `own` (default: those not known yet) from the actual dims of `value`, C expressions,
        and checks the other dims."""
        own = self.unbound([value]) if own is None else set(own)
        for axis, (dim, text) in enumerate(zip(value.type.dims, actual, strict=True)):
            if dim in own:
                own.discard(dim)
                self.declare([dim])
                self.emit(f"{c_symbol(dim)} = {text};")
            elif free_symbols([dim]) <= self.bound and text != c_dim(dim):
                message = c_string(f"{c_format(value.name)}: dim {axis} must be {dim} = %lld, found %lld")
                self.emit(
                    f"OPTC_REQUIRE({text} == {c_dim(dim)}, {message}, (long long){c_dim(dim)}, (long long){text});"
                )

    def heap(self, value: Value) -> str:
        """The tensor variable of a value on the heap."""
        return f"t{self.storage.heap[self.storage.root(value)]}"

    def heap_dims(self, value: Value) -> list[str]:
        """C expressions of the actual dims of a value on the heap."""
        return [f"{self.heap(value)}.shape[{axis}]" for axis in range(value.type.rank)]

    def copy(self, to: Value, source: Value, own: set[Any]) -> None:
        """Copies a tensor from one value's place to another's; sets the data symbols `own` of the target, and checks
        the dims that were taken to be equal."""
        self.host_turn()
        if self.storage.is_heap(to):
            self.emit(f"if (optc_assign(context, &{self.heap(to)}, {self.tensor(source)})) return OPTC_OUT_OF_MEMORY;")
            self.bind_dims(to, self.heap_dims(to), own)
            return
        for axis, (wanted, found) in enumerate(zip(to.type.dims, source.type.dims, strict=True)):
            self.require(wanted, found, f"{c_format(to.name)}: dim {axis} must be {wanted} = %lld, found %lld")
        place, origin = self.storage.place(to), self.storage.place(source)
        if place != origin:
            size = c_dim(to.type.numel * to.type.dtype.itemsize)
            self.emit(f"if ({size}) memcpy({place}, {origin}, (size_t){size});")

    def set_shape(self, target: str, value: Value, known: set[Any] | None = None) -> list[str]:
        """Statements that fill dtype, rank and shape of an optc_tensor; dims beyond `known` become -1."""
        lines = [f"{target}.dtype = {value.type.dtype.value}; {target}.rank = {value.type.rank};"]
        for axis, dim in enumerate(value.type.dims):
            text = "-1" if known is not None and not free_symbols([dim]) <= known else c_dim(dim)
            lines.append(f"{target}.shape[{axis}] = {text};")
        return lines


def _input_symbols(graph: Graph) -> list[Any]:
    """The plain symbols of the input shapes, in order of appearance."""
    found: dict[Any, None] = {}
    for value in graph.inputs:
        for dim in value.type.dims:
            if not isinstance(dim, int) and dim.is_Symbol:
                found[dim] = None
    return list(found)


def tensor_zero(value: Value) -> str:
    return f"{{0, {value.type.dtype.value}, {value.type.rank}, {{0}}}}"


def _c_double(value: float) -> str:
    if value != value:
        return "(0.0 / 0.0)"
    if value in (float("inf"), float("-inf")):
        return "(1.0 / 0.0)" if value > 0 else "(-1.0 / 0.0)"
    return float(value).hex()


def joined(items: Any, empty: str = "") -> str:
    return ", ".join(str(i) for i in items) or empty
