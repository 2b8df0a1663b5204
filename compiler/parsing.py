"""Text to graph. The format is described in text.py."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import ModelError
from .ir import Attr, Graph, Node, Value
from .ops.base import OPS, infer_node, op_of
from .printing import BARE_NAME
from .types import DType, TensorType, parse_dim

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_NUMBER = r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+|inf\b|nan\b)"
_DTYPE = r"(?:" + "|".join(d.text for d in DType) + r")\b"
_UNKNOWN = TensorType(DType.F32, None)


def parse_graph(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """Reads what print_graph wrote, or what a test wrote by hand.

    `constants` gives the arrays of constants written as a hash, by value name. Raises ModelError naming the line if
    the text is malformed, and ShapeError if a result type is left out and cannot be inferred.
    """
    parser = _Parser(text, constants or {})
    graph = parser.graph({}, None)
    parser.expect(r"\Z", "the end of the text")
    return graph


class _Parser:
    def __init__(self, text: str, constants: Mapping[str, np.ndarray]) -> None:
        self.text, self.pos, self.constants = text, 0, constants

    # --- tokens --------------------------------------------------------------------------------------------------

    def accept(self, pattern: str) -> str | None:
        """The text that matches here, blanks and comments skipped; None if none does."""
        skipped = re.compile(r"(?:\s|#[^\n]*)*").match(self.text, self.pos)
        start = skipped.end() if skipped else self.pos
        found = re.compile(pattern).match(self.text, start)
        if found is None:
            return None
        self.pos = found.end()
        return found.group()

    def expect(self, pattern: str, what: str) -> str:
        found = self.accept(pattern)
        if found is None:
            rest = self.text[self.pos :]
            self.pos += len(rest) - len(rest.lstrip())
            raise self.error(f"expected {what}")
        return found

    def error(self, message: str) -> ModelError:
        line = self.text.count("\n", 0, self.pos) + 1
        lines = self.text.splitlines() or [""]
        shown = lines[min(line, len(lines)) - 1].strip()
        return ModelError(f"graph text, line {line}: {message}", found=shown)

    def name(self) -> str:
        text = self.expect(rf"{_STRING}|{BARE_NAME}", "a name")
        return json.loads(text) if text.startswith('"') else text

    # --- graphs --------------------------------------------------------------------------------------------------

    def graph(self, outer: dict[str, Value], root: Graph | None) -> Graph:
        self.expect(r"graph\b", "'graph'")
        graph = Graph(self.name())
        root = root or graph
        scope = dict(outer)
        self.expect(r"\(", "'('")
        while not self.accept(r"\)"):
            value = self.result(root, scope)
            if value.type is _UNKNOWN:
                raise self.error(f"input %{value.name} needs a type")
            graph.inputs.append(value)
            self.accept(",")
        self.expect(r"\{", "'{'")
        while not self.accept(r"return\b"):
            self.statement(graph, root, scope)
        outputs: list[Value] = []
        names: list[str] = []
        while not self.accept(r"\}"):
            outputs.append(self.operand(scope))
            names.append(self.name() if self.accept(r"as\b") else outputs[-1].name)
            self.accept(",")
        graph.set_outputs(outputs, names)
        return graph

    def result(self, root: Graph, scope: dict[str, Value]) -> Value:
        self.expect("%", "'%name'")
        name = self.name()
        if name in root._names:
            raise self.error(f"%{name} is defined twice")
        value = Value(root.fresh_name(name), self.type() if self.accept(":") else _UNKNOWN)
        scope[name] = value
        return value

    def operand(self, scope: dict[str, Value]) -> Value:
        self.expect("%", "'%name'")
        name = self.name()
        if name not in scope:
            raise self.error(f"%{name} is not defined here")
        return scope[name]

    def statement(self, graph: Graph, root: Graph, scope: dict[str, Value]) -> None:
        results: dict[str, Value] = {}
        visible = dict(scope)
        while True:
            value = self.result(root, results)
            if not self.accept(","):
                break
        self.expect("=", "'='")
        if self.accept(r"const\b"):
            if len(results) != 1:
                raise self.error("a const has one result")
            self.const(value)
        else:
            self.node(graph, root, visible, list(results.values()))
        scope.update(results)

    def node(self, graph: Graph, root: Graph, scope: dict[str, Value], results: list[Value]) -> None:
        op = self.expect(r"[A-Za-z][\w.\-]*", "an op")
        self.expect(r"\(", "'('")
        inputs: list[Value | None] = []
        while not self.accept(r"\)"):
            inputs.append(None if self.accept(r"_(?![\w.])") else self.operand(scope))
            self.accept(",")
        attrs: dict[str, Attr] = {}
        if self.accept(r"\{"):
            while not self.accept(r"\}"):
                key = self.expect(r"\w+", "an attribute's name")
                self.expect("=", "'='")
                attrs[key] = self.attr(root, scope)
                self.accept(",")
        declared = [v.type for v in results]
        node = graph.insert(Node(op, inputs, results, attrs))
        if any(t is _UNKNOWN for t in declared):
            infer_node(node)
            for value, type in zip(results, declared, strict=True):
                value.type = value.type if type is _UNKNOWN else type
        elif op_of(node) is not OPS["optc.Unknown"]:
            results[0].content = op_of(node).content(node)

    # --- types, attributes, constants ----------------------------------------------------------------------------

    def type(self) -> TensorType:
        dtype = DType.from_text(self.expect(_DTYPE, "an element type such as f32"))
        self.expect(r"\[", "'['")
        if self.accept(r"\*\s*\]"):
            return TensorType(dtype, None)
        start, depth, dims, closed = self.pos, 0, [], False
        while not closed:
            char = self.text[self.pos : self.pos + 1]
            if not char:
                raise self.error("expected ']'")
            depth += (char == "(") - (char == ")")
            closed = depth == 0 and char == "]"
            if closed or (depth == 0 and char == ","):
                dims.append(self.text[start : self.pos])
                start = self.pos + 1
            self.pos += 1
        if len(dims) == 1 and not dims[0].strip():
            return TensorType(dtype, ())
        try:
            return TensorType(dtype, tuple(parse_dim(d) for d in dims))
        except ValueError as error:
            raise self.error(str(error)) from error

    def attr(self, root: Graph, scope: dict[str, Value]) -> Attr:
        if self.accept(r"(?=graph\b)") is not None:
            return self.graph(scope, root)
        if self.accept(r"\["):
            items = []
            while not self.accept(r"\]"):
                items.append(self.attr(root, scope))
                self.accept(",")
            return tuple(items)
        if self.accept(rf"(?={_DTYPE}\s*\[)") is not None:
            return self.array(self.type())
        dtype = self.accept(_DTYPE)
        if dtype:
            return DType.from_text(dtype)
        if self.accept(r'b(?=")'):
            return str(json.loads(self.expect(_STRING, "a string"))).encode("latin-1")
        literal: Attr = self.scalar()
        return literal

    def scalar(self) -> Any:
        """A string, int, float, true or false."""
        text = self.accept(_STRING)
        if text is not None:
            return json.loads(text)
        flag = self.accept(r"(?:true|false)\b")
        if flag:
            return flag == "true"
        number = self.expect(_NUMBER, "a value")
        return int(number) if re.fullmatch(r"[+-]?\d+", number) else float(number)

    def const(self, value: Value) -> None:
        given = self.accept(r"<[0-9a-f]+>")
        if given:
            if value.name not in self.constants:
                raise self.error(f"the elements of %{value.name} are not in the text: pass `constants`")
            array = self.constants[value.name]
        else:
            array = self.array(None if value.type is _UNKNOWN else value.type)
        like = Graph().constant(array)
        value.data, value.content, value.type = array, like.content, like.type

    def array(self, type: TensorType | None) -> np.ndarray:
        """The elements of a constant of this type: a literal, a scalar for all, or random(seed), zeros, ones, iota."""
        maker = self.accept(r"(?:random|base64|zeros|ones|iota)\b")
        if maker is None:
            return self.literal(type)
        if type is None or not type.is_static:
            raise self.error(f"const {maker} needs a static type")
        shape, dtype = type.static_shape, type.dtype.numpy
        array: np.ndarray
        if maker in ("zeros", "ones"):
            array = np.full(shape, maker == "ones", dtype)
        elif maker == "iota":
            array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        else:
            self.expect(r"\(", "'('")
            argument = self.scalar()
            self.expect(r"\)", "')'")
            if maker == "random":
                return random_array(type, int(argument))
            array = np.frombuffer(base64.b64decode(argument), dtype).reshape(shape)
        return array

    def literal(self, type: TensorType | None) -> np.ndarray:
        def nested() -> Any:
            if not self.accept(r"\["):
                return self.scalar()
            items = []
            while not self.accept(r"\]"):
                items.append(nested())
                self.accept(",")
            return items

        elements = nested()
        if type is None:
            array = np.array(elements)
            return array.astype(np.float32) if array.dtype == np.float64 else array
        array = np.array(elements, type.dtype.numpy)
        shape = type.static_shape
        try:
            return array.reshape(shape) if array.ndim else np.full(shape, array)
        except ValueError as error:
            raise self.error(f"{array.size} elements do not make {type}") from error


def random_array(type: TensorType, seed: int) -> np.ndarray:
    """Reproducible elements of a static type: standard normal floats, integers in [-8, 8) or [0, 16), fair bools."""
    rng = np.random.default_rng(seed)
    shape, dtype = type.static_shape, type.dtype
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_int:
        low = -8 if dtype.is_signed_int else 0
        return rng.integers(low, low + 16, shape).astype(dtype.numpy)
    return np.asarray(rng.standard_normal(shape)).astype(dtype.numpy)
