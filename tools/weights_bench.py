"""What compressed weights bring: time of single products and of whole models, size of the artifact, and accuracy.

    python -m optc.tools.weights_bench [--models minilm-l3] [--specs int8,int4] [-o docs/benchmarks-weights.md]

All on one thread, in its CPU time, so that other work on the machine counts little. Products stand beside optc's own
float product and ONNX Runtime's MatMul and MatMulNBits (4 bits in blocks of 32, at accuracy levels 0 and 4: the faster
one counts). A ratio is the median of rounds in which both ran, optc's time over the other's; times are the best seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from onnx import helper

from ..backends.jit import jit
from ..backends.kernels import matmul
from ..backends.kernels.packed import product
from ..backends.target import Target
from ..compiler.driver import compile as compile_model
from ..models import get
from ..passes.quantization.weights import parse_spec, quantize
from .bench_kernels import aligned, compare, session

PRODUCTS = ((1, 4096, 4096), (4, 4096, 4096), (16, 3072, 768), (128, 3072, 768), (128, 768, 3072))
"""Rows, columns and depth."""
FORMATS = ("int8", "int4", "codebook4", "linear3")
SPECS = ("int8", "int4", "int4:tables=int4", "int4:zeros", "codebook4", "nf4", "log4", "linear3")
_BLOCK = 32
Call = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default="minilm-l3")
    parser.add_argument("--specs", default=",".join(SPECS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    lines = ["# Compressed weights", "", (__doc__ or "").partition("\n\n")[2].strip("\n"), ""]
    for line in _report(options.models.split(","), options.specs.split(","), options.rounds):
        print(line, flush=True)
        lines.append(line)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n")


def _report(models: list[str], specs: list[str], rounds: int) -> Iterator[str]:
    yield "| product | format | us | / optc float | / ONNX Runtime float | / MatMulNBits |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for m, n, k in PRODUCTS:
        for format in FORMATS:
            yield f"| {m} x {k} x {n} | {format} | {' | '.join(_product(m, n, k, format, rounds))} |"
    yield ""
    yield "| model | weights | artifact MB | metric | ms | / float |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name in models:
        yield from _model(name, specs, rounds)


def _product(m: int, n: int, k: int, format: str, rounds: int) -> Iterator[str]:
    """Time of a product with weights in a format, and its ratios to the three others."""
    rng, target = np.random.default_rng(0), Target.host()
    a = aligned(rng.standard_normal((m, k), dtype="float32"))
    w = aligned(rng.standard_normal((k, n), dtype="float32"))
    spec = matmul.MatmulSpec(m, n, k)
    plan = next(matmul.plans(spec, target))
    kernel = jit({"f": matmul.build(spec, plan)}, target)["f"]
    peers: list[tuple[Call, ...]] = [
        (kernel.bind(a, aligned(matmul.pack_weights(w, spec, plan)), _output(m, n)),),
        (session(helper.make_node("MatMul", ["a", "b"], ["y"]), {"a": a}, {"b": w}, 1),),
        (_n_bits(a, n, 0), _n_bits(a, n, 4)),
    ]
    ours = _packed(a, w, format, target)
    found = [[compare(ours, peer, rounds, time.thread_time) for peer in same] for same in peers]
    yield f"{min(us for same in found for _, us, _ in same):.0f}"
    for same in found:
        yield f"{max(ratio for ratio, *_ in same):.2f}"


def _output(m: int, n: int) -> np.ndarray:
    return aligned(np.empty((m, n), "float32"))


def _packed(a: np.ndarray, w: np.ndarray, format: str, target: Target) -> Call:
    (m, k), n, packed = a.shape, w.shape[1], quantize(w, parse_spec(format).format)
    spec = product.PackedSpec((m,), n, k, packed.bits, packed.block, packed.codebook is not None, "bfloat16")
    plan = next(product.plans(spec, target))
    arrays = product.pack(spec, plan, packed.codes, packed.scales, packed.codebook, packed.zeros)
    return jit({"f": product.build(spec, plan)}, target)["f"].bind(a, *map(aligned, arrays), _output(m, n))


def _n_bits(a: np.ndarray, n: int, level: int) -> Call:
    """ONNX Runtime's product with 4-bit weights; at accuracy level 4 it computes in int8."""
    rng, k = np.random.default_rng(0), a.shape[1]
    codes = rng.integers(0, 256, (n, k // _BLOCK, _BLOCK // 2)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (n, k // _BLOCK)).astype(np.float32)
    node = helper.make_node(
        "MatMulNBits", ["a", "b", "s"], ["y"], domain="com.microsoft",
        K=k, N=n, bits=4, block_size=_BLOCK, accuracy_level=level,
    )  # fmt: skip
    return session(node, {"a": a}, {"b": codes, "s": scales}, 1)


def _model(name: str, specs: list[str], rounds: int) -> Iterator[str]:
    """A row a spec; the float model first."""
    zoo = get(name)
    inputs = zoo.inputs()
    plain = compile_model(zoo.path(), threads=1)
    for spec in ["", *specs]:
        model = compile_model(zoo.path(), threads=1, weights=spec or None)
        ours, theirs = partial(model.run, inputs), partial(plain.run, inputs)
        ratio, us, _ = compare(ours, theirs, rounds, time.thread_time)
        size = sum(entry["bytes"] for entry in model.manifest["members"].values()) / 1e6
        metric = "" if zoo.metric is None else f"{zoo.metric.evaluate(model.run).value:.4f}"
        yield f"| {name} | {spec or 'float'} | {size:.2f} | {metric} | {us / 1e3:.2f} | {ratio:.2f} |"


if __name__ == "__main__":
    main()
