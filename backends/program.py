"""The host program of a model: lowered steps written as one C function over the contract of runtime/c/program.h.

Why C and not a TIR main: the artifact is linked with a C compiler anyway, and C says control flow, symbolic shapes,
data-dependent allocation and error messages in lines a person can read; a call costs the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiler.ir import Graph, Value
from ..compiler.types import Dim, free_symbols
from .cexpr import c_dim, c_name, c_string, c_symbol
from .steps import CCallStep, HostCall, If, Kernel, Loop, Lowered, Param, Scan, Step, Steps, View
from .storage import Storage, Weights, all_steps, num_scan_inputs


@dataclass
class Program:
    """C source, the kernels it calls by symbol name, C-op sources, weights in blob order, step names."""

    source: str
    kernels: dict[str, Any]
    c_sources: list[str]
    weights: list[tuple[str, np.ndarray]]
    weight_bytes: int
    step_names: list[str]
    provenance: dict[str, str]


def build_program(lowered: Lowered, *, features: Sequence[str] = ()) -> Program:
    """Writes a lowered model as C."""
    return _Writer(lowered).write(features)


class _Writer:
    def __init__(self, lowered: Lowered) -> None:
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
        self.c_sources: dict[str, None] = {}
        self.c_functions: dict[str, None] = {}
        self.step_names: list[str] = []
        self.bound = set(self.symbols)
        self.locals: dict[str, None] = {}  # data symbols, declared at the top
        self.counter = 0
        self._collecting: dict[int, str] = {}  # id of a scan output -> the tensor variable that gathers it

    # --- the file --------------------------------------------------------------------------------------------------

    def write(self, features: Sequence[str]) -> Program:
        self.write_steps(self.steps)
        self.write_results()
        body, self.lines = self.lines, []
        source = "\n".join(
            [
                '#include "generated.h"',
                *self.declarations(),
                *self.port_tables(features),
                *self.shape_functions(),
                "static int32_t run(optc_frame* frame) {",
                *(f"  {line}" for line in self.prologue()),
                *body,
                "  return OPTC_OK;",
                "}",
                *self.program_table(),
                "",
            ]
        )
        return Program(
            source,
            self.kernels,
            list(self.c_sources),
            self.weights.arrays,
            self.weights.nbytes,
            self.step_names,
            self.provenance,
        )

    def declarations(self) -> list[str]:
        lines = []
        for name in self.kernels:
            lines.append(f"extern int32_t {name}({self.signatures[name]});")
        for function in self.c_functions:
            lines.append(
                f"extern int32_t {function}(optc_context*, const optc_tensor*, int32_t, optc_tensor*, int32_t, "
                "const int64_t*, const double*);"
            )
        return lines

    def prologue(self) -> list[str]:
        lines = [
            "optc_context* context = frame->context;",
            "const optc_tensor* in = frame->inputs;",
            "optc_tensor* out = frame->outputs;",
            "const char* W = frame->weights;",
            "char* const* B = frame->buffers;",
            "const int32_t profiling = optc_profiling(context);",
            "(void)in; (void)out; (void)W; (void)B; (void)profiling; (void)context;",
        ]
        lines += self.symbol_reads("frame->symbols")
        lines += [f"int64_t {name} = 0; (void){name};" for name in self.locals]
        lines += [f"optc_tensor t{i} = {_tensor_zero(v)}; (void)t{i};" for v, i in self.storage.heap.items()]
        sized = [i for i, v in enumerate(self.graph.outputs) if self.storage.is_sized(v)]
        for index in sized:
            value = self.graph.outputs[index]
            lines += self.set_shape(f"out[{index}]", value)
            lines.append(f"char* o{index} = optc_output(frame, {index});")
            lines.append(f"if (!o{index}) return OPTC_OUT_OF_MEMORY;")
        return lines

    def symbol_reads(self, source: str) -> list[str]:
        return [
            f"const int64_t {c_symbol(s)} = {source}[{i}]; (void){c_symbol(s)};" for i, s in enumerate(self.symbols)
        ]

    def port_tables(self, features: Sequence[str]) -> list[str]:
        lines: list[str] = []
        graph = self.graph
        for kind, ports in (
            ("input", [(v.name, v) for v in graph.inputs]),
            ("output", list(zip(graph.output_names, graph.outputs, strict=True))),
        ):
            rows = []
            for index, (name, value) in enumerate(ports):
                dims = [d if isinstance(d, int) else -1 for d in value.type.dims]
                names = ["" if isinstance(d, int) else str(d) for d in value.type.dims]
                shape, dim_names = f"{kind}{index}_shape", f"{kind}{index}_dims"
                lines.append(f"static const int64_t {shape}[] = {{{_join(dims)}}};")
                lines.append(f"static const char* const {dim_names}[] = {{{_join(map(c_string, names), '0')}}};")
                rows.append(f"{{{c_string(name)}, {value.type.dtype.value}, {value.type.rank}, {shape}, {dim_names}}}")
            lines.append(f"static const optc_port {kind}s[] = {{{_join(rows, '{0}')}}};")
        steps = _join(map(c_string, self.step_names), "0")
        lines.append(f"static const char* const step_names[] = {{{steps}}};")
        lines.append(
            f"static const optc_model_info info = {{OPTC_ABI_VERSION, {c_string(graph.name)}, {len(graph.inputs)}, "
            f"{len(graph.outputs)}, inputs, outputs, {self.weights.nbytes}LL, {c_string(' '.join(features))}, "
            f"{len(self.step_names)}, step_names}};"
        )
        return lines

    def shape_functions(self) -> list[str]:
        """bind, sizes, output_shapes."""
        lines = ["static int32_t bind(optc_context* context, const optc_tensor* in, int64_t* symbols) {"]
        lines += ["  (void)context; (void)in; (void)symbols;"]
        seen: set[Any] = set()
        checks = []
        for index, value in enumerate(self.graph.inputs):
            for axis, dim in enumerate(value.type.dims):
                read = f"in[{index}].shape[{axis}]"
                if not isinstance(dim, int) and dim in self.symbols and dim not in seen:
                    seen.add(dim)
                    lines.append(f"  const int64_t {c_symbol(dim)} = symbols[{self.symbols.index(dim)}] = {read};")
                elif not isinstance(dim, int):
                    text = c_string(
                        f"input {value.name}: dim {axis} must be {dim} = %lld as another input has it, found %lld"
                    )
                    checks.append(
                        f"  OPTC_REQUIRE({read} == {c_dim(dim)}, {text}, (long long){c_dim(dim)}, (long long){read});"
                    )
        lines += [f"  (void){c_symbol(s)};" for s in seen]
        lines += [*checks, "  return OPTC_OK;", "}"]
        reads = [f"  {line}" for line in self.symbol_reads("symbols")]
        lines += [
            "static void sizes(const int64_t* symbols, int64_t* bytes) {",
            "  (void)symbols; (void)bytes;",
            *reads,
        ]
        lines += [f"  bytes[{i}] = {c_dim(b.nbytes)};" for i, b in enumerate(self.storage.buffers)] + ["}"]
        lines += [
            "static void output_shapes(const int64_t* symbols, optc_tensor* out) {",
            "  (void)symbols; (void)out;",
        ]
        lines += reads
        for index, value in enumerate(self.graph.outputs):
            lines += [f"  {line}" for line in self.set_shape(f"out[{index}]", value, self.storage.bound)]
        return [*lines, "}"]

    def set_shape(self, target: str, value: Value, known: set[Any] | None = None) -> list[str]:
        """Statements that fill dtype, rank and shape of an optc_tensor; dims beyond `known` become -1."""
        lines = [f"{target}.dtype = {value.type.dtype.value}; {target}.rank = {value.type.rank};"]
        for axis, dim in enumerate(value.type.dims):
            text = "-1" if known is not None and not free_symbols([dim]) <= known else c_dim(dim)
            lines.append(f"{target}.shape[{axis}] = {text};")
        return lines

    def program_table(self) -> list[str]:
        lives = _join(f"{{{b.first}, {b.last}}}" for b in self.storage.buffers)
        return [
            f"static const optc_lifetime lifetimes[] = {{{lives or '{0, 0}'}}};",
            f"const optc_program optc_generated_program = {{&info, {len(self.symbols)}, {len(self.storage.buffers)}, "
            "lifetimes, bind, sizes, output_shapes, run};",
        ]

    # --- statements ------------------------------------------------------------------------------------------------

    def emit(self, line: str) -> None:
        self.lines.append("  " * self.indent + line)

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def tensor(self, value: Value | None) -> str:
        """An optc_tensor expression for an operand."""
        if value is None:
            return "(optc_tensor){0, 0, -1, {0}}"
        dims = _join((c_dim(d) for d in value.type.dims), "0")
        return f"(optc_tensor){{{self.storage.place(value)}, {value.type.dtype.value}, {value.type.rank}, {{{dims}}}}}"

    def step_number(self, name: str) -> int:
        self.step_names.append(name)
        return len(self.step_names) - 1

    def write_steps(self, steps: Steps) -> None:
        writers: dict[type, Callable[[Any], None]] = {
            Kernel: self.write_kernel,
            CCallStep: self.write_c_call,
            View: self.write_view,
            HostCall: self.write_host_call,
            If: self.write_if,
            Loop: self.write_loop,
            Scan: self.write_scan,
        }
        for step in steps:
            writers[type(step)](step)

    def write_view(self, step: View) -> None:
        self.bind_dims(step.output, self.dims_of_view(step))

    def dims_of_view(self, step: View) -> list[str] | None:
        """A view may introduce one data symbol only where its other dims are known: it is what remains."""
        unbound = [i for i, d in enumerate(step.output.type.dims) if not free_symbols([d]) <= self.bound]
        if not unbound:
            return None
        (axis,) = unbound
        dims = list(step.output.type.dims)
        rest: Dim = 1
        for i, dim in enumerate(dims):
            rest = rest if i == axis else rest * dim
        texts = ["0"] * len(dims)
        texts[axis] = f"optc_floordiv({c_dim(step.input.type.numel)}, optc_max(1, {c_dim(rest)}))"
        return texts

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
        number = self.step_number(step.name)
        self.emit(f"OPTC_STEP({number}, {name}({', '.join(args)}));")
        for place in own:
            self.emit(f"optc_release(context, {place});")

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
        if isinstance(param, np.ndarray):
            return f"(char*)(W + {self.weights.add(step.name, param)})"
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
        target = f"t{self.storage.heap[self.storage.root(value)]}"
        self.emit(f"if ({target}.data) optc_release(context, {target}.data);")
        for line in self.set_shape(target, value):
            self.emit(line)
        self.emit(f"{target}.data = optc_alloc(context, optc_bytes(&{target}));")
        self.emit(f"if (!{target}.data) return OPTC_OUT_OF_MEMORY;")

    def write_c_call(self, step: CCallStep) -> None:
        call = step.call
        self.c_sources[call.source] = None
        self.c_functions[call.function] = None
        number, var = self.step_number(step.name), self.fresh("x")
        ints, floats = _join(call.ints), _join(map(_c_double, call.floats))
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
        number, var = self.step_number(step.name), self.fresh("x")
        self.write_call(
            step.inputs,
            step.outputs,
            number,
            lambda i, o: f"optc_call_host(context, {step.index}, {i}, {len(step.inputs)}, {o}, {len(step.outputs)})",
            var,
        )

    def write_call(self, inputs: Any, outputs: Any, number: int, call: Any, var: str) -> None:
        """A call over tensor descriptors; outputs without a planned place come back with shape and data set."""
        self.emit("{")
        self.indent += 1
        ins = _join((self.tensor(v) for v in inputs), "{0}")
        self.emit(f"const optc_tensor {var}_in[] = {{{ins}}};")
        rows = [_tensor_zero(v) if self.storage.is_heap(v) else self.tensor(v) for v in outputs]
        self.emit(f"optc_tensor {var}_out[] = {{{_join(rows, '{0}')}}};")
        self.emit(f"OPTC_STEP({number}, {call(f'{var}_in', f'{var}_out')});")
        for index, value in enumerate(outputs):
            if self.storage.is_heap(value):
                target = f"t{self.storage.heap[self.storage.root(value)]}"
                self.emit(f"if ({target}.data) optc_release(context, {target}.data);")
                self.emit(f"{target} = {var}_out[{index}];")
                self.bind_dims(value, [f"{target}.shape[{a}]" for a in range(value.type.rank)])
        self.indent -= 1
        self.emit("}")

    def bind_dims(self, value: Value, actual: Sequence[str] | None) -> None:
        """Sets the data symbols that this value introduces, and checks the dims that were promised."""
        if actual is None:
            return
        for axis, dim in enumerate(value.type.dims):
            if not isinstance(dim, int) and dim.is_Symbol and dim not in self.bound:
                self.locals[c_symbol(dim)] = None
                self.bound.add(dim)
                self.emit(f"{c_symbol(dim)} = {actual[axis]};")
            elif free_symbols([dim]) <= self.bound and actual[axis] != "0":
                message = c_string(f"{value.name}: dim {axis} must be {dim} = %lld, found %lld")
                self.emit(
                    f"OPTC_REQUIRE({actual[axis]} == {c_dim(dim)}, {message}, (long long){c_dim(dim)}, "
                    f"(long long){actual[axis]});"
                )

    def copy(self, to: Value, source: Value, *, rebind: bool = False) -> None:
        """Copies bytes (and, for heap values, the shape) from one value's place to another's."""
        if self.storage.is_heap(to):
            target = f"t{self.storage.heap[self.storage.root(to)]}"
            self.emit(f"if (optc_assign(context, &{target}, {self.tensor(source)})) return OPTC_OUT_OF_MEMORY;")
            if rebind:
                self.rebind(to, target)
            return
        place, origin = self.storage.place(to), self.storage.place(source)
        if place != origin:
            size = c_dim(to.type.numel * to.type.dtype.itemsize)
            self.emit(f"memcpy({place}, {origin}, (size_t){size});")

    def rebind(self, value: Value, target: str) -> None:
        """Sets the data symbols of a value from its tensor variable, again each time it is written."""
        for axis, dim in enumerate(value.type.dims):
            if not isinstance(dim, int) and dim.is_Symbol and dim not in self.symbols:
                self.locals[c_symbol(dim)] = None
                self.bound.add(dim)
                self.emit(f"{c_symbol(dim)} = {target}.shape[{axis}];")

    # --- control flow ----------------------------------------------------------------------------------------------

    def write_if(self, step: If) -> None:
        condition = step.node.operand(0)
        self.emit(f"if (*(const uint8_t*){self.storage.place(condition)}) {{")
        for index, key in enumerate(("then_branch", "else_branch")):
            graph, inner = step.branches[key]
            if index:
                self.emit("} else {")
            self.indent += 1
            before = set(self.bound)
            self.write_steps(inner)
            for out, value in zip(step.node.outputs, graph.outputs, strict=True):
                self.copy(out, value, rebind=True)
            results = free_symbols(d for v in step.node.outputs for d in v.type.dims)
            self.bound = before | (results & self.bound if index else set())
            self.indent -= 1
        self.bound |= free_symbols(d for v in step.node.outputs for d in v.type.dims)
        self.emit("}")

    def carry(self, states: Sequence[Value], results: Sequence[Value]) -> None:
        """states := results, all at once: a result that is another state is copied aside first."""
        aside: dict[int, str] = {}
        for index, result in enumerate(results):
            if self.storage.root(result) in {self.storage.root(s) for i, s in enumerate(states) if i != index}:
                aside[index] = self.fresh("x")
                self.emit(f"optc_tensor {aside[index]} = {_tensor_zero(result)};")
                self.emit(
                    f"if (optc_assign(context, &{aside[index]}, {self.tensor(result)})) return OPTC_OUT_OF_MEMORY;"
                )
        for index, (state, result) in enumerate(zip(states, results, strict=True)):
            if index not in aside:
                self.copy(state, result)
                continue
            spare = aside[index]
            if self.storage.is_heap(state):
                target = f"t{self.storage.heap[self.storage.root(state)]}"
                self.emit(f"optc_release(context, {target}.data); {target} = {spare};")
            else:
                self.emit(f"memcpy({self.storage.place(state)}, {spare}.data, (size_t)optc_bytes(&{spare}));")
                self.emit(f"optc_release(context, {spare}.data);")

    def write_loop(self, step: Loop) -> None:
        node, body = step.node, step.body
        states = body.inputs[2:]
        limit, start = node.input(0), node.input(1)
        for state, initial in zip(states, node.inputs[2:], strict=True):
            assert initial is not None
            self.copy(state, initial, rebind=True)
        count, limit_name, going = self.fresh("n"), self.fresh("n"), self.fresh("go")
        self.emit(f"int64_t {count} = 0;")
        self.emit(f"const int64_t {limit_name} = {self.scalar(limit, 'int64_t') or 'INT64_MAX'};")
        self.emit(f"int {going} = {self.scalar(start, 'uint8_t') or '1'};")
        collected = node.outputs[len(states) :]
        capacities = self.start_collecting(collected, body.outputs[1 + len(states) :])
        self.emit(f"for (; {count} < {limit_name} && {going}; {count}++) {{")
        self.indent += 1
        self.emit(f"*(int64_t*){self.storage.place(body.inputs[0])} = {count};")
        self.emit(f"*(uint8_t*){self.storage.place(body.inputs[1])} = 1;")
        for state in states:
            if self.storage.is_heap(state):
                self.rebind(state, f"t{self.storage.heap[self.storage.root(state)]}")
        self.write_steps(step.steps)
        self.emit(f"{going} = *(const uint8_t*){self.storage.place(body.outputs[0])};")
        for value, piece, capacity in zip(collected, body.outputs[1 + len(states) :], capacities, strict=True):
            self.collect(value, piece, capacity)
        self.carry(states, body.outputs[1 : 1 + len(states)])
        self.indent -= 1
        self.emit("}")
        self.finish_states(node.outputs[: len(states)], states)
        self.finish_collecting(collected)

    def scalar(self, value: Value | None, ctype: str) -> str | None:
        return None if value is None else f"*(const {ctype}*){self.storage.place(value)}"

    def start_collecting(self, collected: Sequence[Value], pieces: Sequence[Value]) -> list[str]:
        """Scan outputs start empty; each has a tensor variable of its own that grows."""
        names = []
        for value, piece in zip(collected, pieces, strict=True):
            name = self.fresh("all")
            names.append(name)
            dims = ["0"] + [c_dim(d) if free_symbols([d]) <= self.bound else "0" for d in piece.type.dims]
            self.emit(
                f"optc_tensor {name} = {{0, {value.type.dtype.value}, {len(dims)}, {{{_join(dims)}}}}}; "
                f"int64_t {name}_capacity = 0;"
            )
            self._collecting[id(value)] = name
        return names

    def collect(self, value: Value, piece: Value, name: str) -> None:
        status = self.fresh("e")
        self.emit(f"const int32_t {status} = optc_append(context, &{name}, &{name}_capacity, {self.tensor(piece)});")
        self.emit(f"if ({status}) return {status};")

    def finish_collecting(self, collected: Sequence[Value]) -> None:
        for value in collected:
            name = self._collecting[id(value)]
            if self.storage.is_heap(value):
                target = f"t{self.storage.heap[self.storage.root(value)]}"
                self.emit(f"if ({target}.data) optc_release(context, {target}.data);")
                self.emit(f"if (!{name}.data && !({name}.data = optc_alloc(context, 0))) return OPTC_OUT_OF_MEMORY;")
                self.emit(f"{target} = {name};")
                self.rebind(value, target)
            else:
                self.emit(f"memcpy({self.storage.place(value)}, {name}.data, (size_t)optc_bytes(&{name}));")

    def finish_states(self, outputs: Sequence[Value], states: Sequence[Value]) -> None:
        for out, state in zip(outputs, states, strict=True):
            if self.storage.root(out) is not self.storage.root(state):
                self.copy(out, state)
            if self.storage.is_heap(out):
                self.rebind(out, f"t{self.storage.heap[self.storage.root(out)]}")

    def write_scan(self, step: Scan) -> None:
        node, body = step.node, step.body
        num_scan = num_scan_inputs(node)
        num_states = len(body.inputs) - num_scan
        states, slices = body.inputs[:num_states], body.inputs[num_states:]
        sources = [v for v in node.inputs[num_states:] if v is not None]
        for state, initial in zip(states, node.inputs[:num_states], strict=True):
            assert initial is not None
            self.copy(state, initial, rebind=True)
        backward_in = _flags(node.attrs.get("scan_input_directions"), num_scan)
        pieces = body.outputs[num_states:]
        backward_out = _flags(node.attrs.get("scan_output_directions"), len(pieces))
        count, total = self.fresh("n"), self.fresh("n")
        self.emit(f"const int64_t {total} = {c_dim(sources[0].type.dims[0])};")
        for value in node.outputs[num_states:]:
            if self.storage.is_heap(value):
                self.bind_dims(value, [total] + [c_dim(d) for d in value.type.dims[1:]])
                self.allocate(value)
        self.emit(f"for (int64_t {count} = 0; {count} < {total}; {count}++) {{")
        self.indent += 1
        for value, source, backward in zip(slices, sources, backward_in, strict=True):
            at = f"({total} - 1 - {count})" if backward else count
            size = c_dim(value.type.numel * value.type.dtype.itemsize)
            self.emit(
                f"memcpy({self.storage.place(value)}, {self.storage.place(source)} + {at} * {size}, (size_t){size});"
            )
        self.write_steps(step.steps)
        for value, piece, backward in zip(node.outputs[num_states:], pieces, backward_out, strict=True):
            at = f"({total} - 1 - {count})" if backward else count
            size = c_dim(piece.type.numel * piece.type.dtype.itemsize)
            self.emit(
                f"memcpy({self.storage.place(value)} + {at} * {size}, {self.storage.place(piece)}, (size_t){size});"
            )
        self.carry(states, body.outputs[:num_states])
        self.indent -= 1
        self.emit("}")
        self.finish_states(node.outputs[:num_states], states)

    # --- results ---------------------------------------------------------------------------------------------------

    def write_results(self) -> None:
        """What was not written in place: inputs or constants returned as they are, views, heap tensors."""
        for index, value in enumerate(self.graph.outputs):
            place = self.storage.place(value)
            if place == f"o{index}":
                continue
            target = f"o{index}"
            if not self.storage.is_sized(value):
                for line in self.set_shape(f"out[{index}]", value):
                    self.emit(line)
                self.emit(f"char* {target} = optc_output(frame, {index});")
                self.emit(f"if (!{target}) return OPTC_OUT_OF_MEMORY;")
            size = c_dim(value.type.numel * value.type.dtype.itemsize)
            self.emit(f"if ({size} > 0) memcpy({target}, {place}, (size_t){size});")


def _input_symbols(graph: Graph) -> list[Any]:
    """The plain symbols of the input shapes, in order of appearance."""
    found: dict[Any, None] = {}
    for value in graph.inputs:
        for dim in value.type.dims:
            if not isinstance(dim, int) and dim.is_Symbol:
                found[dim] = None
    return list(found)


def _tensor_zero(value: Value) -> str:
    return f"{{0, {value.type.dtype.value}, {value.type.rank}, {{0}}}}"


def _flags(value: Any, count: int) -> list[bool]:
    return [bool(v) for v in value] if value is not None else [False] * count


def _c_double(value: float) -> str:
    if value != value:
        return "(0.0 / 0.0)"
    if value in (float("inf"), float("-inf")):
        return "(1.0 / 0.0)" if value > 0 else "(-1.0 / 0.0)"
    return float(value).hex()


def _join(items: Any, empty: str = "") -> str:
    return ", ".join(str(i) for i in items) or empty


__all__ = ["Program", "Step", "all_steps", "build_program"]
