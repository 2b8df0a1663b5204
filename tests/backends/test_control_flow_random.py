"""Random programs of nested If and Loop over vectors whose lengths data decides, against ONNX Runtime."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnxruntime as ort
import optc
import pytest

CONSTANTS = {
    "first": "int64[1] {0}", "cap": "int64[1] {7}", "minus": "int64[1] {-1}", "zero": "float[1] {0.1}",
    "level": "float {0.3}", "one": "float[1] {1.0}", "go": "bool {1}",
}  # fmt: skip


class Programs:
    """Writes nodes in the text form of onnx; every value is a vector of any length but 0."""

    def __init__(self, seed: int) -> None:
        self.random, self.count = random.Random(seed), 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def block(self, values: list[str], depth: int, length: int) -> tuple[list[str], list[str]]:
        """Lines, and the values that may be read after them."""
        lines, values = [], list(values)
        for _ in range(length):
            kinds = [self.pointwise, self.joined, self.compressed] + [self.branches, self.loop] * (depth < 2)
            more, made = self.random.choice(kinds)(values, depth)
            lines += more
            values += made
        return lines, values

    def pointwise(self, values: list[str], depth: int) -> tuple[list[str], list[str]]:
        source, mean, out = self.random.choice(values), self.name(), self.name()
        op = self.random.choice(["Mul", "Add", "Sub"])
        return [
            f"{mean} = ReduceMean<keepdims = 1>({source})",
            f"{out} = {op}({self.random.choice(values)}, {mean})",
        ], [out]

    def joined(self, values: list[str], depth: int) -> tuple[list[str], list[str]]:
        both, out = self.name(), self.name()
        a, b = self.random.choice(values), self.random.choice(values)
        return [f"{both} = Concat<axis = 0>({a}, {b})", f"{out} = Slice({both}, first, cap, first)"], [out]

    def compressed(self, values: list[str], depth: int) -> tuple[list[str], list[str]]:
        source, mask, kept, out = self.random.choice(values), self.name(), self.name(), self.name()
        lines = [f"{mask} = Greater({source}, zero)", f"{kept} = Compress<axis = 0>({source}, {mask})"]
        return [*lines, f"{out} = Concat<axis = 0>({kept}, one)"], [out]

    def results(self, values: list[str], count: int) -> tuple[list[str], list[str], str]:
        """Lines that make results of a body, their names, and their declaration."""
        names = [self.name() for _ in range(count)]
        lines = [f"{n} = Identity({self.random.choice(values)})" for n in names]
        return lines, names, self.declared(names)

    def declared(self, names: list[str]) -> str:
        return ", ".join(f"float[d{self.name()}] {n}" for n in names)

    def branches(self, values: list[str], depth: int) -> tuple[list[str], list[str]]:
        count, top, condition = self.random.randint(1, 2), self.name(), self.name()
        lines = [
            f"{top} = ReduceMax<keepdims = 0>({self.random.choice(values)})",
            f"{condition} = Greater({top}, level)",
        ]
        bodies = []
        for key in ("then_branch", "else_branch"):
            inner, inside = self.block(values, depth + 1, self.random.randint(0, 3))
            copies, _, declared = self.results(inside, count)
            bodies.append(f"{key} = {self.name()} () => ({declared}) {{ {' '.join(inner + copies)} }}")
        outs = [self.name() for _ in range(count)]
        return [*lines, f"{', '.join(outs)} = If({condition}) <{', '.join(bodies)}>"], outs

    def loop(self, values: list[str], depth: int) -> tuple[list[str], list[str]]:
        count = self.random.randint(1, 3)
        states, outs = [self.name() for _ in range(count)], [self.name() for _ in range(count)]
        turn, given, goes, piece, pieces, flat, safe = (self.name() for _ in range(7))
        inner, inside = self.block(values + states, depth + 1, self.random.randint(1, 3))
        copies, _, declared = self.results(inside + 2 * states, count)
        inner += [*copies, f"{goes} = Identity({given})"]
        inner.append(f"{piece} = ReduceMean<keepdims = 1>({self.random.choice(inside)})")
        body = (
            f"body = {self.name()} (int64 {turn}, bool {given}, {self.declared(states)}) => "
            f"(bool {goes}, {declared}, float[1] {piece}) {{ {' '.join(inner)} }}"
        )
        initial = ", ".join(self.random.choice(values) for _ in states)
        lines = [f"{', '.join(outs)}, {pieces} = Loop(n, go, {initial}) <{body}>", f"{flat} = Reshape({pieces}, minus)"]
        return [*lines, f"{safe} = Concat<axis = 0>({flat}, one)"], [*outs, safe]

    def program(self) -> str:
        lines, values = self.block(["x", "z"], 0, self.random.randint(3, 6))
        copies, _, declared = self.results(values[-4:], 3)
        constants = [f"{name} = Constant<value = {value}>()" for name, value in CONSTANTS.items()]
        return (
            '<ir_version: 9, opset_import: ["": 20]>\n'
            f"g (int64 n, float[N] x, float[M] z) => ({declared}) {{ {' '.join(constants + lines + copies)} }}"
        )


@pytest.mark.parametrize("seed", range(6))
def test_a_random_program(seed: int) -> None:
    proto = onnx.parser.parse_model(Programs(seed).program())
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    model = optc.compile(proto, threads=1, cache=False)
    rng = np.random.default_rng(seed)
    for turns, a, b in ((3, 5, 2), (0, 1, 1), (1, 4, 9)):
        feed = {"n": np.array(turns, np.int64)}
        feed |= {name: rng.standard_normal(size, dtype=np.float32) for name, size in (("x", a), ("z", b))}
        found = model.run(feed)
        for output, expected in zip(session.get_outputs(), session.run(None, feed), strict=True):
            assert found[output.name].shape == expected.shape
            np.testing.assert_allclose(found[output.name], expected, rtol=1e-4, atol=1e-5)
