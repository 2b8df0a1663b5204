"""The host program of a model: lowered steps written as one C function over the contract of runtime/c/program.h.

Why C and not a TIR main: the artifact is linked with a C compiler anyway, and C says control flow, symbolic shapes,
data-dependent allocation and error messages in lines a person can read; a call costs the same.
Steps are written in program_steps.py, control flow in program_control.py; here is the file around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiler.types import Dim, free_symbols
from .cexpr import c_dim, c_format, c_string, c_symbol
from .codegen import own_features
from .costs import Cost, costs
from .packing import Axis
from .program_control import ControlWriter
from .program_steps import joined, tensor_zero
from .steps import CCallStep, HostCall, Kernel, Lowered
from .storage import all_steps

MUCH = 1 << 40
"""Nanoseconds: enough for any number of threads."""


@dataclass
class Program:
    """C source, the kernels it calls by symbol name, C-op sources, weights in blob order, the bytes of those and of
    what loading unpacks, names and costs of the steps that compute (see costs.py), and the CPU features that all this
    needs."""

    source: str
    kernels: dict[str, Any]
    c_sources: list[str]
    weights: list[tuple[str, np.ndarray]]
    weight_bytes: int
    unpacked_bytes: int
    step_names: list[str]
    costs: list[Cost | None]
    provenance: dict[str, str]
    features: list[str]


def build_program(lowered: Lowered, *, features: Sequence[str] = (), device: str | None = None) -> Program:
    """Writes a lowered model as C. `features` are those that all code of its target needs; kernels add their own.

    `device` is the C name of the optc_device that runs the kernels, None for the CPU.
    """
    return _Writer(lowered, device).write(features)


class _Writer(ControlWriter):
    """Writes the file: tables, shape functions, `run`."""

    def write(self, features: Sequence[str]) -> Program:
        self.write_steps(self.steps)
        self.write_results()
        body, self.lines = self.lines, []
        own = [feature for func in self.kernels.values() for feature in own_features(func)]
        features = list(dict.fromkeys([*features, *own]))
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
            self.weights.unpacked_bytes,
            [step.name for step in self.numbered],
            costs(self.numbered, self.steps),
            self.provenance,
            features,
        )

    def declarations(self) -> list[str]:
        lines = [f"extern const optc_device {self.device};"] if self.device else []
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
            "const char *W = frame->weights, *U = frame->unpacked;",
            "char* const* B = frame->buffers;",
            "const int32_t profiling = optc_profiling(context);",
            "(void)in; (void)out; (void)W; (void)U; (void)B; (void)profiling; (void)context;",
        ]
        lines += self.symbol_reads("frame->symbols")
        if not self.device:
            lines.append(f"optc_expect_run(context, {c_dim(self.work())});")
        lines += [f"int64_t {name} = 0; (void){name};" for name in self.locals]
        lines += [f"optc_tensor t{i} = {tensor_zero(v)}; (void)t{i};" for v, i in self.storage.heap.items()]
        sized = [i for i, v in enumerate(self.graph.outputs) if self.storage.is_sized(v)]
        for index in sized:
            value = self.graph.outputs[index]
            lines += self.set_shape(f"out[{index}]", value)
            lines.append(f"char* o{index} = optc_output(frame, {index});")
            lines.append(f"if (!o{index}) return optc_failed(context);")
        return lines

    def work(self) -> Dim:
        """Nanoseconds that one thread takes for what the inputs' shapes tell; a loop's body counts once, and steps of
        which nothing is known as much as a pool needs to pay."""
        bound = self.storage.bound
        kernels = [step.work for step in all_steps(self.steps) if isinstance(step, Kernel)]
        unknown = any(isinstance(step, (CCallStep, HostCall)) for step in all_steps(self.steps))
        total: Dim = MUCH if unknown or None in kernels else 0
        return sum((work for work in kernels if work is not None and free_symbols([work]) <= bound), start=total)

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
                lines.append(f"static const int64_t {shape}[] = {{{joined(dims)}}};")
                lines.append(f"static const char* const {dim_names}[] = {{{joined(map(c_string, names), '0')}}};")
                rows.append(f"{{{c_string(name)}, {value.type.dtype.value}, {value.type.rank}, {shape}, {dim_names}}}")
            lines.append(f"static const optc_port {kind}s[] = {{{joined(rows, '{0}')}}};")
        steps = joined((c_string(step.name) for step in self.numbered), "0")
        lines.append(f"static const char* const step_names[] = {{{steps}}};")
        lines.append(
            f"static const optc_model_info info = {{OPTC_ABI_VERSION, {c_string(graph.name)}, {len(graph.inputs)}, "
            f"{len(graph.outputs)}, inputs, outputs, {self.weights.nbytes}LL, {c_string(' '.join(features))}, "
            f"{len(self.numbered)}, step_names}};"
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
                        f"input {c_format(value.name)}: dim {axis} must be {dim} = %lld as another input has it, "
                        "found %lld"
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

    def program_table(self) -> list[str]:
        lives = joined(f"{{{b.first}, {b.last}}}" for b in self.storage.buffers)
        boxes, axes = self.box_tables()
        return [
            f"static const optc_lifetime lifetimes[] = {{{lives or '{0, 0}'}}};",
            f"static const optc_box boxes[] = {{{joined(boxes, '{0}')}}};",
            f"static const optc_axis axes[] = {{{joined(axes, '{0}')}}};",
            f"const optc_program optc_generated_program = {{&info, {len(self.symbols)}, {len(self.storage.buffers)}, "
            "lifetimes, bind, sizes, output_shapes, run, "
            f".unpacked_bytes = {self.weights.unpacked_bytes}LL, .num_boxes = {len(boxes)}, .boxes = boxes, "
            f".axes = axes, .device = {'&' + self.device if self.device else '0'}}};",
        ]

    def box_tables(self) -> tuple[list[str], list[str]]:
        """Rows of the tables of boxes and of their axes; equal sequences of axes are written once."""
        boxes: list[str] = []
        axes: list[str] = []
        starts: dict[tuple[Axis, ...], int] = {}
        for weight in self.weights.unpacked:
            for box in weight.boxes:
                if box.axes not in starts:
                    starts[box.axes] = len(axes)
                    axes += [f"{{{axis.steps}, {axis.to}, {axis.origin}}}" for axis in box.axes]
                size = weight.itemsize
                to, origin = weight.to + box.to * size, weight.offset + box.origin * size
                boxes.append(f"{{{to}LL, {origin}LL, {size}, {len(box.axes)}, {starts[box.axes]}}}")
        return boxes, axes

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
                self.emit(f"if (!{target}) return optc_failed(context);")
            size = c_dim(value.type.numel * value.type.dtype.itemsize)
            self.host_turn()
            self.emit(f"if ({size} > 0) memcpy({target}, {place}, (size_t){size});")
