"""Runs the node tests of `onnx.backend.test`, and its light models, through optc: `python -m optc.tools.conformance`.

A test counts if its inputs and outputs are plain tensors and its ops are ai.onnx's; every other one gets a reason.
Tests run in worker processes with a time limit each, so that a crash is one failure and not the end. Results are
compared as ONNX's own runner does, with the tolerances that the tests carry.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import re
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

# One set of arrays in, one set out; by position.
Arrays = list[np.ndarray]
Engine = Callable[[ModelProto], Callable[[Arrays], Arrays]]

_PLAIN = frozenset({
    "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32",
    "UINT64", "COMPLEX64", "COMPLEX128",
})  # fmt: skip
_RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
_BF16_RTOL = 2.0**-6  # two ulps of bfloat16, as ONNX's own runner has it
_TIME_LIMIT = 60.0  # seconds a test


@dataclass(frozen=True)
class Case:
    """One test. `excluded` is why it does not count, or None. `load` gives the model and pairs of inputs, outputs."""

    name: str
    op: str
    excluded: str | None
    rtol: float
    atol: float
    load: Callable[[], tuple[ModelProto, list[tuple[Arrays, Arrays]]]]


@dataclass(frozen=True)
class Result:
    """How a test went; `error` is the first line of what went wrong, None if it passed."""

    case: Case
    error: str | None
    seconds: float


# --- collecting ----------------------------------------------------------------------------------------------------


@functools.cache
def node_cases() -> tuple[Case, ...]:
    """All node tests, by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    cases = [
        Case(t.name, _op_of(t.name, t.model), exclusion(t.model), t.rtol, t.atol, functools.partial(_load_node, t))
        for t in tests
        if t.model is not None
    ]
    return tuple(sorted(cases, key=lambda c: c.name))


def light_cases() -> tuple[Case, ...]:
    """The light_* models that onnx ships: whole classics with small weights and their expected outputs."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    tests = {t.model_name: t for t in load_model_tests(kind="real")}
    cases = []
    for path in sorted(folder.glob("light_*.onnx")):
        test = next((t for name, t in tests.items() if path.stem.removeprefix("light_") in name), None)
        rtol, atol = (test.rtol, test.atol) if test else (1e-3, 1e-7)
        cases.append(Case(path.stem, "light models", None, rtol, atol, functools.partial(_load_light, path)))
    return tuple(cases)


def exclusion(model: ModelProto) -> str | None:
    """Why this model is out of scope, or None if it counts."""
    values = (*model.graph.input, *model.graph.output)
    kinds = {_kind(v) for v in values}
    domains = {o.domain for o in model.opset_import} | {n.domain for n in model.graph.node}
    ops = {n.op_type for n in model.graph.node}
    for found, reason in (
        ("sequence_type" in kinds, "sequence inputs or outputs"),
        ("optional_type" in kinds, "optional inputs or outputs"),
        ("STRING" in kinds, "string tensors"),
        (any(k.startswith("FLOAT8") for k in kinds), "fp8 tensors"),
        (any(re.fullmatch(r"(U?INT[24]|FLOAT4\w+)", k) for k in kinds), "2- or 4-bit tensors"),
        (any("preview" in d for d in domains), "ai.onnx.preview domain"),
        (any("ml" in d for d in domains), "ai.onnx.ml domain"),
        (bool(ops & _RANDOM), "random generator"),
        (not kinds <= _PLAIN, "no plain tensors"),
    ):
        if found:
            return reason
    return None


def _kind(value: onnx.ValueInfoProto) -> str:
    which = value.type.WhichOneof("value")
    return TensorProto.DataType.Name(value.type.tensor_type.elem_type) if which == "tensor_type" else str(which)


def _op_of(name: str, model: ModelProto) -> str:
    ops = list(dict.fromkeys(n.op_type for n in model.graph.node if n.op_type != "Constant"))
    if "_expanded" in name:
        return "(expanded functions)"
    return ops[0] if len(ops) == 1 else "(several)" if ops else "Constant"


def _load_node(test: Any) -> tuple[ModelProto, list[tuple[Arrays, Arrays]]]:
    return test.model, [([*map(_array, given)], [*map(_array, wanted)]) for given, wanted in test.data_sets]


def _load_light(path: Path) -> tuple[ModelProto, list[tuple[Arrays, Arrays]]]:
    """The inputs are ONNX's own dummy data: a ramp from 0 to 1."""
    model = onnx.load(path)
    known = {i.name for i in model.graph.initializer}
    shapes = [
        tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in model.graph.input if v.name not in known
    ]
    given = [(np.arange(np.prod(s)).reshape(s) / np.prod(s)).astype(np.float32) for s in shapes]
    wanted = []
    for index in range(len(model.graph.output)):
        proto = TensorProto()
        proto.ParseFromString(path.with_name(f"{path.stem}_output_{index}.pb").read_bytes())
        wanted.append(numpy_helper.to_array(proto))
    return model, [(given, wanted)]


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


