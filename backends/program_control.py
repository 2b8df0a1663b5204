"""Control flow as C statements.

If copies what a branch returns to the places of its results. Loop and Scan keep each state in one place, that of the
body's input; after a turn all states are set at once from what the body returned. A scan output whose size is known
before is written in place, turn by turn; another is gathered in a tensor that grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..compiler.ir import Value
from ..compiler.types import free_symbols
from .cexpr import c_dim, c_format
from .program_steps import StepWriter, joined, tensor_zero
from .steps import If, Loop, Scan, Trap
from .storage import num_scan_inputs


class ControlWriter(StepWriter):
    """Writes all steps."""

    def writers(self) -> dict[type, Callable[[Any], None]]:
        return super().writers() | {If: self.write_if, Loop: self.write_loop, Scan: self.write_scan}

    def write_if(self, step: If) -> None:
        condition = step.node.operand(0)
        before, own = set(self.bound), self.unbound(step.node.outputs)
        self.host_turn()
        for start, key in (
            (f"if ({self.scalar(condition, 'uint8_t')}) {{", "then_branch"),
            ("} else {", "else_branch"),
        ):
            graph, inner = step.branches[key]
            self.emit(start)
            self.indent += 1
            self.bound = set(before)
            self.write_steps(inner)
            if not any(isinstance(s, Trap) for s in inner):
                rest = set(own)  # a symbol that two results share is set by the first
                for out, value in zip(step.node.outputs, graph.outputs, strict=True):
                    self.copy(out, value, rest & self.data_symbols(out))
                    rest -= self.data_symbols(out)
            self.indent -= 1
        self.emit("}")
        self.bound = before
        self.declare(own)

    @staticmethod
    def data_symbols(value: Value) -> set[Any]:
        """The dims of a value that are bare symbols."""
        return {d for d in value.type.dims if not isinstance(d, int) and d.is_Symbol}

    # --- states ----------------------------------------------------------------------------------------------------

    def start_states(self, states: Sequence[Value], initial: Sequence[Value | None]) -> dict[Value, set[Any]]:
        """states := initial. Returns the data symbols that each state sets, turn after turn."""
        own: dict[Value, set[Any]] = {}
        for state, start in zip(states, initial, strict=True):
            assert start is not None
            own[state] = self.unbound([state])
            self.copy(state, start, own[state])
        return own

    def carry(self, states: Sequence[Value], results: Sequence[Value], own: dict[Value, set[Any]]) -> None:
        """states := results, all at once: a result that is another state is copied aside first."""
        self.host_turn()
        roots = [self.storage.root(s) for s in states]
        aside: dict[int, str] = {}
        for index, result in enumerate(results):
            if self.storage.root(result) in roots[:index] + roots[index + 1 :]:
                aside[index] = self.fresh("x")
                self.emit(f"optc_tensor {aside[index]} = {tensor_zero(result)};")
                self.emit(
                    f"if (optc_assign(context, &{aside[index]}, {self.tensor(result)})) return OPTC_OUT_OF_MEMORY;"
                )
        heap = [s for s in states if self.storage.is_heap(s)]
        for index, (state, result) in enumerate(zip(states, results, strict=True)):
            target = self.heap(state) if state in heap else ""
            spare = aside.get(index)
            if spare and target:
                self.emit(f"optc_release(context, {target}.data); {target} = {spare};")
            elif target:
                self.emit(f"if (optc_assign(context, &{target}, {self.tensor(result)})) return OPTC_OUT_OF_MEMORY;")
            elif spare:
                for axis, (wanted, found) in enumerate(zip(state.type.dims, result.type.dims, strict=True)):
                    self.require(
                        wanted, found, f"{c_format(state.name)}: dim {axis} must be {wanted} = %lld, found %lld"
                    )
                self.emit(f"memcpy({self.storage.place(state)}, {spare}.data, (size_t)optc_bytes(&{spare}));")
                self.emit(f"optc_release(context, {spare}.data);")
            else:
                self.copy(state, result, set())
        for state in heap:  # only now: the results' dims may be those of the turn that ends
            self.bind_dims(state, self.heap_dims(state), own[state])

    def finish_states(self, outputs: Sequence[Value], states: Sequence[Value]) -> None:
        """The node's results := the states."""
        for out, state in zip(outputs, states, strict=True):
            own = self.unbound([out])
            if self.storage.root(out) is not self.storage.root(state):
                self.copy(out, state, own)
            elif self.storage.is_heap(out):
                self.bind_dims(out, self.heap_dims(out), own)

    # --- Loop ------------------------------------------------------------------------------------------------------

    def write_loop(self, step: Loop) -> None:
        node, body = step.node, step.body
        states = body.inputs[2:]
        pieces = body.outputs[1 + len(states) :]
        collected = node.outputs[len(states) :]
        own = self.start_states(states, node.inputs[2:])
        self.host_turn()
        count, limit, going = self.fresh("n"), self.fresh("n"), self.fresh("go")
        self.emit(f"int64_t {count} = 0;")
        self.emit(f"const int64_t {limit} = {self.scalar(node.input(0), 'int64_t') or 'INT64_MAX'};")
        self.emit(f"int {going} = {self.scalar(node.input(1), 'uint8_t') or '1'};")
        growing = {v: self.start_gathering(v, p) for v, p in zip(collected, pieces, strict=True) if self.grows(v)}
        before = set(self.bound)
        self.emit(f"for (; {count} < {limit} && {going}; {count}++) {{")
        self.indent += 1
        self.emit(f"*(int64_t*){self.storage.place(body.inputs[0])} = {count};")
        self.emit(f"*(uint8_t*){self.storage.place(body.inputs[1])} = 1;")
        self.write_steps(step.steps)
        self.host_turn()
        self.emit(f"{going} = {self.scalar(body.outputs[0], 'uint8_t')};")
        for value, piece in zip(collected, pieces, strict=True):
            if value in growing:
                name = growing[value]
                self.attempt(f"optc_append(context, &{name}, &{name}_capacity, {self.tensor(piece)})")
            else:
                self.place_piece(value, piece, count)
        self.carry(states, body.outputs[1 : 1 + len(states)], own)
        self.indent -= 1
        self.emit("}")
        self.bound = before
        self.finish_states(node.outputs[: len(states)], states)
        for value, name in growing.items():
            self.finish_gathering(value, name)

    def scalar(self, value: Value | None, ctype: str) -> str | None:
        """The only element of a tensor, None if it is omitted."""
        return None if value is None else f"*(const {ctype}*){self.storage.place(value)}"

    def attempt(self, call: str) -> None:
        """A call whose status, if not 0, is returned."""
        status = self.fresh("e")
        self.emit(f"const int32_t {status} = {call};")
        self.emit(f"if ({status}) return {status};")

    # --- scan outputs ----------------------------------------------------------------------------------------------

    def grows(self, value: Value) -> bool:
        """A scan output whose size is not known before the loop."""
        return self.storage.is_heap(value)

    def start_gathering(self, value: Value, piece: Value) -> str:
        """An empty tensor variable, whose dims (if no turn comes) are 0 where only a turn would tell them."""
        name = self.fresh("all")
        dims = ["0"] + [c_dim(d) if free_symbols([d]) <= self.bound else "0" for d in piece.type.dims]
        self.emit(
            f"optc_tensor {name} = {{0, {value.type.dtype.value}, {len(dims)}, {{{joined(dims)}}}}}; "
            f"int64_t {name}_capacity = 0; (void){name}_capacity;"
        )
        return name

    def finish_gathering(self, value: Value, name: str) -> None:
        target = self.heap(value)
        self.emit(f"if ({target}.data) optc_release(context, {target}.data);")
        self.emit(f"if (!{name}.data && !({name}.data = optc_alloc(context, 0))) return OPTC_OUT_OF_MEMORY;")
        self.emit(f"{target} = {name};")
        self.bind_dims(value, self.heap_dims(value))

    def place_piece(self, value: Value, piece: Value, at: str) -> None:
        """Copies what turn `at` made into a scan output of known size."""
        for wanted, found in zip(value.type.dims[1:], piece.type.dims, strict=True):
            self.require(wanted, found, f"{c_format(value.name)}: a turn's result must have a dim of %lld, found %lld")
        size = c_dim(piece.type.numel * piece.type.dtype.itemsize)
        self.emit(
            f"if ({size}) memcpy({self.storage.place(value)} + {at} * {size}, {self.storage.place(piece)}, "
            f"(size_t){size});"
        )

    # --- Scan ------------------------------------------------------------------------------------------------------

    def write_scan(self, step: Scan) -> None:
        """Scan axes are 0 here (see passes/scan_axes.py)."""
        node, body = step.node, step.body
        num_scan = num_scan_inputs(node)
        num_states = len(body.inputs) - num_scan
        states, slices = body.inputs[:num_states], body.inputs[num_states:]
        sources = [v for v in node.inputs[num_states:] if v is not None]
        collected, pieces = node.outputs[num_states:], body.outputs[num_states:]
        own = self.start_states(states, node.inputs[:num_states])
        count, total = self.fresh("n"), self.fresh("n")
        self.emit(f"const int64_t {total} = {c_dim(sources[0].type.dims[0])};")
        for source in sources[1:]:
            self.require(
                sources[0].type.dims[0],
                source.type.dims[0],
                f"{c_format(node.name)}: scan inputs have %lld and %lld elements",
            )
        growing = {v: self.start_gathering(v, p) for v, p in zip(collected, pieces, strict=True) if self.grows(v)}
        for name in growing.values():
            self.emit(f"{name}.shape[0] = {total};")
        before = set(self.bound)
        self.emit(f"for (int64_t {count} = 0; {count} < {total}; {count}++) {{")
        self.indent += 1
        self.host_turn()
        turns = {False: count, True: f"({total} - 1 - {count})"}
        for value, source, backward in zip(
            slices, sources, _flags(node, "scan_input_directions", num_scan), strict=True
        ):
            size = c_dim(value.type.numel * value.type.dtype.itemsize)
            place, origin = self.storage.place(value), self.storage.place(source)
            self.emit(f"if ({size}) memcpy({place}, {origin} + {turns[backward]} * {size}, (size_t){size});")
        self.write_steps(step.steps)
        self.host_turn()
        directions = _flags(node, "scan_output_directions", len(pieces))
        for value, piece, backward in zip(collected, pieces, directions, strict=True):
            if value in growing:
                name = growing[value]
                self.attempt(f"optc_place(context, &{name}, {count} == 0, {turns[backward]}, {self.tensor(piece)})")
            else:
                self.place_piece(value, piece, turns[backward])
        self.carry(states, body.outputs[:num_states], own)
        self.indent -= 1
        self.emit("}")
        self.bound = before
        self.finish_states(node.outputs[:num_states], states)
        for value, name in growing.items():
            self.finish_gathering(value, name)


def _flags(node: Any, attribute: str, count: int) -> list[bool]:
    value = node.attrs.get(attribute)
    return [bool(v) for v in value] if value is not None else [False] * count