# --- engines -------------------------------------------------------------------------------------------------------


def optc_engine(model: ModelProto, target: str = "cpu") -> Callable[[Arrays], Arrays]:
    """The public path: compile, then run by name."""
    from ..compiler.driver import compile

    compiled = compile(model, target=target, threads=1, cache=False)
    names = [v.name for v in compiled.inputs]
    return lambda arrays: list(compiled.run(dict(zip(names, arrays, strict=True))).values())


def onnxruntime_engine(model: ModelProto) -> Callable[[Arrays], Arrays]:
    """ONNX Runtime on the CPU, for comparison."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [v.name for v in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


ENGINES: dict[str, Engine] = {"optc": optc_engine, "onnxruntime": onnxruntime_engine}


def check(case: Case, engine: Engine) -> None:
    """Runs one test. Raises AssertionError where a result differs, or what the engine raises."""
    model, data_sets = case.load()
    run = engine(model)
    for given, wanted in data_sets:
        results = run(given)
        assert len(results) == len(wanted), f"{len(results)} outputs, expected {len(wanted)}"
        for index, (result, expected) in enumerate(zip(results, wanted, strict=True)):
            _compare(f"output {index}", result, expected, case.rtol, case.atol)


def _compare(name: str, result: np.ndarray, expected: np.ndarray, rtol: float, atol: float) -> None:
    assert result.shape == expected.shape, f"{name}: shape {result.shape}, expected {expected.shape}"
    assert result.dtype == expected.dtype, f"{name}: dtype {result.dtype}, expected {expected.dtype}"
    if expected.dtype.name == "bfloat16":
        rtol = max(rtol, _BF16_RTOL)
        result, expected = result.astype(np.float32), expected.astype(np.float32)
    close = np.isclose(result, expected, rtol=rtol, atol=atol, equal_nan=True)
    if not close.all():
        at = tuple(int(i) for i in np.argwhere(~close)[0])
        share = f"{int((~close).sum())} of {close.size}"
        raise AssertionError(f"{name}: {share} elements differ, at {at} {result[at]}, expected {expected[at]}")


# --- running -------------------------------------------------------------------------------------------------------


class _Worker:
    """A process that runs one test after another; this side sends indices and receives first lines of errors."""

    def __init__(self, cases: Sequence[Case], engine: str) -> None:
        context = multiprocessing.get_context("fork")  # the cases, once collected, need not be sent
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, cases, ENGINES[engine]), daemon=True)
        self.process.start()
        other.close()
        self.case: Case | None = None
        self.started = 0.0

    def begin(self, index: int, case: Case) -> None:
        self.case, self.started = case, time.monotonic()
        self.connection.send(index)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, cases: Sequence[Case], engine: Engine) -> None:
    with contextlib.suppress(EOFError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while True:
            case = cases[connection.recv()]
            try:
                check(case, engine)
                error = None
            except Exception as raised:  # a failed test is a result, whatever it raised
                lines = str(raised).strip().splitlines() or [""]
                first = " ".join(map(str.strip, lines[: 2 if lines[0].endswith(":") else 1]))
                error = f"{type(raised).__name__}: {first}"
            connection.send(error)


def run_cases(cases: Sequence[Case], engine: str, jobs: int, time_limit: float = _TIME_LIMIT) -> Iterator[Result]:
    """Results as they come, in no order. A worker that dies or exceeds `time_limit` seconds fails its test."""
    waiting = iter(enumerate(cases))
    workers: list[_Worker] = []

    def feed(worker: _Worker | None) -> None:
        following = next(waiting, None)
        if following is None:
            if worker:
                worker.stop()
            return
        worker = worker or _Worker(cases, engine)
        worker.begin(*following)
        workers.append(worker)

    for _ in range(jobs):
        feed(None)
    while workers:
        ready = wait([w.connection for w in workers], timeout=1.0)
        for worker in list(workers):
            spent = time.monotonic() - worker.started
            if worker.connection not in ready and spent < time_limit:
                continue
            assert worker.case is not None
            workers.remove(worker)
            alive = worker.connection in ready
            try:
                error = worker.connection.recv() if alive else f"no result after {time_limit:g} seconds"
            except EOFError:
                alive = False
                worker.process.join()
                error = _death(worker.process.exitcode or 0)
            if not alive:
                worker.stop()
            yield Result(worker.case, error, spent)
            feed(worker if alive else None)


def _death(code: int) -> str:
    return f"the process died of {signal.Signals(-code).name}" if code < 0 else f"the process ended with status {code}"


# --- reporting -----------------------------------------------------------------------------------------------------


def _table(results: Iterable[Result]) -> list[tuple[str, int, int]]:
    """Rows (op, passed, all), by op."""
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for result in results:
        total[result.case.op] += 1
        passed[result.case.op] += result.error is None
    return [(op, passed[op], total[op]) for op in sorted(total)]


def _share(passed: int, total: int) -> str:
    return f"{passed} of {total} ({100 * passed / max(total, 1):.1f}%)"


def text_report(results: Sequence[Result]) -> str:
    """Failures grouped by op, then the count."""
    lines = []
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.error:
            groups[result.case.op].append(result)
    for op in sorted(groups):
        lines.append(f"{op}: {len(groups[op])} failed")
        lines += [f"  {r.case.name}: {r.error}" for r in sorted(groups[op], key=lambda r: r.case.name)]
    lines.append(_share(sum(r.error is None for r in results), len(results)) + " passed")
    return "\n".join(lines)


def markdown_report(results: Sequence[Result], excluded: Sequence[Case], engine: str) -> str:
    """The page for the docs."""
    nodes = [r for r in results if r.case.op != "light models"]
    light = [r for r in results if r.case.op == "light models"]
    lines = [
        "# Conformance",
        "",
        f"The node tests of `onnx.backend.test`, onnx {onnx.__version__}, run by `{engine}` on the target `cpu`, "
        "compared with the tolerances the tests carry. Made by `python -m optc.tools.conformance --markdown FILE`.",
        "",
        f"- Node tests on plain tensors: {_share(sum(r.error is None for r in nodes), len(nodes))} pass.",
        f"- Light models: {_share(sum(r.error is None for r in light), len(light))} pass.",
        f"- Not counted: {len(excluded)} node tests, for the reasons below.",
        "",
        "## By op",
        "",
        "| op | passed | tests |",
        "| --- | --- | --- |",
        *(f"| {op} | {passed} | {total} |" for op, passed, total in _table(results)),
        "",
        "## Failures",
        "",
        "| test | what happens |",
        "| --- | --- |",
        *(f"| {r.case.name} | {_cell(r.error)} |" for r in sorted(results, key=lambda r: r.case.name) if r.error),
        "",
        "## Not counted",
        "",
        "| test | reason |",
        "| --- | --- |",
        *(f"| {case.name} | {case.excluded} |" for case in excluded),
        "",
    ]
    return "\n".join(lines)


def _cell(error: str) -> str:
    return error.replace("|", "\\|")[:200]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 if every test passed, else 5."""
    parser = argparse.ArgumentParser(
        prog="python -m optc.tools.conformance", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--filter", metavar="RE", default="", help="only tests whose name matches")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="optc")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table as a page for the docs")
    options = parser.parse_args(arguments)
    pattern = re.compile(options.filter)
    cases = [c for c in (*node_cases(), *light_cases()) if pattern.search(c.name)]
    counted, excluded = [c for c in cases if not c.excluded], [c for c in cases if c.excluded]
    print(f"{len(counted)} tests; {len(excluded)} not counted:", flush=True)
    for reason, count in Counter(c.excluded for c in excluded).most_common():
        print(f"  {count} {reason}")
    results = []
    for result in run_cases(counted, options.engine, max(options.jobs, 1)):
        results.append(result)
        if result.error:
            print(f"{result.case.name}: {result.error}", file=sys.stderr, flush=True)
        if len(results) % 100 == 0:
            failed = sum(r.error is not None for r in results)
            print(f"{len(results)} of {len(counted)} run, {failed} failed", file=sys.stderr, flush=True)
    print(text_report(results))
    if options.markdown:
        options.markdown.write_text(markdown_report(results, excluded, options.engine), encoding="utf-8")
    return 0 if all(r.error is None for r in results) else 5


if __name__ == "__main__":
    sys.exit(main())
